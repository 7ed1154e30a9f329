//! Heartbeats of all groups to one peer in one request, and its answers in one answer: a node's clock
//! makes its groups beat at the same moment ([`crate::node`]'s pulse), and a request for each would wake
//! both nodes as often as there are groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use protocol::{GroupId, NodeId, codec};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{CallError, Class, Kind, Peers};

/// How long the first one waits for the others: little of what a follower's patience is, and enough for
/// all groups of a node to come to it.
const GATHER: Duration = Duration::from_millis(1);

/// One of a request's heartbeats: what an append of that group would be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub(crate) group: GroupId,
    pub(crate) body: Bytes,
}

/// What the peer says to each of them, in their order.
pub(crate) type Answers = Vec<Result<Bytes, String>>;

/// Those that wait for others, for each peer.
#[derive(Debug, Default)]
pub(super) struct Beats {
    waiting: Mutex<BTreeMap<NodeId, Vec<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    beat: Beat,
    answer: oneshot::Sender<Result<Bytes, CallError>>,
}

impl Beats {
    /// Whether it is the first to wait.
    fn add(&self, node: NodeId, waiting: Waiting) -> bool {
        let mut all = self.waiting.lock().unwrap_or_else(|_| std::process::abort());
        let here = all.entry(node).or_default();
        here.push(waiting);
        here.len() == 1
    }

    fn take(&self, node: NodeId) -> Vec<Waiting> {
        let mut all = self.waiting.lock().unwrap_or_else(|_| std::process::abort());
        all.remove(&node).unwrap_or_default()
    }
}

impl Peers {
    /// Like [`Self::call`] of an append without entries, together with those of other groups.
    pub(super) async fn beat(
        self: &Arc<Self>,
        node: NodeId,
        group: GroupId,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let (answer, answered) = oneshot::channel();
        if self.beats.add(node, Waiting { beat: Beat { group, body }, answer }) {
            let peers = Arc::clone(self);
            // Not by the first one: it may cease to wait, and the others do not.
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                peers.send_beats(node, timeout).await;
            });
        }
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Broken { node }),
            Err(_) => Err(CallError::Timeout { node }),
        }
    }

    async fn send_beats(&self, node: NodeId, timeout: Duration) {
        let waiting = self.beats.take(node);
        let (beats, asking): (Vec<Beat>, Vec<_>) =
            waiting.into_iter().map(|waiting| (waiting.beat, waiting.answer)).unzip();
        let answers = match self.ask(node, &beats, timeout).await {
            Ok(answers) => {
                let refused = |why| CallError::Refused { node, why };
                answers.into_iter().map(|answer| answer.map_err(refused)).collect()
            }
            Err(error) => vec![Err(error); beats.len()],
        };
        for (asking, answer) in asking.into_iter().zip(answers) {
            // It may have ceased to wait.
            let _ = asking.send(answer);
        }
    }

    async fn ask(
        &self,
        node: NodeId,
        beats: &[Beat],
        timeout: Duration,
    ) -> Result<Answers, CallError> {
        let refused = |why: String| CallError::Refused { node, why };
        let body = codec::encode(&beats).map_err(|error| refused(error.to_string()))?;
        let (class, group) = (Class::Control, GroupId::META);
        let answer = self.call(node, class, Kind::Beats, group, body.into(), timeout).await?;
        codec::decode(&answer).map_err(|error| refused(error.to_string()))
    }
}
