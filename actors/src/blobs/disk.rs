//! The files of the blob store on this node.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use protocol::versions::BLOB_STORE;
use protocol::{Digest, TenantId};
use tokio::sync::Semaphore;

use super::{path_of, sha256};

/// Files that are read or written at a time: each occupies a blocking thread.
const FILES_MAX: usize = 16;
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

#[derive(Clone, Debug)]
pub(super) struct Disk {
    dir: Arc<PathBuf>,
    files: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

impl Disk {
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        make_dir(dir)?;
        check_format(dir)?;
        let incoming = dir.join("incoming");
        if incoming.exists() {
            // What was being written when the process died has no name yet.
            std::fs::remove_dir_all(&incoming)?;
        }
        make_dir(&incoming)?;
        Ok(Self {
            dir: Arc::new(dir.to_owned()),
            files: Arc::new(Semaphore::new(FILES_MAX)),
            next: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Durable on return. Content that is here already is left alone.
    pub(super) async fn write(
        &self,
        tenant: TenantId,
        digest: Digest,
        content: Bytes,
    ) -> io::Result<()> {
        let incoming = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let dir = Arc::clone(&self.dir);
        self.blocking(move || {
            let path = path_of(&dir, tenant, digest);
            if path.exists() {
                // As young as what is named next, so that no sweep takes it in between.
                return OpenOptions::new().write(true).open(&path)?.set_modified(SystemTime::now());
            }
            write_file(&dir, &dir.join("incoming").join(incoming), &path, &content)
        })
        .await
    }

    /// Whether there is a file for the content; it is not read.
    pub(super) async fn has(&self, tenant: TenantId, digest: Digest) -> io::Result<bool> {
        let dir = Arc::clone(&self.dir);
        self.blocking(move || path_of(&dir, tenant, digest).try_exists()).await
    }

    /// The content, if it is here; damaged content is an error.
    pub(super) async fn read(&self, tenant: TenantId, digest: Digest) -> io::Result<Option<Bytes>> {
        let dir = Arc::clone(&self.dir);
        self.blocking(move || {
            let content = match std::fs::read(path_of(&dir, tenant, digest)) {
                Ok(content) => Bytes::from(content),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            if sha256(&content) != digest {
                let what = format!("blob {digest} has other content");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            Ok(Some(content))
        })
        .await
    }

    /// Removes what of a tenant is not named and was written more than `age` ago; how many.
    pub(super) async fn sweep(
        &self,
        tenant: TenantId,
        named: BTreeSet<Digest>,
        age: Duration,
    ) -> io::Result<usize> {
        let root = self.dir.join(tenant.to_string());
        self.blocking(move || {
            if !root.is_dir() {
                return Ok(0);
            }
            let mut removed = 0;
            for folder in std::fs::read_dir(&root)? {
                for file in std::fs::read_dir(folder?.path())? {
                    let file = file?;
                    let name = file.file_name().to_str().and_then(|name| Digest::parse(name).ok());
                    let old = file.metadata()?.modified()?.elapsed().is_ok_and(|old| old > age);
                    if old && name.is_some_and(|name| !named.contains(&name)) {
                        std::fs::remove_file(file.path())?;
                        removed += 1;
                    }
                }
            }
            Ok(removed)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.files.acquire().await.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
        drop(permit);
        done
    }
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

fn write_file(root: &Path, incoming: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(incoming)?;
    file.write_all(content)?;
    file.sync_data()?;
    let Some(parent) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    if !parent.exists() {
        make_dir(parent)?;
        // A new directory is durable when its parent is.
        for dir in parent.ancestors().skip(1).take_while(|dir| dir.starts_with(root)) {
            File::open(dir)?.sync_all()?;
        }
    }
    std::fs::rename(incoming, path)?;
    File::open(parent)?.sync_all()
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
