//! The blobs on this node's disk: in packs, which one thread writes.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::versions::BLOB_STORE;
use protocol::{Digest, TenantId};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::index::{Index, Place};
use super::pack::{self, Head};
use super::writer::Writer;

/// Blobs that are read at a time: each occupies a blocking thread.
const READS_MAX: usize = 16;
/// Of a format that is not ours so much is shown.
const FORMAT_CHARS: usize = 20;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("blobs: {0}")]
    Io(#[from] io::Error),
    /// Written by another release.
    #[error("{} has format {found:?}, this build reads {BLOB_STORE}", file.display())]
    Version { file: PathBuf, found: String },
}

/// Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    index: Arc<Index>,
    writer: Writer,
    reads: Semaphore,
}

impl Disk {
    /// Finds the blobs of a directory, which is made when it is missing, and starts the thread.
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        make_dir(dir)?;
        check_format(dir)?;
        let index = Arc::new(Index::new());
        let packs = pack::numbers(dir)?;
        for &number in &packs {
            for (head, at) in pack::open(&pack::path(dir, number))? {
                index.insert(&head, Place::of(&head, number, at));
            }
            index.close(number);
        }
        let next = packs.last().map_or(0, |last| last + 1);
        let writer = Writer::start(dir.to_owned(), next, Arc::clone(&index))?;
        let reads = Semaphore::new(READS_MAX);
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_owned(), index, writer, reads }) })
    }

    /// Durable on return. Content that is here already is left alone. That the digest is its SHA-256 is
    /// for the caller to know.
    pub(super) async fn write(
        &self,
        tenant: TenantId,
        digest: Digest,
        content: Bytes,
    ) -> io::Result<()> {
        if self.inner.index.wish(tenant, digest) {
            return Ok(());
        }
        self.inner.writer.write(tenant, digest, content).await
    }

    /// Whether the content is here; it is not read.
    pub(super) fn has(&self, tenant: TenantId, digest: Digest) -> bool {
        self.inner.index.get(tenant, digest).is_some()
    }

    /// The content, if it is here; damaged content is an error, and not here from then on.
    pub(super) async fn read(&self, tenant: TenantId, digest: Digest) -> io::Result<Option<Bytes>> {
        let Inner { dir, index, reads, .. } = &*self.inner;
        let _permit = reads.acquire().await.map_err(io::Error::other)?;
        while let Some(place) = index.get(tenant, digest) {
            let path = pack::path(dir, place.pack);
            let read = move || pack::read(&path, place.at, place.bytes, place.sum);
            match tokio::task::spawn_blocking(read).await.map_err(io::Error::other)? {
                Ok(Some(content)) => return Ok(Some(content)),
                // It was moved meanwhile, or somebody has removed the file.
                Ok(None) => index.forget(tenant, digest, place),
                Err(error) => {
                    if is_damage(&error) {
                        index.forget(tenant, digest, place);
                    }
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Removes what of a tenant is not named and nobody wished to store within `age`; how many.
    pub(super) async fn sweep(
        &self,
        tenant: TenantId,
        named: BTreeSet<Digest>,
        age: Duration,
    ) -> io::Result<usize> {
        let removed = self.inner.index.sweep(tenant, &named, age);
        if removed > 0 {
            self.compact().await?;
        }
        Ok(removed)
    }

    /// Moves what is left in packs that are mostly empty, and removes these.
    async fn compact(&self) -> io::Result<()> {
        let Inner { dir, index, writer, .. } = &*self.inner;
        for number in index.hollow() {
            for (tenant, digest, _) in index.of(number) {
                match self.read(tenant, digest).await {
                    Ok(Some(content)) => {
                        let head = Head::of(tenant, digest, &content);
                        writer.again(head, content).await?;
                    }
                    Ok(None) => {}
                    Err(error) => warn!(%error, "a damaged blob goes with its pack"),
                }
            }
            if index.let_go(number) {
                std::fs::remove_file(pack::path(dir, number))?;
                info!(pack = number, "pack of blobs removed");
            }
        }
        Ok(())
    }
}

/// And not a want of descriptors, say, that passes.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// What the store's layout is; the blobs themselves are content and nothing else.
fn check_format(dir: &Path) -> Result<(), OpenError> {
    let file = dir.join("format");
    let ours = format!("{BLOB_STORE}\n");
    match std::fs::read(&file) {
        Ok(found) if found == ours.as_bytes() => Ok(()),
        // A node that died over its first start.
        Ok(found) if found.is_empty() => Ok(write_format(dir, &file, &ours)?),
        Ok(found) => {
            let found = String::from_utf8_lossy(&found).trim().chars().take(FORMAT_CHARS).collect();
            Err(OpenError::Version { file, found })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(write_format(dir, &file, &ours)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn write_format(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    File::open(dir)?.sync_all()
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
