//! What is called how at the place of backups. Everything of a cluster is below its id, so clusters
//! that share a place do not touch each other's.

use protocol::{BackupId, ClusterId, Digest, TenantId};
use raft::backup::Label;

pub(super) fn folder(cluster: ClusterId, backup: BackupId) -> String {
    format!("{cluster}/{backup}")
}

pub(super) fn manifest(cluster: ClusterId, backup: BackupId) -> String {
    format!("{cluster}/{backup}/manifest.json")
}

/// Why there is no manifest.
pub(super) fn failure(cluster: ClusterId, backup: BackupId) -> String {
    format!("{cluster}/{backup}/failure")
}

pub(super) fn group(Label { cluster, backup, group }: Label) -> String {
    format!("{cluster}/{backup}/group-{group}")
}

/// The names of the blobs of a group.
pub(super) fn list(Label { cluster, backup, group }: Label) -> String {
    format!("{cluster}/{backup}/blobs-{group}")
}

pub(super) fn blobs(cluster: ClusterId) -> String {
    format!("{cluster}/blobs")
}

/// Blobs are shared by all backups of a cluster.
pub(super) fn blob(cluster: ClusterId, tenant: TenantId, digest: Digest) -> String {
    format!("{cluster}/blobs/{tenant}/{digest}")
}
