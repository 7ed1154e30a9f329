//! Long objects, retries and time, against a service that is a function: no socket, no signature.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};

use object_store::client::{
    HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use super::super::place::S3;
use super::*;

/// What a bucket has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Parts of uploads that are not ended yet.
    parts: BTreeMap<usize, usize>,
    /// Objects and their lengths.
    objects: BTreeMap<String, usize>,
    aborted: usize,
    at_a_time: usize,
    at_a_time_max: usize,
    /// Answers 503 so often.
    busy: usize,
    /// Fails every part.
    broken: bool,
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Seen>>);

impl Fake {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    fn answer(&self, request: &HttpRequest) -> (u16, String) {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let mut seen = self.seen();
        if seen.busy > 0 {
            seen.busy -= 1;
            return (503, "<Error><Code>SlowDown</Code></Error>".to_owned());
        }
        let part = query.split('&').find_map(|pair| pair.strip_prefix("partNumber="));
        match (request.method().as_str(), part) {
            ("PUT", Some(_)) if seen.broken => (403, String::new()),
            ("PUT", Some(part)) => {
                seen.parts.insert(part.parse().unwrap(), request.body().content_length());
                (200, String::new())
            }
            ("PUT", None) => {
                seen.objects.insert(path.to_owned(), request.body().content_length());
                (200, String::new())
            }
            ("POST", _) if query.starts_with("uploads") => (
                200,
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                    .to_owned(),
            ),
            ("POST", _) => {
                let length = std::mem::take(&mut seen.parts).into_values().sum();
                seen.objects.insert(path.to_owned(), length);
                (
                    200,
                    "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
                        .to_owned(),
                )
            }
            ("DELETE", _) => {
                seen.aborted += 1;
                (204, String::new())
            }
            _ => (404, String::new()),
        }
    }
}

impl HttpService for Fake {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let now = self.seen().at_a_time + 1;
            self.seen().at_a_time = now;
            let most = self.seen().at_a_time_max.max(now);
            self.seen().at_a_time_max = most;
            // Others get their turn, so that what could be at the same time is.
            tokio::task::yield_now().await;
            let (status, body) = self.answer(&request);
            self.seen().at_a_time -= 1;
            if status == 403 {
                let (code, message) = ("AccessDenied".to_owned(), "no".to_owned());
                let fault = Fault::Refused { status, code, message };
                return Err(HttpError::new(HttpErrorKind::Unknown, fault));
            }
            let mut answer = HttpResponse::new(HttpResponseBody::from(body));
            *answer.status_mut() = status.try_into().unwrap();
            answer.headers_mut().insert("etag", "\"e\"".parse().unwrap());
            Ok(answer)
        })
    }
}

/// A store whose requests go to a function.
async fn store(fake: &Fake) -> Store {
    let s3 = S3 {
        endpoint: "https://s3.example".to_owned(),
        region: "us-east-1".to_owned(),
        path_style: true,
        plain_http: false,
        credentials_file: String::new(),
        timeout_s: 30,
    };
    let place = Place::parse("s3://backups/skep", &s3, &|_| Some("value".to_owned())).unwrap();
    let Place::Bucket(bucket) = &place else { panic!("{place} is no bucket") };
    bucket.client.set(HttpClient::new(fake.clone())).unwrap();
    Store::open(&place).await.unwrap()
}

const MIB: usize = 1 << 20;

async fn write(store: &Store, bytes: usize) -> Result<(), StoreError> {
    let mut writer = store.writer("long");
    for _ in 0..bytes / MIB {
        writer.put(Bytes::from(vec![7; MIB])).await?;
    }
    writer.put(Bytes::from(vec![7; bytes % MIB])).await?;
    writer.end().await
}

#[tokio::test]
async fn a_long_object_is_written_in_parts_and_few_are_on_their_way() {
    let fake = Fake::default();
    write(&store(&fake).await, 50 * MIB + 1).await.unwrap();
    let seen = fake.seen();
    assert_eq!(seen.objects, BTreeMap::from([("/backups/skep/long".to_owned(), 50 * MIB + 1)]));
    assert!((2..=PARTS_MAX).contains(&seen.at_a_time_max), "{}", seen.at_a_time_max);
    assert_eq!(seen.aborted, 0);
}

#[tokio::test]
async fn a_short_object_is_one_request() {
    let fake = Fake::default();
    write(&store(&fake).await, MIB).await.unwrap();
    assert_eq!(fake.seen().objects, BTreeMap::from([("/backups/skep/long".to_owned(), MIB)]));
}

#[tokio::test]
async fn parts_of_what_is_given_up_are_removed_and_the_reason_is_told() {
    let fake = Fake::default();
    fake.seen().broken = true;
    let error = write(&store(&fake).await, 50 * MIB).await.unwrap_err().to_string();
    assert_eq!(error, "s3://backups/skep/long: refused with 403 AccessDenied: no");
    while fake.seen().aborted == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fake.seen().objects, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_busy_service_is_asked_again_and_not_for_ever() {
    let fake = Fake::default();
    fake.seen().busy = RETRIES_MAX;
    let store = store(&fake).await;
    store.put("short", Bytes::from_static(b"text")).await.unwrap();
    fake.seen().busy = 100;
    let error = store.put("short", Bytes::from_static(b"text")).await.unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("SlowDown"), "{error}");
    assert_eq!(fake.seen().busy, 100 - 1 - RETRIES_MAX);
}

#[tokio::test]
async fn what_is_not_there_is_gone_and_has_no_size() {
    let store = store(&Fake::default()).await;
    assert!(
        matches!(store.get("nothing", 10).await, Err(StoreError::Gone(name)) if name == "nothing")
    );
    assert_eq!(store.size("nothing").await.unwrap(), None);
}

#[test]
fn nothing_of_a_place_shows_a_secret() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = runtime.block_on(store(&Fake::default()));
    // The id is no secret; here all three have the same value.
    let shown = format!("{:?}", store.place);
    assert!(!shown.contains("value"), "{shown}");
}
