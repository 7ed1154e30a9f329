//! Removes what no backup needs any more: old backups, what was left of those that came to no end, and
//! blobs that none of the kept ones names.

use std::collections::{BTreeMap, BTreeSet};

use protocol::nodes::Map;
use protocol::{BackupId, Digest, GroupId, TenantId};
use tracing::{info, warn};

use super::manifest::Manifest;
use super::names;
use super::source::{self, Source, SourceError};
use super::store::Store;

/// Whoever calls this makes the only backup that is being made, and that one is complete. With
/// `keep` 0 all complete ones are kept.
pub(super) async fn prune(store: &Store, map: &Map, keep: usize) -> Result<(), SourceError> {
    let cluster = map.cluster;
    let (mut complete, mut rubbish) = (Vec::new(), Vec::new());
    for backup in source::backups(store, cluster).await? {
        match store.size(&names::manifest(cluster, backup)).await? {
            Some(_) => complete.push(backup),
            None => rubbish.push(backup),
        }
    }
    let old = if keep == 0 { 0 } else { complete.len().saturating_sub(keep) };
    let kept = complete.split_off(old);
    for backup in complete.into_iter().chain(rubbish) {
        // The manifest first: what is half removed must not be taken for whole.
        store.remove(&names::manifest(cluster, backup)).await?;
        store.remove_folder(&names::folder(cluster, backup)).await?;
        info!(%backup, "backup removed");
    }
    sweep(store, map, &kept).await
}

async fn sweep(store: &Store, map: &Map, kept: &[BackupId]) -> Result<(), SourceError> {
    let cluster = map.cluster;
    let mut manifests = Vec::new();
    for &backup in kept {
        match source::manifest(store, cluster, backup).await {
            Ok(manifest) => manifests.push(manifest),
            Err(error) => {
                // What a damaged one needs is not known: nothing is removed while it is there.
                warn!(%backup, %error, "blobs of backups are not swept");
                return Ok(());
            }
        }
    }
    let mut tenants: BTreeMap<GroupId, Vec<TenantId>> = BTreeMap::new();
    for folder in store.folders(&names::blobs(cluster)).await? {
        let Ok(tenant) = TenantId::parse(&folder) else { continue };
        tenants.entry(map.shard_of(tenant)).or_default().push(tenant);
    }
    for (group, tenants) in tenants {
        let needed = needed(store, &manifests, group).await?;
        for tenant in tenants {
            sweep_tenant(store, map, tenant, &needed).await?;
        }
    }
    Ok(())
}

type Needed = BTreeSet<(TenantId, Digest)>;

/// What all kept backups need of one group.
async fn needed(
    store: &Store,
    manifests: &[Manifest],
    group: GroupId,
) -> Result<Needed, SourceError> {
    let mut needed = Needed::new();
    for manifest in manifests {
        let source = Source::new(store.clone(), manifest.clone());
        for of in manifest.groups.iter().filter(|of| of.group == group.0) {
            let listed = source.blobs(of).await?;
            needed.extend(listed.into_iter().map(|(tenant, digest, _)| (tenant, digest)));
        }
    }
    Ok(needed)
}

async fn sweep_tenant(
    store: &Store,
    map: &Map,
    tenant: TenantId,
    needed: &Needed,
) -> Result<(), SourceError> {
    let folder = format!("{}/{tenant}", names::blobs(map.cluster));
    let (mut removed, mut left) = (0, 0);
    for name in store.names(&folder).await? {
        let digest = Digest::parse(&name).ok();
        if digest.is_some_and(|digest| needed.contains(&(tenant, digest))) {
            left += 1;
            continue;
        }
        store.remove(&format!("{folder}/{name}")).await?;
        removed += 1;
    }
    if left == 0 {
        store.remove_folder(&folder).await?;
    }
    if removed > 0 {
        info!(%tenant, removed, "blobs of former backups removed");
    }
    Ok(())
}
