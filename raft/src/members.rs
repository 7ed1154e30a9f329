//! Makes the groups' memberships follow the cluster map.
//!
//! The meta leader alone changes the map ([`crate::placement`]); the leader of each group alone
//! changes its membership, one step at a time, and tells the map what came of it. A step that a
//! crash interrupts is seen and finished by the next leader, for both compare what is with what
//! should be. The order of a move: learner, caught up, voter; told; the old replica is to go; it
//! leads no more, votes no more; told; only then its node forgets it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use protocol::nodes::{Command, Map, Node};
use protocol::owner::Epoch;
use protocol::{GroupId, NodeId};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::failpoint;
use crate::group::{Group, MemberView};
use crate::node::residence::HANDOVERS_MAX;
use crate::node::{ELECTION_MIN, Host};
use crate::placement;
use crate::ticks::ticks;

mod step;
mod tally;

pub use tally::{Move, Stage, Tally};

/// How often what is and what should be are compared when nothing was to be done.
const INTERVAL: Duration = Duration::from_millis(200);
/// The same while there is something to do.
const BUSY: Duration = Duration::from_millis(40);
/// A learner this close to the leader may vote.
const CAUGHT_UP: u64 = 100;
/// A leader hands over only to a replica this close.
pub(crate) const TRANSFER_LAG: u64 = 64;
/// A step that takes longer is looked at again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a leader waits between two transfers of one group: a failed one costs seconds.
const TRANSFER_PAUSE: Duration = Duration::from_secs(5);

/// How long an owner is left in peace that was elected because another fell silent. What that one had
/// promised is over by then, and whoever waited for it would wait again for the next owner.
const SETTLING: Duration = Duration::from_secs(3);

/// What a leader must know of other nodes, beside what Raft tells it.
pub trait Sight: Send + Sync + 'static {
    /// Whether a node answers and is not about to stop.
    fn is_up(&self, node: NodeId) -> bool;

    /// Whether a node has, beside the log, all that the entries of the group up to `index` name.
    fn has_all(&self, node: NodeId, group: GroupId, index: u64) -> bool;
}

/// What this node remembers from look to look. Nothing of it need survive.
struct Keeper<S> {
    host: Arc<Host>,
    sight: Arc<S>,
    replace_after: Option<Duration>,
    /// Since when nodes do not answer, while this node leads the meta group.
    absent: BTreeMap<NodeId, Instant>,
    /// The map, and the nodes that answered, of which nothing was to be changed: nothing is until one
    /// of them differs.
    at_rest: Option<(Arc<Map>, BTreeSet<NodeId>)>,
    /// No transfer of a group before this.
    pauses: BTreeMap<GroupId, Instant>,
    /// What this node owns, and until when it keeps it.
    owned: BTreeMap<GroupId, (Epoch, Instant)>,
    farewells: step::Farewells,
}

/// Runs for ever. A node that does not answer for `replace_after` is lost: its replicas are made
/// again elsewhere.
pub async fn run<S: Sight>(host: Arc<Host>, sight: S, replace_after: Option<Duration>) {
    let mut changes = host.map();
    let mut keeper = Keeper {
        host,
        sight: Arc::new(sight),
        replace_after,
        absent: BTreeMap::new(),
        at_rest: None,
        pauses: BTreeMap::new(),
        owned: BTreeMap::new(),
        farewells: step::Farewells::default(),
    };
    let mut busy = false;
    let mut ticks = ticks(INTERVAL);
    loop {
        tokio::select! {
            () = tokio::time::sleep(BUSY), if busy => {}
            _ = ticks.tick() => {}
            // A change of the map may be what a group waits for; a burst of them is one.
            changed = changes.changed() => match changed {
                Ok(()) => tokio::time::sleep(BUSY / 4).await,
                Err(_) => return,
            },
        }
        let Some(map) = changes.borrow_and_update().clone() else { continue };
        // Whoever leads after this node will do what is due.
        busy = !keeper.host.is_leaving() && keeper.look(&map).await;
    }
}

impl<S: Sight> Keeper<S> {
    /// Does what is due; `true` if that was anything.
    async fn look(&mut self, map: &Arc<Map>) -> bool {
        let mut busy = self.place(map).await;
        let led = self.led();
        let handed: Vec<(Group, MemberView)> = led
            .into_iter()
            .filter_map(|group| self.heir(map, &group).map(|heir| (group, heir)))
            .take(HANDOVERS_MAX)
            .collect();
        busy |= !handed.is_empty();
        let handing = handed.iter().map(|(group, heir)| hand_over(&self.host, group, heir));
        join_all(handing).await;
        let again = Instant::now() + TRANSFER_PAUSE;
        self.pauses.extend(handed.into_iter().map(|(group, _)| (group.id(), again)));
        let mut steps = Vec::new();
        for group in self.host.groups().into_iter().filter(Group::leads) {
            let step = step::Step {
                host: &self.host,
                sight: &*self.sight,
                map,
                group: group.clone(),
                farewells: self.farewells.clone(),
            };
            steps.push(async move {
                let taken = tokio::time::timeout(STEP_TIMEOUT, step.take()).await;
                taken.unwrap_or_else(|_| {
                    debug!(group = %group.id(), "membership step takes long");
                    true
                })
            });
        }
        busy | join_all(steps).await.into_iter().any(|taken| taken)
    }

    /// The groups that this node owns, after a note of until when it keeps them.
    fn led(&mut self) -> Vec<Group> {
        let mut led = Vec::new();
        let mut owned = BTreeMap::new();
        for group in self.host.groups() {
            let Some(owner) = group.leadership().borrow().owned else { continue };
            let known = self.owned.get(&group.id()).filter(|(epoch, _)| *epoch == owner.epoch);
            let after_silence = group.alone_for(owner.term) >= ELECTION_MIN;
            let settling = if after_silence { SETTLING } else { Duration::ZERO };
            let until = known.map_or_else(|| Instant::now() + settling, |(_, until)| *until);
            owned.insert(group.id(), (owner.epoch, until));
            led.push(group);
        }
        self.owned = owned;
        led
    }

    /// The meta leader's part: the map.
    async fn place(&mut self, map: &Arc<Map>) -> bool {
        if !self.host.group(GroupId::META).is_some_and(|meta| meta.leads()) {
            self.absent.clear();
            return false;
        }
        let up = self.up(map);
        let mut changes = self.absences(map, &up);
        let same = |(of, by): &(Arc<Map>, _)| Arc::ptr_eq(of, map) && *by == up;
        if !self.at_rest.as_ref().is_some_and(same) {
            changes.extend(map.newer_wire().map(|to| Command::RaiseWire { to }));
            changes.extend(placement::plan(map, &up));
        }
        let any = !changes.is_empty();
        self.at_rest = (!any).then(|| (Arc::clone(map), up));
        for command in changes {
            if matches!(command, Command::AddReplica { .. }) {
                failpoint::hit("place-add");
            }
            if matches!(command, Command::RemoveReplica { .. }) {
                failpoint::hit("place-remove");
            }
            if !change(&self.host, command).await {
                break;
            }
        }
        any
    }

    fn up(&self, map: &Map) -> BTreeSet<NodeId> {
        let me = self.host.node();
        map.nodes.keys().copied().filter(|&node| node == me || self.sight.is_up(node)).collect()
    }

    /// Nodes that have been away for too long, and those that are back.
    fn absences(&mut self, map: &Map, up: &BTreeSet<NodeId>) -> Vec<Command> {
        let now = Instant::now();
        self.absent.retain(|node, _| !up.contains(node) && map.nodes.contains_key(node));
        for &node in map.nodes.keys().filter(|node| !up.contains(node)) {
            self.absent.entry(node).or_insert(now);
        }
        let is_lost = |node: &Node| match (self.absent.get(&node.id), self.replace_after) {
            (None, _) => false,
            (Some(since), Some(after)) => node.lost || since.elapsed() >= after,
            (Some(_), None) => node.lost,
        };
        let changed = map.nodes.values().filter(|node| node.lost != is_lost(node));
        changed.map(|node| Command::SetLost { node: node.id, lost: !node.lost }).collect()
    }

    /// Who should lead instead of this node and can do so at once, or must because this one may not
    /// go on.
    fn heir(&self, map: &Map, group: &Group) -> Option<MemberView> {
        let placement = map.groups.get(&group.id())?;
        let me = self.host.node();
        let takes = |node: NodeId| map.nodes.get(&node).is_some_and(Node::takes_more);
        let must = !takes(me) || placement.leaving.contains(&group.replica());
        let wanted = placement.preferred != me && (!group.id().is_meta() || placement.pinned);
        let paused = self.pauses.get(&group.id()).is_some_and(|until| Instant::now() < *until);
        let settling = self.owned.get(&group.id()).is_none_or(|(_, until)| Instant::now() < *until);
        if paused || (settling && !must) || !(must || wanted) || !group.is_settled() {
            return None;
        }
        let heir = self.host.heir(group, |node| self.sight.is_up(node))?;
        // From one that rests to another that rests nothing is gained.
        let gains = takes(heir.node) || placement.leaving.contains(&group.replica());
        (gains && (must || heir.node == placement.preferred)).then_some(heir)
    }
}

async fn hand_over(host: &Host, group: &Group, heir: &MemberView) {
    info!(group = %group.id(), to = %heir.node, "handing leadership over");
    failpoint::hit("move-transfer");
    host.moves().note(Move::Transfer, Stage::Begun);
    let handed = group.hand_over(heir.replica).await;
    host.moves().ended(Move::Transfer, handed);
    if !handed {
        warn!(group = %group.id(), to = %heir.node, "leadership not handed over");
    }
}

/// Proposes a change of the map; `false` when the meta group cannot be reached.
async fn change(host: &Host, command: Command) -> bool {
    let shown = format!("{command:?}");
    match host.propose_meta(command).await {
        Ok(applied) => {
            match applied.outcome {
                Ok(_) => debug!(change = shown, "map changed"),
                Err(refusal) => debug!(change = shown, %refusal, "map not changed"),
            }
            true
        }
        Err(error) => {
            debug!(change = shown, %error, "map not changed");
            false
        }
    }
}
