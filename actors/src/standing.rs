//! How a node stands, told to the others every 100 ms when that changes, and what they make of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use protocol::jobs::Worker;
use protocol::nodes::{Command, State};
use protocol::{GroupId, NodeId, codec};
use raft::members::Sight;
use raft::{Group, Host};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::blobs::Kept;
use crate::jobs::workers::KIND_LOAD;
use crate::jobs::{Load, Standing, Workers};
use crate::remote::{Envelope, PeerState, PeerTransport};
use crate::slots::Slots;
use crate::work::Runner;

/// How often a node says how it stands, if anything changed;
const INTERVAL: Duration = Duration::from_millis(100);
/// how often it looks for a change where nothing changed before and nothing waits;
const QUIET: Duration = Duration::from_millis(200);
/// and if nothing did. Whoever is silent for a second counts as gone.
const REPEAT: Duration = Duration::from_millis(400);
/// How long a node that stops goes on with its tasks.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a peer may take to hear that this node stops.
const STOP_TIMEOUT_MS: u32 = 500;

/// Says how this node stands. Clones are the same.
#[derive(Clone)]
pub(crate) struct Mouth {
    inner: Arc<Inner>,
}

struct Inner {
    me: Worker,
    host: Arc<Host>,
    slots: Slots,
    runner: Runner,
    workers: Workers,
    kept: Kept,
    transport: OnceLock<Arc<dyn PeerTransport>>,
    /// Nothing more is fetched; what is here is brought to its end.
    finishing: AtomicBool,
    stopping: AtomicBool,
}

impl Mouth {
    pub(crate) fn new(
        me: Worker,
        host: &Arc<Host>,
        slots: &Slots,
        runner: &Runner,
        workers: &Workers,
        kept: Kept,
    ) -> Self {
        let inner = Inner {
            me,
            host: Arc::clone(host),
            slots: slots.clone(),
            runner: runner.clone(),
            workers: workers.clone(),
            kept,
            transport: OnceLock::new(),
            finishing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on the others are told.
    pub(crate) fn set_transport(&self, transport: Arc<dyn PeerTransport>) {
        // Set once, at boot.
        let _ = self.inner.transport.set(transport);
    }

    fn load(&self) -> Load {
        let Inner { host, slots, runner, kept, .. } = &*self.inner;
        let blobs = kept.lock().unwrap_or_else(|_| std::process::abort()).clone();
        Load {
            slots: slots.settings().slots.max(1) as u32,
            documents: runner.documents_waiting() + slots.documents(),
            document_us: slots.pace().as_micros() as u64,
            wall: crate::clock::wall(),
            standing: self.standing(),
            blobs,
            leads: host.groups().iter().filter(|group| group.leads()).map(Group::id).collect(),
        }
    }

    fn standing(&self) -> Standing {
        if self.inner.stopping.load(Ordering::Acquire) {
            return Standing::Stopping;
        }
        if self.inner.finishing.load(Ordering::Acquire) {
            return Standing::Resting;
        }
        let map = self.inner.host.map().borrow().clone();
        let node = map.as_ref().and_then(|map| map.nodes.get(&self.inner.me.node));
        match node {
            Some(node) if !node.takes_more() => Standing::Resting,
            Some(_) | None => Standing::Working,
        }
    }

    /// Says that this node is drained, once it runs nothing and all that it holds is led by others.
    pub(crate) async fn rest(self) {
        let Inner { me, host, runner, .. } = &*self.inner;
        let mut ticks = raft::ticks::ticks(INTERVAL);
        let mut maps = host.map();
        loop {
            let map = maps.borrow_and_update().clone();
            let state = map.as_ref().and_then(|map| map.nodes.get(&me.node)).map(|node| node.state);
            if state != Some(State::Draining) {
                if maps.changed().await.is_err() {
                    return;
                }
                continue;
            }
            ticks.tick().await;
            let led_by_another = |group: &Group| {
                let leader = group.leadership().borrow().leader;
                !group.leads() && leader.is_some_and(|leader| leader != me.node)
            };
            let busy = !runner.is_idle() || !host.groups().iter().all(led_by_another);
            if busy {
                continue;
            }
            let drained = Command::SetState { node: me.node, state: State::Drained };
            if let Err(error) = host.propose_meta(drained).await {
                debug!(%error, "not told that this node is drained");
            }
        }
    }

    /// To this node's own coordinators, and to all others.
    pub(crate) async fn tell(self) {
        let mut ticks = raft::ticks::ticks(INTERVAL);
        let mut seldom = raft::ticks::ticks(QUIET);
        let mut told = (Load::default(), Vec::new(), Instant::now());
        let mut quiet = false;
        loop {
            tokio::select! {
                _ = seldom.tick(), if quiet => {}
                () = self.inner.slots.stirred(), if quiet => { ticks.tick().await; }
                _ = ticks.tick(), if !quiet => {}
            }
            let load = self.load();
            self.inner.workers.note(self.inner.me, load.clone());
            let Some(transport) = self.inner.transport.get() else { continue };
            let peers = peers_up(transport);
            let same = load.is_as(&told.0) && peers == told.1;
            quiet = same && load.documents == 0;
            if same && told.2.elapsed() < REPEAT {
                continue;
            }
            let Some(envelope) = self.envelope(&load) else { continue };
            for &peer in &peers {
                if let Err(error) = transport.say(peer, envelope.clone()) {
                    // The next word replaces this one.
                    debug!(peer, %error, "load not told");
                }
            }
            told = (load, peers, Instant::now());
        }
    }

    fn envelope(&self, load: &Load) -> Option<Envelope> {
        let load = codec::encode(load).ok()?;
        Some(Envelope::new(KIND_LOAD, self.inner.me.node.0, Bytes::from(load)))
    }

    /// Ends the tasks that are here, and fetches none: whoever was given one later would have to run
    /// it from its beginning.
    pub(crate) async fn finish(&self) {
        let Inner { me, runner, workers, .. } = &*self.inner;
        self.inner.finishing.store(true, Ordering::Release);
        workers.note(*me, self.load());
        if tokio::time::timeout(FINISH_TIMEOUT, runner.idle()).await.is_err() {
            info!("what is not done here is left to others");
        }
    }

    /// Says that this node stops; on return every peer that answers has heard it.
    pub(crate) async fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        let envelope = self.envelope(&self.load());
        let transport = self.inner.transport.get();
        let (Some(transport), Some(mut envelope)) = (transport, envelope) else { return };
        envelope.deadline_remaining_ms = STOP_TIMEOUT_MS;
        let told = peers_up(transport).into_iter().map(|peer| {
            let envelope = envelope.clone();
            async move {
                if let Err(error) = transport.call(peer, envelope).await {
                    debug!(peer, %error, "not told that this node stops");
                }
            }
        });
        join_all(told).await;
    }
}

pub(crate) fn peers_up(transport: &Arc<dyn PeerTransport>) -> Vec<u64> {
    let states = transport.states();
    let states = states.borrow();
    let up = states.iter().filter(|(_, state)| matches!(state, PeerState::Up { .. }));
    up.map(|(&peer, _)| peer).collect()
}

/// What this node makes of what the others say. Clones see the same.
#[derive(Clone)]
pub struct Outlook {
    me: NodeId,
    workers: Workers,
    kept: Kept,
    transport: Option<Arc<dyn PeerTransport>>,
}

impl std::fmt::Debug for Outlook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "outlook of {}", self.me)
    }
}

impl Outlook {
    pub(crate) fn new(
        workers: &Workers,
        mouth: &Mouth,
        transport: Option<&Arc<dyn PeerTransport>>,
    ) -> Self {
        Self {
            me: mouth.inner.me.node,
            workers: workers.clone(),
            kept: Arc::clone(&mouth.inner.kept),
            transport: transport.cloned(),
        }
    }
}

impl Sight for Outlook {
    fn is_up(&self, node: NodeId) -> bool {
        if node == self.me {
            return true;
        }
        let Some(transport) = &self.transport else { return false };
        let up = matches!(transport.states().borrow().get(&node.0), Some(PeerState::Up { .. }));
        let standing = self.workers.last_word(node, |load| load.standing);
        up && standing != Some(Standing::Stopping)
    }

    fn has_all(&self, node: NodeId, group: GroupId, index: u64) -> bool {
        let kept = if node == self.me {
            let kept = self.kept.lock().unwrap_or_else(|_| std::process::abort());
            kept.get(&group).copied()
        } else {
            self.workers.last_word(node, |load| load.blobs.get(&group).copied()).flatten()
        };
        kept.is_some_and(|kept| kept >= index)
    }
}
