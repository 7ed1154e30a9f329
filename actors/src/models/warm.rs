//! A version is warm on every node that lives before it serves: the node that is asked to let it serve
//! asks all of them, and again, until each says yes or one says no.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use protocol::{NodeId, codec};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Key, Models, locked};
use crate::remote::{Envelope, PeerState, PeerTransport, ReplyFrame};

/// Envelope kind: a [`Key`] that is to be loaded, answered with a [`Standing`] at once.
pub(crate) const KIND_WARM: u16 = 11;
/// How long all nodes may take.
const WARM_TIMEOUT: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);
const ASK_TIMEOUT_MS: u32 = 2_000;
/// A node that does not answer for this long while its connection is up has not warmed anything.
const SILENCE: Duration = Duration::from_secs(10);

/// How a version stands on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    Ready,
    Loading,
    Failed(String),
}

/// Why a version is not warm everywhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWarm {
    #[error("{node} cannot serve version {version}: {why}")]
    Failed { node: NodeId, version: u32, why: String },
    #[error("{node} has not loaded version {version} within {} s", WARM_TIMEOUT.as_secs())]
    Late { node: NodeId, version: u32 },
}

impl Models {
    /// Returns when the versions are warm on every node that lives.
    pub async fn warm_everywhere(&self, keys: &[Key]) -> Result<(), NotWarm> {
        let me = self.inner.host.node();
        let others = self.living();
        for &key in keys {
            let here = async {
                let ready = self.ready(key).await.map(drop);
                ready.map_err(|why| NotWarm::Failed {
                    node: me,
                    version: key.1,
                    why: why.to_string(),
                })
            };
            let there = join_all(others.iter().map(|&node| self.warm_on(node, key)));
            let (here, there) = tokio::join!(here, there);
            here?;
            there.into_iter().collect::<Result<(), NotWarm>>()?;
        }
        Ok(())
    }

    /// The other nodes that answer; one that does not loads what serves when it is back.
    fn living(&self) -> Vec<NodeId> {
        let (Some(map), Some(transport)) = (self.map(), self.inner.transport.get()) else {
            return Vec::new();
        };
        let states = transport.states();
        let states = states.borrow();
        let up = |node: &NodeId| matches!(states.get(&node.0), Some(PeerState::Up { .. }));
        map.nodes.keys().copied().filter(up).collect()
    }

    async fn warm_on(&self, node: NodeId, key: Key) -> Result<(), NotWarm> {
        let Some(transport) = self.inner.transport.get() else { return Ok(()) };
        let (begun, mut heard) = (Instant::now(), Instant::now());
        while begun.elapsed() < WARM_TIMEOUT && heard.elapsed() < SILENCE {
            match ask(transport, node, key).await {
                Some(Standing::Ready) => return Ok(()),
                Some(Standing::Failed(why)) => {
                    return Err(NotWarm::Failed { node, version: key.1, why });
                }
                Some(Standing::Loading) => heard = Instant::now(),
                // It died: it is no node that lives, and loads what serves when it is back.
                None if !self.living().contains(&node) => return Ok(()),
                None => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(NotWarm::Late { node, version: key.1 })
    }

    /// Loads what another node asks for, and says how that stands.
    pub(crate) async fn warm_here(&self, key: Key) -> Standing {
        if self.held(key).is_some() {
            return Standing::Ready;
        }
        if let Some(why) = locked(&self.inner.failed).remove(&key) {
            return Standing::Failed(why);
        }
        // What was acknowledged of the map elsewhere may not be known here yet.
        if self.inner.host.sync_map().await.is_ok() && self.inner.turn.try_lock().is_ok() {
            let models = self.clone();
            tokio::spawn(async move { models.ready(key).await.map(drop) });
        }
        Standing::Loading
    }
}

async fn ask(transport: &Arc<dyn PeerTransport>, node: NodeId, key: Key) -> Option<Standing> {
    let payload = codec::encode(&key).ok()?;
    let mut envelope = Envelope::new(KIND_WARM, u64::from(key.1), Bytes::from(payload));
    envelope.deadline_remaining_ms = ASK_TIMEOUT_MS;
    match transport.call(node.0, envelope).await {
        Ok(ReplyFrame::Ok(answer)) => codec::decode(&answer).ok(),
        Ok(_) | Err(_) => None,
    }
}
