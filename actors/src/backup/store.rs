//! Where backups are: a directory, through the same interface as an object store.
//!
//! Invariant: an object is there whole or not at all, and is durable when its writer is told so.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::io::AsyncWriteExt as _;

/// Bytes of an object that wait until they are written.
const WAITING_BYTES: usize = 8 << 20;

/// Why the place of backups does not do what it is told. The text names the object, never a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0} is neither an absolute path nor a place that this release knows")]
    Unknown(String),
    #[error("{place}: {cause}")]
    Missing { place: String, cause: object_store::Error },
    #[error("{name}: {cause}")]
    Object { name: String, cause: object_store::Error },
    #[error("{name}: {cause}")]
    Io { name: String, cause: std::io::Error },
    #[error("{name} has {bytes} bytes, more than the {limit} that such a file has")]
    TooLong { name: String, bytes: u64, limit: u64 },
    #[error("{0} is missing")]
    Gone(String),
}

/// A place of backups. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    dir: PathBuf,
}

impl Store {
    /// The place that a setting names. It is not made: a share that is not mounted must not be taken
    /// for an empty one.
    pub(super) fn open(place: &str) -> Result<Self, StoreError> {
        let dir = PathBuf::from(place);
        if !dir.is_absolute() {
            return Err(StoreError::Unknown(place.to_owned()));
        }
        let missing = |cause| StoreError::Missing { place: place.to_owned(), cause };
        let local = LocalFileSystem::new_with_prefix(&dir).map_err(missing)?;
        Ok(Self { objects: Arc::new(local.with_fsync(true)), dir })
    }

    pub(super) async fn put(&self, name: &str, content: Bytes) -> Result<(), StoreError> {
        let put = self.objects.put(&Path::from(name), content.into()).await;
        put.map(drop).map_err(|cause| object(name, cause))
    }

    /// A writer of one object, which is there when it was ended.
    pub(super) fn writer(&self, name: &str) -> Writer {
        let objects = Arc::clone(&self.objects);
        let writer = BufWriter::with_capacity(objects, Path::from(name), WAITING_BYTES);
        Writer { name: name.to_owned(), writer }
    }

    /// The bytes of an object, in pieces.
    pub(super) async fn read(
        &self,
        name: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let got = self.objects.get(&Path::from(name)).await;
        let got = got.map_err(|cause| object(name, cause))?;
        let name = name.to_owned();
        Ok(got.into_stream().map_err(move |cause| object(&name, cause)).boxed())
    }

    /// All of an object, which must not be longer than `limit`.
    pub(super) async fn get(&self, name: &str, limit: u64) -> Result<Bytes, StoreError> {
        let got = self.objects.get(&Path::from(name)).await;
        let got = got.map_err(|cause| object(name, cause))?;
        let bytes = got.meta.size;
        if bytes > limit {
            return Err(StoreError::TooLong { name: name.to_owned(), bytes, limit });
        }
        got.bytes().await.map_err(|cause| object(name, cause))
    }

    /// The length of an object, if it is there.
    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.objects.head(&Path::from(name)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(object(name, cause)),
        }
    }

    /// Names of folders directly under a folder, in order.
    pub(super) async fn folders(&self, under: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.objects.list_with_delimiter(Some(&Path::from(under))).await;
        let listed = listed.map_err(|cause| object(under, cause))?;
        let last = |path: &Path| path.filename().map(str::to_owned);
        let mut names: Vec<String> = listed.common_prefixes.iter().filter_map(last).collect();
        names.sort();
        Ok(names)
    }

    /// Names of objects directly under a folder.
    pub(super) async fn names(&self, under: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.objects.list_with_delimiter(Some(&Path::from(under))).await;
        let listed = listed.map_err(|cause| object(under, cause))?;
        let last = |found: &object_store::ObjectMeta| found.location.filename().map(str::to_owned);
        Ok(listed.objects.iter().filter_map(last).collect())
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self.objects.delete(&Path::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(object(name, cause)),
        }
    }

    /// Removes a folder with what was left in it half-written.
    pub(super) async fn remove_folder(&self, name: &str) -> Result<(), StoreError> {
        let folder = self.dir.join(name);
        match tokio::fs::remove_dir_all(&folder).await {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Io { name: name.to_owned(), cause })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// See [`Store::writer`]. One that is dropped leaves no object.
pub(super) struct Writer {
    name: String,
    writer: BufWriter,
}

impl Writer {
    pub(super) async fn put(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.writer.put(bytes).await.map_err(|cause| object(&self.name, cause))
    }

    pub(super) async fn end(mut self) -> Result<(), StoreError> {
        let ended = self.writer.shutdown().await;
        ended.map_err(|cause| StoreError::Io { name: self.name, cause })
    }
}

fn object(name: &str, cause: object_store::Error) -> StoreError {
    let name = name.to_owned();
    if matches!(cause, object_store::Error::NotFound { .. }) {
        return StoreError::Gone(name);
    }
    StoreError::Object { name, cause }
}
