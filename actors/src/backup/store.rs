//! What is done at a place of backups: a directory or a bucket, through the same interface.
//!
//! Invariant: an object is there whole or not at all, and is durable when its writer is told so. No
//! error has a secret in its text.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::buffered::BufWriter;
use object_store::client::HttpClient;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ObjectStore, ObjectStoreExt as _, RetryConfig, StaticCredentialProvider,
};
use tokio::io::AsyncWriteExt as _;
use tracing::debug;

use super::credentials::CredentialsError;
use super::https::{self, ClientFault, Fault};
use super::place::{Bucket, Place};

/// A longer object is written in parts of so many bytes. A bucket takes ten thousand parts.
const PART_BYTES: usize = 8 << 20;
/// Parts that are on their way at a time; one more is filled meanwhile.
const PARTS_MAX: usize = 2;
/// Requests that failed in passing are sent again so often, with growing pauses.
const RETRIES_MAX: usize = 4;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Objects that are removed at a time.
const REMOVALS_MAX: usize = 8;

/// Why the place of backups does not do what it is told. The text names the object, never a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{place}: {cause}")]
    Missing { place: String, cause: object_store::Error },
    #[error("{place}: {cause}")]
    Credentials { place: String, cause: CredentialsError },
    #[error("{place}: {cause}")]
    Client { place: String, cause: ClientFault },
    /// The service did not do it, or did not answer.
    #[error("{object}: {fault}")]
    Service { object: String, fault: Fault },
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
    place: Place,
}

impl Store {
    /// Opens a place. A directory is not made: a share that is not mounted must not be taken for an
    /// empty one. Nothing is asked of a bucket yet.
    pub(super) async fn open(place: &Place) -> Result<Self, StoreError> {
        let objects: Arc<dyn ObjectStore> = match place {
            Place::Directory(dir) => {
                let missing = |cause| StoreError::Missing { place: place.to_string(), cause };
                let local = LocalFileSystem::new_with_prefix(dir).map_err(missing)?;
                Arc::new(local.with_fsync(true))
            }
            Place::Bucket(bucket) => {
                let (place, bucket) = (place.clone(), Arc::clone(bucket));
                // Reads the file of credentials, and once the roots of the machine.
                let opened = tokio::task::spawn_blocking(move || open_bucket(&place, &bucket));
                opened.await.map_err(|error| StoreError::Io {
                    name: "credentials".to_owned(),
                    cause: std::io::Error::other(error),
                })??
            }
        };
        Ok(Self { objects, place: place.clone() })
    }

    pub(super) async fn put(&self, name: &str, content: Bytes) -> Result<(), StoreError> {
        let put = self.objects.put(&Path::from(name), content.into()).await;
        put.map(drop).map_err(|cause| self.error(name, cause))
    }

    /// A writer of one object, which is there when it was ended.
    pub(super) fn writer(&self, name: &str) -> Writer {
        let objects = Arc::clone(&self.objects);
        let writer = BufWriter::with_capacity(objects, Path::from(name), PART_BYTES);
        let writer = Some(writer.with_max_concurrency(PARTS_MAX));
        Writer { store: self.clone(), name: name.to_owned(), writer }
    }

    /// The bytes of an object, in pieces.
    pub(super) async fn read(
        &self,
        name: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let got = self.objects.get(&Path::from(name)).await;
        let got = got.map_err(|cause| self.error(name, cause))?;
        let (store, name) = (self.clone(), name.to_owned());
        Ok(got.into_stream().map_err(move |cause| store.error(&name, cause)).boxed())
    }

    /// All of an object, which must not be longer than `limit`.
    pub(super) async fn get(&self, name: &str, limit: u64) -> Result<Bytes, StoreError> {
        let got = self.objects.get(&Path::from(name)).await;
        let got = got.map_err(|cause| self.error(name, cause))?;
        let bytes = got.meta.size;
        if bytes > limit {
            return Err(StoreError::TooLong { name: name.to_owned(), bytes, limit });
        }
        got.bytes().await.map_err(|cause| self.error(name, cause))
    }

    /// The length of an object, if it is there.
    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.objects.head(&Path::from(name)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(self.error(name, cause)),
        }
    }

    /// Names of folders directly under a folder, in order.
    pub(super) async fn folders(&self, under: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.objects.list_with_delimiter(Some(&Path::from(under))).await;
        let listed = listed.map_err(|cause| self.error(under, cause))?;
        let last = |path: &Path| path.filename().map(str::to_owned);
        let mut names: Vec<String> = listed.common_prefixes.iter().filter_map(last).collect();
        names.sort();
        Ok(names)
    }

    /// Names of objects directly under a folder.
    pub(super) async fn names(&self, under: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.objects.list_with_delimiter(Some(&Path::from(under))).await;
        let listed = listed.map_err(|cause| self.error(under, cause))?;
        let last = |found: &object_store::ObjectMeta| found.location.filename().map(str::to_owned);
        Ok(listed.objects.iter().filter_map(last).collect())
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self.objects.delete(&Path::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(self.error(name, cause)),
        }
    }

    /// Removes a folder with everything below it, also what was left half-written.
    pub(super) async fn remove_folder(&self, name: &str) -> Result<(), StoreError> {
        let Place::Directory(dir) = &self.place else { return self.remove_below(name).await };
        match tokio::fs::remove_dir_all(&dir.join(name)).await {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Io { name: name.to_owned(), cause })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn remove_below(&self, folder: &str) -> Result<(), StoreError> {
        let listed = self.objects.list(Some(&Path::from(folder)));
        let listed = listed.map_err(|cause| self.error(folder, cause));
        let remove =
            async |found: object_store::ObjectMeta| self.remove(found.location.as_ref()).await;
        listed.try_for_each_concurrent(REMOVALS_MAX, remove).await
    }

    fn error(&self, name: &str, cause: object_store::Error) -> StoreError {
        let name = name.to_owned();
        if matches!(cause, object_store::Error::NotFound { .. }) {
            return StoreError::Gone(name);
        }
        match fault_in(&cause) {
            Some(fault) => {
                let place = self.place.to_string();
                let object = format!("{}/{name}", place.trim_end_matches('/'));
                // Of the place itself there is no name.
                let object = object.trim_end_matches('/').to_owned();
                StoreError::Service { object, fault }
            }
            None => StoreError::Object { name, cause },
        }
    }
}

/// What our client has to say, without the layers above it: they repeat the address.
fn fault_in(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return Some(fault.clone());
        }
        at = error.source();
    }
    None
}

fn open_bucket(place: &Place, bucket: &Bucket) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let of_client = |cause| StoreError::Client { place: place.to_string(), cause };
    let client = match bucket.client.get() {
        Some(client) => client.clone(),
        None => {
            let tls = bucket.endpoint.as_ref().is_none_or(|endpoint| endpoint.tls);
            let new = https::client(tls, bucket.timeout).map_err(of_client)?;
            bucket.client.get_or_init(|| new).clone()
        }
    };
    let keys = bucket.credentials.read();
    let keys = keys.map_err(|cause| StoreError::Credentials { place: place.to_string(), cause })?;
    let credentials = StaticCredentialProvider::new(keys.into_credential());
    let missing = |cause| StoreError::Missing { place: place.to_string(), cause };
    let service = s3(bucket, client, credentials).map_err(missing)?;
    if bucket.prefix.is_empty() {
        return Ok(Arc::new(service));
    }
    Ok(Arc::new(PrefixStore::new(service, bucket.prefix.as_str())))
}

fn s3(
    bucket: &Bucket,
    client: HttpClient,
    credentials: StaticCredentialProvider<object_store::aws::AwsCredential>,
) -> object_store::Result<AmazonS3> {
    let retries = RetryConfig {
        backoff: BackoffConfig { init_backoff: PAUSE_MIN, max_backoff: PAUSE_MAX, base: 2.0 },
        max_retries: RETRIES_MAX,
        retry_timeout: 2 * bucket.timeout,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_region(&bucket.region)
        .with_virtual_hosted_style_request(!bucket.path_style)
        // Not every service that calls itself S3 removes many at a time.
        .with_disable_bulk_delete(true)
        .with_credentials(Arc::new(credentials))
        .with_retry(retries)
        .with_http_connector(https::Given(client));
    if let Some(endpoint) = &bucket.endpoint {
        let in_host = Some(bucket.name.as_str()).filter(|_| !bucket.path_style);
        // Whether plain HTTP is allowed was decided when the place was parsed.
        builder = builder.with_endpoint(endpoint.url(in_host)).with_allow_http(!endpoint.tls);
    }
    builder.build()
}

/// See [`Store::writer`]. One that is dropped leaves no object.
pub(super) struct Writer {
    store: Store,
    name: String,
    /// `None` when it was ended.
    writer: Option<BufWriter>,
}

impl Writer {
    pub(super) async fn put(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.put(bytes).await.map_err(|cause| self.store.error(&self.name, cause))
    }

    pub(super) async fn end(mut self) -> Result<(), StoreError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let Err(cause) = writer.shutdown().await else { return Ok(()) };
        Err(match cause.downcast::<object_store::Error>() {
            Ok(cause) => self.store.error(&self.name, cause),
            Err(cause) => StoreError::Io { name: self.name.clone(), cause },
        })
    }
}

impl Drop for Writer {
    /// Parts that no object was made of would be kept, and paid for, without being seen.
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let (store, name) = (self.store.clone(), self.name.clone());
        tokio::spawn(async move {
            if let Err(cause) = writer.abort().await {
                let error = store.error(&name, cause);
                debug!(%error, "parts of an object that was given up are left");
            }
        });
    }
}

#[cfg(test)]
mod tests;
