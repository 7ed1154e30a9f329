//! Artefacts: put into parts, brought together again, checked against their hash, unpacked.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::jobs::Blob;
use protocol::models::{Artefact, Version};
use protocol::{Digest, GroupId, TenantId};
use sha2::{Digest as _, Sha256};

use super::{Models, dir_of};
use crate::blobs::BlobError;
use crate::inference::bundle::{self, BundleError, Manifest};
use crate::inference::process::Process;

/// Where an artefact is put together.
const INCOMING: &str = "incoming.tar";

/// Why an artefact is not here, or no model.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("disk: {0}")]
    Disk(#[from] io::Error),
    /// The operator's to mend.
    #[error("{0}")]
    Bad(String),
}

impl From<BundleError> for FetchError {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Bad(why) => Self::Bad(why),
            BundleError::Disk(error) => Self::Disk(error),
        }
    }
}

impl Models {
    /// Stores a part of an artefact; on return a majority of the nodes has synced it.
    pub async fn store_part(&self, content: Bytes) -> Result<Blob, BlobError> {
        self.inner.blobs.put(GroupId::META, TenantId::CLUSTER, content).await
    }

    /// Whether an artefact whose parts are stored is a model that runs here; what it says of itself.
    pub async fn prove(&self, artefact: &Artefact) -> Result<Manifest, FetchError> {
        let _turn = self.inner.turn.lock().await;
        let dir = self.unpacked(artefact).await?;
        let launch = self.inner.settings.launch.clone();
        let prove = move || -> Result<Manifest, FetchError> {
            let manifest = bundle::read(&dir)?;
            Process::start(&launch, &dir).map_err(FetchError::Bad)?;
            Ok(manifest)
        };
        tokio::task::spawn_blocking(prove).await.map_err(io::Error::other)?
    }

    /// The directory of a version's files.
    pub(super) async fn fetched(&self, version: &Version) -> Result<PathBuf, FetchError> {
        self.unpacked(&version.artefact).await
    }

    /// Under the turn of whoever loads, so nobody else writes here.
    async fn unpacked(&self, artefact: &Artefact) -> Result<PathBuf, FetchError> {
        let root = self.inner.settings.dir.clone();
        let dir = dir_of(&root, artefact.sha256);
        if dir.is_dir() {
            return Ok(dir);
        }
        let incoming = root.join(INCOMING);
        let mut tar = File::create(&incoming)?;
        let mut hasher = Sha256::new();
        for &part in &artefact.parts {
            let content = self.inner.blobs.get(GroupId::META, TenantId::CLUSTER, part).await?;
            let write = move || -> io::Result<(File, Sha256)> {
                hasher.update(&content);
                tar.write_all(&content)?;
                Ok((tar, hasher))
            };
            (tar, hasher) =
                tokio::task::spawn_blocking(write).await.map_err(io::Error::other)??;
        }
        let found = Digest(hasher.finalize().into());
        if found != artefact.sha256 {
            let why = format!("the artefact has SHA-256 {found}, not {}", artefact.sha256);
            return Err(FetchError::Bad(why));
        }
        let unpacking = move || unpack(&root, &incoming, &dir).map(|()| dir);
        tokio::task::spawn_blocking(unpacking).await.map_err(io::Error::other)?
    }
}

/// Unpacks beside the place and renames, so that a name never leads to half a model.
fn unpack(root: &Path, tar: &Path, dir: &Path) -> Result<(), FetchError> {
    let beside = root.join("unpacking");
    if beside.exists() {
        fs::remove_dir_all(&beside)?;
    }
    make_dir(&beside)?;
    bundle::unpack(BufReader::new(File::open(tar)?), &beside)?;
    fs::rename(&beside, dir)?;
    fs::remove_file(tar)?;
    Ok(())
}

/// What an earlier start left is made again out of the parts, which are checked.
pub(super) fn clear(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    make_dir(dir)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
