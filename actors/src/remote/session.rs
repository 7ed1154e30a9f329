//! All links of this node. Invariant: at most one link per peer is not closed, and a peer is `Up`
//! exactly while its link is ready and has answered a probe.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ractor::{ActorId, ActorRef, pg};
use ractor_cluster::node::NodeServerSessionInformation;
use ractor_cluster::{NodeEventSubscription, NodeSessionMessage};
use socket2::Socket;
use tokio::sync::watch;
use tracing::{info, warn};

use super::gateway::SCOPE;
use super::link::{Link, Phase, Route, Stamp};
use super::{PeerState, Refused};

const LABEL: &str = "skep-link-";

#[derive(Debug)]
pub(super) struct Sessions {
    stamp: Stamp,
    table: Mutex<Table>,
    states: watch::Sender<BTreeMap<u64, PeerState>>,
}

#[derive(Debug, Default)]
struct Table {
    wanted: BTreeMap<u64, u64>,
    links: BTreeMap<u64, Arc<Link>>,
    up: BTreeMap<u64, Arc<Link>>,
    tokens: u64,
    stopped: bool,
}

impl Sessions {
    pub(super) fn new(stamp: Stamp) -> Self {
        let states = watch::Sender::new(BTreeMap::new());
        Self { stamp, table: Mutex::new(Table::default()), states }
    }

    pub(super) fn states(&self) -> watch::Receiver<BTreeMap<u64, PeerState>> {
        self.states.subscribe()
    }

    /// The link over which the peer can be called now.
    pub(super) fn up(&self, node: u64) -> Option<Arc<Link>> {
        self.table().up.get(&node).cloned()
    }

    /// Replaces the set of peers, closes what no longer belongs to it, and returns the peers that
    /// are new or have a new boot.
    pub(super) fn want(&self, mut peers: BTreeMap<u64, u64>) -> Vec<u64> {
        peers.remove(&self.stamp.me.node);
        let mut table = self.table();
        if table.stopped {
            return Vec::new();
        }
        let fresh = peers.iter().filter(|&(node, boot)| table.wanted.get(node) != Some(boot));
        let fresh: Vec<u64> = fresh.map(|(node, _)| *node).collect();
        let since = Instant::now();
        self.states.send_modify(|states| {
            states.retain(|node, _| peers.contains_key(node));
            for &node in &fresh {
                states.entry(node).or_insert(PeerState::Down { since });
            }
        });
        table.wanted = peers;
        let superseded: Vec<_> =
            table.links.values().filter(|link| table.refuses(link)).cloned().collect();
        drop(table);
        for link in superseded {
            self.close(&link, "not a wanted peer any more");
        }
        fresh
    }

    pub(super) fn wanted(&self) -> Vec<u64> {
        self.table().wanted.keys().copied().collect()
    }

    /// Registers a new connection. It replaces the one before it: only one side dials, so a second
    /// stream means that the peer has given up the first, however alive that looks from here.
    pub(super) fn open(
        &self,
        node: u64,
        introduced: Option<u64>,
        socket: Socket,
    ) -> Result<Arc<Link>, Refused> {
        let mut table = self.table();
        if table.stopped {
            return Err(Refused::Stopped);
        }
        table.tokens += 1;
        let link = Link::new(table.tokens, (node, introduced), socket, self.stamp);
        if !table.wanted.contains_key(&node) {
            return Err(Refused::Unwanted);
        }
        if table.refuses(&link) {
            return Err(Refused::Outdated);
        }
        let link = Arc::new(link);
        let same_peer = |other: &&Arc<Link>| other.node == node;
        let replaced: Vec<_> = table.links.values().filter(same_peer).cloned().collect();
        table.links.insert(link.token, Arc::clone(&link));
        drop(table);
        for old in replaced {
            self.close(&old, "replaced by a new connection");
        }
        Ok(link)
    }

    /// The peer has answered: it can be called from now on.
    pub(super) fn mark_up(&self, link: &Arc<Link>) {
        let Some(route) = link.route.get() else { return };
        let mut table = self.table();
        let known = table.links.contains_key(&link.token);
        if !known || table.up.get(&link.node).is_some_and(|other| other.token == link.token) {
            return;
        }
        table.up.insert(link.node, Arc::clone(link));
        let incarnation = route.incarnation;
        self.states.send_modify(|states| {
            states.insert(link.node, PeerState::Up { incarnation });
        });
        drop(table);
        info!(peer = link.node, incarnation, "peer up");
    }

    /// Ends a link and everything that waits on it. Doing it twice is harmless.
    pub(super) fn close(&self, link: &Arc<Link>, reason: &str) {
        if !link.enter(Phase::Closed) {
            return;
        }
        let mut table = self.table();
        table.links.remove(&link.token);
        let was_up = table.up.get(&link.node).is_some_and(|other| other.token == link.token);
        if was_up {
            table.up.remove(&link.node);
            let since = Instant::now();
            self.states.send_modify(|states| {
                if let Some(state) = states.get_mut(&link.node) {
                    *state = PeerState::Down { since };
                }
            });
        }
        drop(table);
        link.sever();
        if was_up {
            info!(peer = link.node, reason, "peer down");
        } else {
            info!(peer = link.node, reason, "connection ended before the peer was up");
        }
    }

    /// Closes every link and opens none any more. False when that was done before.
    pub(super) fn stop(&self) -> bool {
        let mut table = self.table();
        let first = !std::mem::replace(&mut table.stopped, true);
        table.wanted.clear();
        let links: Vec<_> = table.links.values().cloned().collect();
        drop(table);
        for link in links {
            self.close(&link, "this node stops");
        }
        first
    }

    fn labelled(&self, label: &str) -> Option<Arc<Link>> {
        let token = label.strip_prefix(LABEL)?.parse().ok()?;
        self.table().links.get(&token).cloned()
    }

    fn opened(&self, label: &str, actor: ActorRef<NodeSessionMessage>) {
        let link = self.labelled(label);
        match &link {
            Some(link) if link.actor.set(actor.clone()).is_ok() && !link.is(Phase::Closed) => {}
            // Ended meanwhile, or it came through the node server's own loopback listener, which
            // cannot be switched off and which nobody has a reason to use.
            Some(_) | None => {
                warn!(label, "session without a connection of ours ended");
                actor.kill();
            }
        }
    }

    fn ready(&self, session: &NodeServerSessionInformation) {
        let Some(link) = self.labelled(&session.peer_addr) else { return session.actor.kill() };
        match route_of(&link, session) {
            Ok(route) => {
                // Ready is said once per session and a label belongs to one session.
                let _ = link.route.set(route);
                if self.table().refuses(&link) {
                    return self.close(&link, "an older boot than the wanted one");
                }
                link.enter(Phase::Ready);
            }
            Err(reason) => self.close(&link, reason),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether the link leads to no wanted peer or to a boot known to be over. A newer boot than
    /// the wanted one is welcome: our view of the membership is what lags then.
    fn refuses(&self, link: &Link) -> bool {
        let boot = link.route.get().map(|route| route.incarnation).or(link.introduced);
        self.wanted.get(&link.node).is_none_or(|wanted| boot.is_some_and(|boot| boot < *wanted))
    }
}

/// Finds the gateway of a session, and checks that the peer is who it was taken for.
fn route_of(link: &Link, session: &NodeServerSessionInformation) -> Result<Route, &'static str> {
    let peer = session.peer_name.as_ref().ok_or("the peer gave no name")?;
    let name = peer.name.split('@').next().unwrap_or_default();
    let parts = name
        .split_once('.')
        .and_then(|(node, boot)| Some((node.parse::<u64>().ok()?, boot.parse::<u64>().ok()?)));
    let (node, incarnation) = parts.ok_or("the peer's name is not <node>.<incarnation>")?;
    if node != link.node || link.introduced.is_some_and(|boot| boot != incarnation) {
        return Err("the peer is not the one that introduced itself");
    }
    let of_session =
        |id: ActorId| matches!(id, ActorId::Remote { node_id, .. } if node_id == session.node_id);
    let gateway = pg::get_scoped_members(&SCOPE.to_owned(), &name.to_owned())
        .into_iter()
        .find(|cell| of_session(cell.get_id()))
        .ok_or("the peer shows no gateway")?;
    Ok(Route { gateway: gateway.into(), incarnation })
}

/// The label under which a link's stream is handed to the node server.
pub(super) fn label(link: &Link) -> String {
    format!("{LABEL}{}", link.token)
}

/// Brings the node server's events into the table, within its own handler: nothing is queued.
pub(super) struct Events(pub(super) Arc<Sessions>);

impl NodeEventSubscription for Events {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        self.0.opened(&session.peer_addr, session.actor);
    }

    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        self.0.ready(&session);
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        if let Some(link) = self.0.labelled(&session.peer_addr) {
            self.0.close(&link, "disconnected");
        }
    }
}
