//! Sends the state of a replica to a peer that is too far behind for the log.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use protocol::{GroupId, NodeId, ReplicaId, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, info};

use super::staging::Staged;
use super::{Checkpoint, CheckpointError, Head, Reader, Row, locked};
use crate::apply::Counts;
use crate::background;
use crate::network::{CallError, Class, Kind, Peers};
use crate::types::{LogId, Snapshot, TypeConfig, Vote};

/// Streams that leave a node at a time.
const STREAMS_MAX: usize = 2;
/// Bytes of rows in one request: work of a millisecond for either node.
const PART_BYTES: usize = 128 * 1024;
/// What all streams of a node send in a second: little while that is soon enough, so that requests do not
/// feel it.
const BYTES_PER_S_MIN: u64 = 4 << 20;
pub(crate) const BYTES_PER_S_MAX: u64 = 32 << 20;
/// What soon enough is for one state.
const SENT_WITHIN_S: u64 = 10;
/// Pauses of a stream, as a multiple of the time that a part of it takes from the disk here to the disk
/// there: where that is slow, something else wants the cores.
const REST: u32 = 6;
/// However slow it is, so that a state comes across before the log behind it is gone.
const REST_MAX: Duration = Duration::from_millis(100);
/// However long a state took, before the next one takes its place: a node that needs all of its states
/// has them within half a minute. Each is synced as a new file, and the logs of its node wait for that.
const STATE_REST_MAX: Duration = Duration::from_secs(2);
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// Reading a state back and putting it in place.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// A stream that gets nothing across for this long is given up; the next one goes on where it was.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);
/// A state that was being sent is kept for this long, so that the next attempt can go on with it.
const RESUME_WITHIN: Duration = Duration::from_secs(60);

/// A state on its way: ours to be read, or a peer's that has arrived.
#[derive(Debug)]
pub enum SnapshotData {
    Ours(Outgoing),
    Staged(Staged),
}

impl SnapshotData {
    pub(crate) fn into_staged(self) -> Result<Staged, CheckpointError> {
        match self {
            Self::Staged(staged) => Ok(staged),
            Self::Ours(outgoing) => {
                let cause = io::Error::other("a state of our own is not installed");
                let file = outgoing.checkpoint.inner.path.clone();
                Err(CheckpointError::Io { file, cause })
            }
        }
    }
}

/// What a replica can send. Clones are the same.
#[derive(Debug, Clone)]
pub struct Outgoing {
    checkpoint: Checkpoint,
    counts: Arc<Counts>,
    held: Arc<Mutex<Option<Held>>>,
}

#[derive(Debug)]
struct Held {
    reader: Arc<Reader>,
    until: Instant,
}

impl Outgoing {
    pub(crate) fn new(checkpoint: Checkpoint, counts: Arc<Counts>) -> Self {
        Self { checkpoint, counts, held: Arc::default() }
    }

    /// The newest state on disk.
    pub(crate) fn current(&self) -> io::Result<Option<Snapshot>> {
        // Nobody goes on with what was kept: let the file go.
        locked(&self.held).take_if(|held| Instant::now() >= held.until);
        let snapshot = SnapshotData::Ours(self.clone());
        Ok(self.checkpoint.head().map(|head| Snapshot { meta: head.meta(), snapshot }))
    }

    /// The state that was being sent a short time ago, or the newest. Never one of before `least`: Raft
    /// counts on the peer's having everything up to there once it has taken the state.
    pub(super) fn reader(&self, least: Option<LogId>) -> Result<Arc<Reader>, CheckpointError> {
        let mut held = locked(&self.held);
        let until = Instant::now() + RESUME_WITHIN;
        let reaches = |held: &Held| Some(held.reader.head().applied) >= least;
        let fresh = |held: &&mut Held| Instant::now() < held.until && reaches(held);
        if let Some(held) = held.as_mut().filter(fresh) {
            held.until = until;
            return Ok(Arc::clone(&held.reader));
        }
        let reader = self.checkpoint.reader()?.ok_or_else(|| CheckpointError::Damaged {
            file: self.checkpoint.inner.path.clone(),
            detail: "it is gone".to_owned(),
        })?;
        let reader = Arc::new(reader);
        *held = Some(Held { reader: Arc::clone(&reader), until });
        Ok(reader)
    }

    fn let_go(&self) {
        *locked(&self.held) = None;
    }
}

/// Shared by all streams of a node.
#[derive(Debug)]
pub(crate) struct Streams {
    places: Arc<Semaphore>,
    /// When the next bytes may leave.
    free_at: Mutex<Instant>,
}

impl Streams {
    pub(crate) fn new() -> Arc<Self> {
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        Arc::new(Self { places, free_at: Mutex::new(Instant::now()) })
    }

    /// Waits until so many bytes may leave.
    pub(crate) async fn pace(&self, bytes: usize, bytes_per_s: u64) {
        let at = {
            let mut free_at = locked(&self.free_at);
            let at = (*free_at).max(Instant::now());
            *free_at = at + Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

/// Counts a state that is on its way.
struct Leaving<'c>(&'c Counts);

impl<'c> Leaving<'c> {
    fn begin(counts: &'c Counts) -> Self {
        counts.leaving.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leaving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a sender asks first: how far is this state?
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) head: Head,
}

/// Rows that follow `after`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) applied: LogId,
    pub(crate) after: Bytes,
    pub(crate) rows: Vec<Row>,
}

/// All rows are there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Install {
    /// For which it is, and no other of the group.
    pub(crate) replica: ReplicaId,
    pub(crate) vote: Vote,
    pub(crate) applied: LogId,
}

/// One peer and group to send to.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) peers: Arc<Peers>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
}

impl Sender {
    /// Sends a state of `least` or later, and waits until the peer has it in place.
    pub(crate) async fn send(
        &self,
        vote: Vote,
        outgoing: &Outgoing,
        least: Option<LogId>,
    ) -> Result<SnapshotResponse<TypeConfig>, CallError> {
        let (node, group) = (self.node, self.group);
        let places = Arc::clone(&self.streams.places);
        let place = places.acquire_owned().await.map_err(|_| self.broken("closed"))?;
        let began = Instant::now();
        let ours = outgoing.clone();
        // Not in the background: whoever asks for the newest state waits for the same lock.
        let reader = tokio::task::spawn_blocking(move || ours.reader(least)).await;
        let reader = reader.map_err(|error| self.broken(&error.to_string()))?;
        let reader = reader.map_err(|error| self.broken(&error.to_string()))?;
        let applied = reader.head().applied;
        info!(%group, %node, index = applied.index, "sending the state to a peer");
        // Until it is in place: the peer goes on with the log from there.
        let _leaving = Leaving::begin(&outgoing.counts);
        let bytes = self.send_rows(&reader, &outgoing.counts).await?;
        let install = Install { replica: self.replica, vote, applied };
        let installed = self.ask(Kind::SnapshotInstall, &install, INSTALL_TIMEOUT).await?;
        outgoing.let_go();
        outgoing.counts.sent.fetch_add(1, Ordering::Relaxed);
        let took = began.elapsed();
        info!(%group, %node, bytes, ?took, "the state is with the peer");
        tokio::spawn(async move {
            tokio::time::sleep((took * REST).min(STATE_REST_MAX)).await;
            drop(place);
        });
        Ok(installed)
    }

    /// Sends what the peer does not have yet, through interruptions.
    async fn send_rows(&self, reader: &Arc<Reader>, counts: &Counts) -> Result<u64, CallError> {
        let mut sent = 0;
        let mut progress = Instant::now();
        loop {
            let before = sent;
            let attempt = self.send_rest(reader, counts, &mut sent).await;
            if sent > before {
                progress = Instant::now();
            }
            match attempt {
                Ok(()) => return Ok(sent),
                Err(error) if progress.elapsed() > PATIENCE => return Err(error),
                Err(error) => debug!(group = %self.group, node = %self.node, %error, "going on"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn send_rest(
        &self,
        reader: &Arc<Reader>,
        counts: &Counts,
        sent: &mut u64,
    ) -> Result<(), CallError> {
        let bytes_per_s = reader.bytes() / SENT_WITHIN_S;
        let bytes_per_s = bytes_per_s.clamp(BYTES_PER_S_MIN, BYTES_PER_S_MAX);
        let begin = Begin { head: reader.head().clone() };
        let applied = begin.head.applied;
        let mut after: Bytes = self.ask(Kind::SnapshotBegin, &begin, PART_TIMEOUT).await?;
        loop {
            let began = Instant::now();
            let (source, from) = (Arc::clone(reader), after.clone());
            let rows = background::run(move || source.rows(&from, PART_BYTES)).await;
            let rows = rows.map_err(|error| self.broken(&error.to_string()))?;
            let rows = rows.map_err(|error| self.broken(&error.to_string()))?;
            let Some(last) = rows.last().map(|(key, _)| key.clone()) else { return Ok(()) };
            let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
            let read_in = began.elapsed();
            self.streams.pace(bytes, bytes_per_s).await;
            let began = Instant::now();
            let part = Part { applied, after, rows };
            let () = self.ask(Kind::SnapshotPart, &part, PART_TIMEOUT).await?;
            *sent += bytes as u64;
            counts.parts.fetch_add(1, Ordering::Relaxed);
            after = last;
            let rest = (read_in + began.elapsed()) * REST;
            tokio::time::sleep(rest.min(REST_MAX)).await;
        }
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        request: &Q,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let body = codec::encode(request).map_err(|error| self.broken(&error.to_string()))?;
        let body = Bytes::from(body);
        let call = self.peers.call(self.node, Class::Snapshot, kind, self.group, body, timeout);
        codec::decode(&call.await?).map_err(|error| self.broken(&error.to_string()))
    }

    fn broken(&self, why: &str) -> CallError {
        CallError::Refused { node: self.node, why: why.to_owned() }
    }
}
