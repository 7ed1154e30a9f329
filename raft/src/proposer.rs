//! Batches proposals without a timer: while one entry is being committed, the next one collects.

use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use protocol::command::{ENTRY_BYTES_MAX, Encoded, PROPOSALS_MAX};
use protocol::owner::Epoch;
use protocol::{Applied, Entry, GroupId, NodeId, codec};
use tokio::sync::{RwLock, RwLockWriteGuard, mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use crate::group::ProposeError;
use crate::types::{Payload, Raft};

/// Proposals that wait for one group; beyond it a caller is told at once.
const QUEUE_MAX: usize = 4096;
/// A proposal that has no outcome after this is reported as unknown.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Proposer {
    group: GroupId,
    queue: mpsc::Sender<Waiting>,
    /// Held for reading by each proposal that is under way.
    gate: RwLock<()>,
}

struct Waiting {
    epoch: Epoch,
    proposal: Encoded,
    since: Instant,
    outcome: oneshot::Sender<Result<Applied, ProposeError>>,
}

pub(crate) fn start(group: GroupId, raft: Raft) -> Proposer {
    let (queue, waiting) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(run(group, raft, waiting));
    Proposer { group, queue, gate: RwLock::new(()) }
}

impl Proposer {
    pub(crate) async fn propose(
        &self,
        epoch: Epoch,
        proposal: Encoded,
    ) -> Result<Applied, ProposeError> {
        let (group, bytes) = (self.group, proposal.bytes());
        if bytes > codec::FRAME_BYTES_MAX / 2 {
            return Err(ProposeError::TooLarge { bytes });
        }
        // Closed: whoever leads next is to be asked.
        let not_leader = ProposeError::NotLeader { group, leader: None };
        let _under_way = self.gate.try_read().map_err(|_| not_leader)?;
        let (outcome, applied) = oneshot::channel();
        let waiting = Waiting { epoch, proposal, since: Instant::now(), outcome };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded { group },
            mpsc::error::TrySendError::Closed(_) => ProposeError::NotLeader { group, leader: None },
        })?;
        applied.await.unwrap_or(Err(ProposeError::Unknown { group }))
    }

    /// Takes no more proposals while the guard lives; returns when those under way have ended, or
    /// without a guard after `timeout`.
    pub(crate) async fn close(&self, timeout: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
        tokio::time::timeout(timeout, self.gate.write()).await.ok()
    }
}

async fn run(group: GroupId, raft: Raft, mut queue: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(PROPOSALS_MAX);
    while queue.recv_many(&mut batch, PROPOSALS_MAX).await > 0 {
        let mut rest = batch.drain(..).peekable();
        while rest.peek().is_some() {
            let (epoch, proposals, callers) = collect(group, &mut rest);
            if callers.is_empty() {
                continue;
            }
            commit(group, &raft, epoch, &proposals, callers).await;
        }
    }
}

type Callers = Vec<oneshot::Sender<Result<Applied, ProposeError>>>;

/// Takes proposals of one epoch until the entry is full. The first always fits.
fn collect(
    group: GroupId,
    rest: &mut std::iter::Peekable<std::vec::Drain<'_, Waiting>>,
) -> (Epoch, Vec<Encoded>, Callers) {
    let (mut epoch, mut bytes) = (Epoch::default(), 0usize);
    let (mut proposals, mut callers) = (Vec::new(), Vec::new());
    while let Some(next) = rest.peek() {
        let size = next.proposal.bytes();
        let first = callers.is_empty();
        let fits = first || (next.epoch == epoch && bytes.saturating_add(size) <= ENTRY_BYTES_MAX);
        if !fits {
            break;
        }
        let Some(waiting) = rest.next() else { break };
        if waiting.since.elapsed() >= PROPOSE_TIMEOUT {
            // It never reached the log.
            let _ = waiting.outcome.send(Err(ProposeError::Overloaded { group }));
            continue;
        }
        bytes = bytes.saturating_add(size);
        epoch = waiting.epoch;
        proposals.push(waiting.proposal);
        callers.push(waiting.outcome);
    }
    (epoch, proposals, callers)
}

async fn commit(
    group: GroupId,
    raft: &Raft,
    epoch: Epoch,
    proposals: &[Encoded],
    callers: Callers,
) {
    let outcome = match Entry::encode(epoch, proposals) {
        Ok(bytes) => write(group, raft, Bytes::from(bytes)).await,
        Err(_) => Err(ProposeError::TooLarge { bytes: codec::FRAME_BYTES_MAX }),
    };
    match outcome {
        Ok(applied) => {
            for (caller, applied) in callers.into_iter().zip(applied) {
                // The caller may have timed out; the command stands all the same.
                let _ = caller.send(Ok(applied));
            }
        }
        Err(error) => {
            for caller in callers {
                // As above.
                let _ = caller.send(Err(error.clone()));
            }
        }
    }
}

async fn write(group: GroupId, raft: &Raft, bytes: Bytes) -> Result<Vec<Applied>, ProposeError> {
    let written = tokio::time::timeout(PROPOSE_TIMEOUT, raft.client_write(Payload(bytes))).await;
    let error = match written {
        Ok(Ok(response)) => return Ok(response.data.applied),
        Ok(Err(error)) => error,
        Err(_) => return Err(ProposeError::Unknown { group }),
    };
    debug!(%group, %error, "entry not committed");
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            let leader: Option<NodeId> = forward.leader_node.map(|member| member.node);
            Err(ProposeError::NotLeader { group, leader })
        }
        RaftError::APIError(_) | RaftError::Fatal(_) => Err(ProposeError::Unknown { group }),
    }
}
