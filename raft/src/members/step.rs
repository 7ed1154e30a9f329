//! One step of a group's membership towards the map, by the group's leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::ChangeMembers;
use protocol::nodes::{Command, Map, Placement};
use protocol::{NodeId, ReplicaId};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{CAUGHT_UP, Move, Sight, Stage, change};
use crate::failpoint;
use crate::group::{Group, MemberView};
use crate::node::Host;
use crate::placement;
use crate::types::Member;

/// A node that has left the map stays a learner of the meta group for this long, so that it hears
/// of that. One that did not is told when it starts again.
const FAREWELL: Duration = Duration::from_millis(1_500);

/// Since when replicas are members that the map does not have.
pub(super) type Farewells = Arc<Mutex<BTreeMap<ReplicaId, Instant>>>;

pub(super) struct Step<'a, S> {
    pub(super) host: &'a Host,
    pub(super) sight: &'a S,
    pub(super) map: &'a Map,
    pub(super) group: Group,
    pub(super) farewells: Farewells,
}

/// What is to be done to the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Add(ReplicaId, NodeId),
    Promote(ReplicaId),
    /// The voter stays as a learner if it may.
    Demote(ReplicaId, bool),
    Drop(ReplicaId),
}

impl Act {
    fn step(self) -> Move {
        match self {
            Self::Add(..) => Move::Add,
            Self::Promote(_) => Move::Promote,
            Self::Demote(..) => Move::Demote,
            Self::Drop(_) => Move::Drop,
        }
    }
}

impl<S: Sight> Step<'_, S> {
    /// Tells the map or does one thing; `true` if there was anything to do.
    pub(super) async fn take(&self) -> bool {
        let Some(placement) = self.map.groups.get(&self.group.id()) else { return false };
        let Some(settled) = self.group.settled() else {
            self.finish().await;
            return true;
        };
        let known = placement.replicas.keys().copied().collect();
        let told = placement.voting == settled.voting.intersection(&known).copied().collect()
            && placement.leaving.is_subset(&settled.members);
        if !told {
            failpoint::hit("move-tell");
            let (group, index) = (self.group.id(), settled.index);
            let (voting, members) = (settled.voting, settled.members);
            change(self.host, Command::Confirm { group, index, voting, members }).await;
            return true;
        }
        let Some(act) = self.due(self.map, placement) else { return false };
        // A leader whose map is old must not bring back what was taken away.
        if self.host.sync_map().await.is_err() {
            return true;
        }
        let map = self.host.map().borrow().clone();
        let still = map.as_ref().and_then(|map| {
            let placement = map.groups.get(&self.group.id())?;
            self.due(map, placement)
        });
        if still == Some(act) {
            self.perform(act).await;
        }
        true
    }

    /// Ends what a leader began that is none any more.
    async fn finish(&self) {
        if !self.group.is_half_changed() {
            return;
        }
        info!(group = %self.group.id(), "finishing a membership change");
        // Nobody more: from both memberships to the second of them.
        let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
        // Whoever is to go altogether goes in a step of its own.
        if let Err(error) = self.group.raft().change_membership(nobody, true).await {
            debug!(group = %self.group.id(), %error, "membership change not finished");
        }
    }

    fn due(&self, map: &Map, placement: &Placement) -> Option<Act> {
        let members = self.group.members();
        let known: BTreeSet<ReplicaId> = members.iter().map(|member| member.replica).collect();
        let mut staying =
            placement.replicas.iter().filter(|(id, _)| !placement.leaving.contains(id));
        if let Some((&replica, &node)) = staying.find(|(id, _)| !known.contains(id)) {
            return Some(Act::Add(replica, node));
        }
        let wanted: BTreeSet<ReplicaId> =
            placement::voters(map, self.group.id()).into_iter().map(|(id, _)| id).collect();
        let joining = |member: &&MemberView| !member.voter && wanted.contains(&member.replica);
        let ready = members.iter().filter(joining).find(|member| self.is_ready(member));
        if let Some(ready) = ready {
            return Some(Act::Promote(ready.replica));
        }
        // Those who are to vote do so before others cease to.
        if members.iter().any(|member| joining(&member)) {
            return None;
        }
        self.surplus(placement, &members, &wanted)
    }

    fn is_ready(&self, member: &MemberView) -> bool {
        let close = member.lag.is_some_and(|lag| lag <= CAUGHT_UP);
        close && self.is_up(member.node) && self.has_all(member.node)
    }

    /// What is stored from the membership on is stored on the new replica as well.
    fn has_all(&self, node: NodeId) -> bool {
        let group = self.group.id();
        let since = self.group.settled().map(|settled| settled.index);
        group.is_meta() || since.is_some_and(|since| self.sight.has_all(node, group, since))
    }

    fn surplus(
        &self,
        placement: &Placement,
        members: &[MemberView],
        wanted: &BTreeSet<ReplicaId>,
    ) -> Option<Act> {
        let stays =
            |id: &ReplicaId| placement.replicas.contains_key(id) && !placement.leaving.contains(id);
        let voter = members.iter().find(|member| {
            // Its own replica goes after leadership did.
            let own = member.replica == self.group.replica();
            member.voter && !own && !wanted.contains(&member.replica)
        });
        if let Some(voter) = voter.filter(|voter| self.can_do_without(members, voter.replica)) {
            return Some(Act::Demote(voter.replica, stays(&voter.replica)));
        }
        let mut gone = members.iter().filter(|member| !member.voter && !stays(&member.replica));
        let gone = gone.find(|member| {
            placement.leaving.contains(&member.replica) || self.has_said_farewell(member)
        })?;
        Some(Act::Drop(gone.replica))
    }

    /// Whether most of the other voters are up and have caught up.
    fn can_do_without(&self, members: &[MemberView], replica: ReplicaId) -> bool {
        let rest = members.iter().filter(|member| member.voter && member.replica != replica);
        let fit = |member: &MemberView| {
            member.replica == self.group.replica()
                || (self.is_up(member.node) && member.lag.is_some_and(|lag| lag <= CAUGHT_UP))
        };
        let (mut all, mut live) = (0, 0);
        for member in rest {
            all += 1;
            live += usize::from(fit(member));
        }
        live > all / 2
    }

    fn has_said_farewell(&self, member: &MemberView) -> bool {
        let mut farewells = self.farewells.lock().unwrap_or_else(|_| std::process::abort());
        let since = *farewells.entry(member.replica).or_insert_with(Instant::now);
        let over = !self.is_up(member.node) || since.elapsed() >= FAREWELL;
        if over {
            farewells.remove(&member.replica);
        }
        over
    }

    fn is_up(&self, node: NodeId) -> bool {
        node == self.host.node() || self.sight.is_up(node)
    }

    async fn perform(&self, act: Act) {
        info!(group = %self.group.id(), ?act, "membership step");
        self.host.moves().note(act.step(), Stage::Begun);
        let raft = self.group.raft();
        let one = |replica: ReplicaId| BTreeSet::from([replica.0]);
        let changed = match act {
            Act::Add(replica, node) => {
                failpoint::hit("move-add");
                raft.add_learner(replica.0, Member { node }, false).await.map(drop)
            }
            Act::Promote(replica) => {
                failpoint::hit("move-promote");
                let change = ChangeMembers::AddVoterIds(one(replica));
                raft.change_membership(change, true).await.map(drop)
            }
            Act::Demote(replica, stays) => {
                failpoint::hit("move-demote");
                let change = ChangeMembers::RemoveVoters(one(replica));
                raft.change_membership(change, stays).await.map(drop)
            }
            Act::Drop(replica) => {
                failpoint::hit("move-drop");
                let change = ChangeMembers::RemoveNodes(one(replica));
                raft.change_membership(change, true).await.map(drop)
            }
        };
        self.host.moves().ended(act.step(), changed.is_ok());
        if let Err(error) = changed {
            debug!(group = %self.group.id(), ?act, %error, "membership not changed");
        }
        failpoint::hit("move-done");
    }
}
