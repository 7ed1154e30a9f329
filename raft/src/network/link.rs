//! The dialing end of a connection: many requests in flight, each with a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use protocol::{GroupId, NodeId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;

use super::frame::{self, FRAME_BYTES_MAX, Frame};
use super::refusal::Reason;
use super::{CallError, Kind};

/// Requests that wait to be written; beyond it a caller is told at once.
const QUEUE_MAX: usize = 1024;

type Pending = Mutex<BTreeMap<u64, oneshot::Sender<Result<Bytes, CallError>>>>;

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    node: NodeId,
    queue: mpsc::Sender<Frame>,
    pending: Arc<Pending>,
    open: Arc<AtomicBool>,
    next: AtomicU64,
}

impl Link {
    /// Takes over a stream whose handshake is done. It is cut when `refused` returns.
    pub(super) fn start<S, F>(node: NodeId, stream: S, refused: F) -> Arc<Self>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = Reason> + Send + 'static,
    {
        let (input, output) = tokio::io::split(stream);
        let (queue, frames) = mpsc::channel(QUEUE_MAX);
        let pending = Arc::new(Pending::default());
        let open = Arc::new(AtomicBool::new(true));
        let ends = Ends { node, pending: Arc::clone(&pending), open: Arc::clone(&open) };
        let writer = tokio::spawn(write_all(output, frames));
        tokio::spawn(async move {
            tokio::select! {
                () = read_all(input, &ends) => {}
                reason = refused => {
                    warn!(%node, reason = reason.name(), "connection to a peer cut");
                }
            }
            ends.fail_all();
            writer.abort();
        });
        Arc::new(Self { node, queue, pending, open, next: AtomicU64::new(1) })
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) async fn call(
        &self,
        kind: Kind,
        group: GroupId,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let node = self.node;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.pending).insert(id, answer);
        let forget = Forget { pending: &self.pending, id };
        let frame = Frame { kind: kind as u8, id, group, body };
        self.queue.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::Overloaded { node },
            mpsc::error::TrySendError::Closed(_) => CallError::Broken { node },
        })?;
        if !self.is_open() {
            // The reader may have failed everybody just before this request was noted.
            return Err(CallError::Broken { node });
        }
        let answer = tokio::time::timeout_at(deadline, answered).await;
        drop(forget);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Broken { node }),
            Err(_) => Err(CallError::Timeout { node }),
        }
    }
}

/// Takes a request out of the waiting ones, whatever ended it.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.pending).remove(&self.id);
    }
}

struct Ends {
    node: NodeId,
    pending: Arc<Pending>,
    open: Arc<AtomicBool>,
}

impl Ends {
    fn fail_all(&self) {
        let node = self.node;
        self.open.store(false, Ordering::Release);
        let waiting = std::mem::take(&mut *lock(&self.pending));
        for answer in waiting.into_values() {
            // The caller may have timed out.
            let _ = answer.send(Err(CallError::Broken { node }));
        }
    }
}

async fn write_all<W>(mut output: W, mut queue: mpsc::Receiver<Frame>)
where
    W: AsyncWrite + Unpin,
{
    let mut frames = Vec::with_capacity(64);
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    while queue.recv_many(&mut frames, 64).await > 0 {
        if frame::write(&mut output, &mut frames, &mut buffer).await.is_err() {
            // The reader sees the end of the stream and fails those who wait.
            return;
        }
    }
    // Nobody asks any more. The halves share the stream, so dropping this one would not end it.
    let _ = output.shutdown().await;
}

async fn read_all<R: AsyncRead + Unpin>(input: R, ends: &Ends) {
    let node = ends.node;
    let mut input = tokio::io::BufReader::with_capacity(64 * 1024, input);
    while let Ok(Some(frame)) = frame::read(&mut input, FRAME_BYTES_MAX).await {
        let Some(answer) = lock(&ends.pending).remove(&frame.id) else { continue };
        let outcome = match frame.kind {
            frame::ANSWER => Ok(frame.body),
            _ => {
                let why = String::from_utf8_lossy(&frame.body).into_owned();
                Err(CallError::Refused { node, why })
            }
        };
        // The caller may have timed out.
        let _ = answer.send(outcome);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| std::process::abort())
}
