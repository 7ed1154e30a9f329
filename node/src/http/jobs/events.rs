//! Events of a job as a stream (server-sent events). They are rows of its shard, so every node tells
//! the same ones under the same numbers. Invariant: nothing is queued for a reader; the next event is
//! made when the reader has room for it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use protocol::jobs::{Event, Followed, Kind};
use protocol::peer::{Answer, Ask};
use protocol::wire::jobs as wire;
use protocol::{GroupId, JobId, TenantId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Named, shown};
use crate::http::app::{self, App};
use crate::http::auth::{self, Caller, JOBS_READ};
use crate::http::error::{Code, Limited, Problem};
use crate::http::headers::{mistake, single};
use crate::http::openapi::ProblemResponse;
use crate::http::query::{NoQuery, Segments};

/// The last event that a reader has.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Streams of a tenant on a node, and of all of them.
const STREAMS_OF_TENANT_MAX: usize = 64;
const STREAMS_MAX: usize = 1024;
/// How often the replica here is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often the owner is asked by a node that has no replica.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// A comment is sent when nothing else was for so long; and the reader must still be one who may.
const BEAT: Duration = Duration::from_secs(10);

/// What happens to a job, as it happens
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "The job"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The stream goes on after this one")),
    responses((status = 200, content_type = "text/event-stream", body = wire::Event,
        description = "Events `status`, `progress` and, the last, `done`, numbered from 1 without a \
            gap and alike on every node: the job as it then stood"),
        (status = 404, response = ProblemResponse)))]
pub(super) async fn events(
    State(app): State<App>,
    caller: Caller<JOBS_READ>,
    path: Named,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let sent = last_event(&headers)?;
    let Segments((id,)) = path?;
    let (followed, group) = follow(&app, (caller.tenant, id), sent).await?;
    if sent > followed.known {
        return Err(mistake(&LAST_EVENT_ID, "is of an event that has not happened"));
    }
    let place = app.streams.enter(caller.tenant)?;
    let key = caller.key.is_some().then_some(headers);
    let (tenant, now) = (caller.tenant, Instant::now());
    let reader =
        Reader { app, tenant, id, group, key, followed, sent, told_at: now, asked_at: now };
    let stream = futures::stream::unfold((reader, place), async |(mut reader, place)| {
        let next = reader.next().await?;
        Some((Ok::<_, Infallible>(next), (reader, place)))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

async fn follow(
    app: &App,
    (tenant, job): (TenantId, JobId),
    sent: u32,
) -> Result<(Followed, GroupId), Problem> {
    let told = app.ask(tenant, Ask::Follow(tenant, job, sent)).await?;
    if let Answer::Refused(refusal) = told.answer {
        return Err(app::refused(refusal));
    }
    let Answer::Followed(followed) = told.answer else { return Err(Problem::new(Code::Internal)) };
    Ok((*followed, told.group))
}

fn last_event(headers: &HeaderMap) -> Result<u32, Problem> {
    let Some(text) = single(headers, &LAST_EVENT_ID)? else { return Ok(0) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| mistake(&LAST_EVENT_ID, "must be the number of an event"))
}

/// One who reads the events of a job.
struct Reader {
    app: App,
    tenant: TenantId,
    id: JobId,
    group: GroupId,
    /// The headers with its credential; an operator's ends only with the cluster.
    key: Option<HeaderMap>,
    /// As it was seen last, with events that come next.
    followed: Followed,
    /// Events that it has.
    sent: u32,
    told_at: Instant,
    asked_at: Instant,
}

impl Reader {
    /// The next event or comment. `None` ends the stream, after the last event or because the reader
    /// should go on elsewhere.
    async fn next(&mut self) -> Option<Bytes> {
        if self.followed.before.is_some_and(|event| event.status.is_terminal()) {
            return None;
        }
        while self.followed.next.is_empty() {
            if self.told_at.elapsed() >= BEAT {
                self.told_at = Instant::now();
                return self.may_go_on().await.then(|| Bytes::from_static(b":\n\n"));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = self.app.streams.stop.cancelled() => return None,
            }
            self.look().await?;
        }
        self.told_at = Instant::now();
        self.event()
    }

    /// Looks whether something has happened: in the replica here, whose events are those that are
    /// committed, or else at the owner.
    async fn look(&mut self) -> Option<()> {
        if let Some(group) = self.app.system.host.group(self.group) {
            let view = group.view();
            let job = view.jobs.get(self.tenant, self.id);
            if let Some(job) = job.filter(|job| job.known() > self.sent) {
                self.followed = job.follow(self.sent);
            }
            return Some(());
        }
        if self.asked_at.elapsed() >= ASK_INTERVAL {
            self.asked_at = Instant::now();
            self.ask().await?;
        }
        Some(())
    }

    async fn ask(&mut self) -> Option<()> {
        match follow(&self.app, (self.tenant, self.id), self.sent).await {
            Ok((followed, _)) => {
                self.followed = followed;
                Some(())
            }
            Err(problem) => {
                debug!(job = %self.id, ?problem, "stream of events ends");
                None
            }
        }
    }

    /// Whether the key still may, the job is there, and this node is not cut off from its owner.
    async fn may_go_on(&mut self) -> bool {
        if let Some(headers) = &self.key
            && auth::still::<JOBS_READ>(&self.app, headers).await.is_err()
        {
            return false;
        }
        self.ask().await.is_some()
    }

    /// The next event, which its reader has from now on.
    fn event(&mut self) -> Option<Bytes> {
        let event = self.followed.next.pop_front()?;
        let kind = event.kind(self.followed.before.replace(event).as_ref());
        self.sent += 1;
        let (seq, job) = (u64::from(self.sent), self.then(&event, kind));
        let data = serde_json::to_string(&wire::Event { job, seq }).ok()?;
        Some(Bytes::from(format!("id: {seq}\nevent: {}\ndata: {data}\n\n", kind.name())))
    }

    /// The job as it stood at an event. What failed is told with the last.
    fn then(&self, event: &Event, kind: Kind) -> wire::Job {
        let mut job = self.followed.job.clone();
        let Event { at, status, done, failed, cached } = *event;
        job.status = status;
        job.updated_at = at;
        (job.counts.done, job.counts.failed, job.counts.cached) = (done, failed, cached);
        job.life.retried_as = None;
        if kind != Kind::Done {
            job.life.cause = None;
        }
        shown(&job, self.group)
    }
}

/// The streams that are open on this node. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    open: Arc<Mutex<BTreeMap<TenantId, usize>>>,
    /// The node stops: readers go on elsewhere.
    stop: CancellationToken,
}

impl Streams {
    /// None yet; all end when the node stops.
    #[must_use]
    pub fn until(stop: CancellationToken) -> Self {
        Self { stop, ..Self::default() }
    }

    fn enter(&self, tenant: TenantId) -> Result<Place, Problem> {
        let mut open = self.open();
        if open.values().sum::<usize>() >= STREAMS_MAX {
            return Err(Problem::new(Code::Overloaded));
        }
        let of_tenant = open.entry(tenant).or_default();
        if *of_tenant >= STREAMS_OF_TENANT_MAX {
            return Err(Problem::limited(
                Code::ConcurrencyExceeded,
                Limited {
                    policy: "event_streams".to_owned(),
                    limit: STREAMS_OF_TENANT_MAX as u64,
                    remaining: 0,
                    reset_s: 1,
                    retry_after_ms: 1_000,
                },
            ));
        }
        *of_tenant += 1;
        drop(open);
        Ok(Place { streams: self.clone(), tenant })
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<TenantId, usize>> {
        self.open.lock().unwrap_or_else(|_| std::process::abort())
    }
}

/// An open stream.
struct Place {
    streams: Streams,
    tenant: TenantId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        if let Some(of_tenant) = open.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_event_is_digits_and_nothing_else() {
        let read = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            value.map(|value| headers.insert(LAST_EVENT_ID, value.parse().unwrap()));
            last_event(&headers).ok()
        };
        assert_eq!((read(None), read(Some("0")), read(Some("17"))), (Some(0), Some(0), Some(17)));
        for wrong in ["", "+1", "-1", "1.0", "x", "99999999999999999999999"] {
            assert_eq!(read(Some(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn streams_are_counted_for_each_tenant_and_for_all() {
        let streams = Streams::default();
        let enter = |tenant| streams.enter(TenantId(tenant)).ok();
        let held: Vec<_> = (0..STREAMS_OF_TENANT_MAX).map(|_| enter(1).unwrap()).collect();
        assert!(enter(1).is_none() && enter(2).is_some());
        drop(held);
        assert!(streams.open().is_empty());
        let each = STREAMS_OF_TENANT_MAX;
        let all: Vec<_> = (0..STREAMS_MAX).map(|at| enter((at / each) as u128).unwrap()).collect();
        assert!(enter(9_999).is_none());
        drop(all);
        assert!(enter(9_999).is_some());
    }
}
