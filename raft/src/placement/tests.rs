use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::nodes::{Command, LifeId, Map, REPLICAS, Registration, SHARDS, Secrets, State, ZONE};
use protocol::versions::Wire;
use protocol::{
    ClusterId, Digest, Entry, GroupId, Name, NodeId, Outcome, Proposal, Refusal, Stamp, Time,
};

use super::*;
use crate::machine::Machine;

/// Rounds of changes after which a cluster of these sizes must be at rest.
const ROUNDS_MAX: usize = 400;

fn registration(zone: Option<u8>, weight: u32) -> Registration {
    let zone = zone.map(|zone| (Name::parse(ZONE).unwrap(), format!("zone-{zone}")));
    Registration {
        incarnation: 1,
        life: LifeId(1),
        pin: Digest([0; 32]),
        http: String::new(),
        peer: String::new(),
        version: "0.0.0".to_owned(),
        wire: Wire::OURS,
        labels: zone.into_iter().collect(),
        weight,
        key: [0; 32],
    }
}

/// A meta group whose other groups do at once what the map wants.
struct Meta {
    machine: Machine,
    index: u64,
    up: BTreeSet<NodeId>,
    /// Replicas of shards that were made.
    made: usize,
}

impl Meta {
    fn new(zone: Option<u8>) -> Self {
        let machine = Machine::new(GroupId::META);
        let mut meta = Self { machine, index: 0, up: [NodeId(1)].into(), made: 0 };
        meta.run(Command::Bootstrap {
            cluster: ClusterId(1),
            secrets: Secrets { pepper: [0; 32], cookie: [0; 32] },
            registration: registration(zone, 1),
        });
        meta
    }

    /// A settled cluster of so many nodes.
    fn of(nodes: usize, zones: Option<usize>) -> Self {
        let zone = |at: usize| zones.map(|zones| (at % zones) as u8);
        let mut meta = Self::new(zone(0));
        for at in 1..nodes {
            meta.join(zone(at), 1);
        }
        meta.settle();
        meta.made = 0;
        meta
    }

    fn try_run(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let epoch = self.machine.epoch();
        let command = protocol::Command::Node(command);
        let proposals = vec![Proposal::new(Stamp::at(Time(self.index)), command)];
        let mut changes = self.machine.apply(self.index, 1, Entry { epoch, proposals });
        changes.applied.remove(0).outcome
    }

    fn run(&mut self, command: Command) {
        let shown = format!("{command:?}");
        let outcome = self.try_run(command);
        assert!(outcome.is_ok(), "{shown}: {outcome:?}");
    }

    fn join(&mut self, zone: Option<u8>, weight: u32) {
        let token = Digest([self.map().next_node as u8; 32]);
        self.run(Command::IssueToken { token, expires_at: Time(u64::MAX) });
        self.up.insert(NodeId(self.map().next_node));
        self.run(Command::Join { token, registration: registration(zone, weight) });
    }

    /// Groups whose leader has something to tell; those that go first first.
    fn told(&self) -> Vec<Command> {
        settle(self.map())
    }

    /// One round: the plan, then some of the groups do what it says.
    fn round(&mut self, some: impl Fn(usize) -> bool) -> bool {
        let changes = plan(self.map(), &self.up);
        let told = self.told();
        let rests = changes.is_empty() && told.is_empty();
        for change in changes {
            self.made += usize::from(matches!(change, Command::AddReplica { .. }));
            self.run(change);
        }
        self.check();
        let told = self.told().into_iter().enumerate().filter(|(at, _)| some(*at));
        for (_, command) in told.collect::<Vec<_>>() {
            self.run(command);
        }
        self.check();
        !rests
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.round(|_| true) {
                return;
            }
        }
        panic!("placement does not settle: {:?}", plan(self.map(), &self.up));
    }

    /// What holds at every moment.
    fn check(&self) {
        for (group, placement) in self.map().shards() {
            let hosts: BTreeSet<_> = placement.replicas.values().collect();
            assert_eq!(hosts.len(), placement.replicas.len(), "two replicas on one node");
            assert!(placement.replicas.len() <= REPLICAS + 1, "{group}: {placement:?}");
            assert!(!placement.voting.is_empty());
        }
    }

    fn live(&self) -> usize {
        let live = |placement: &protocol::nodes::Placement| {
            placement.settled().filter(|(_, node)| self.up.contains(node)).count()
        };
        self.map().shards().map(|(_, placement)| live(placement)).min().unwrap()
    }

    fn map(&self) -> &Map {
        self.machine.nodes.map().unwrap()
    }

    fn count(&self, of: impl Fn(&protocol::nodes::Placement) -> Vec<NodeId>) -> Vec<usize> {
        let mut counts: BTreeMap<_, _> = self.map().nodes.keys().map(|&node| (node, 0)).collect();
        for node in self.map().shards().flat_map(|(_, placement)| of(placement)) {
            *counts.entry(node).or_default() += 1;
        }
        counts.into_values().collect()
    }

    fn replicas(&self) -> Vec<usize> {
        self.count(|placement| placement.replicas.values().copied().collect())
    }

    fn leads(&self) -> Vec<usize> {
        self.count(|placement| vec![placement.preferred])
    }

    fn zones(&self) -> usize {
        let zones = |placement: &protocol::nodes::Placement| {
            let zone = |node: &NodeId| self.map().nodes[node].zone().unwrap().to_owned();
            placement.replicas.values().map(zone).collect::<BTreeSet<_>>().len()
        };
        self.map().shards().map(|(_, placement)| zones(placement)).min().unwrap()
    }
}

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

#[test]
fn a_cluster_of_one_needs_nothing() {
    assert!(plan(Meta::new(None).map(), &[NodeId(1)].into()).is_empty());
}

#[test]
fn twice_the_weight_gets_twice_as_much() {
    let mut meta = Meta::of(5, None);
    meta.join(None, 2);
    meta.settle();
    let all = SHARDS as usize * REPLICAS;
    let (replicas, leads) = (meta.replicas(), meta.leads());
    assert!(replicas[5].abs_diff(all * 2 / 7) <= 1, "{replicas:?}");
    assert!(leads[5].abs_diff(SHARDS as usize * 2 / 7) <= 1, "{leads:?}");
}

#[test]
fn a_drained_node_keeps_its_replicas_and_leads_nothing() {
    let mut meta = Meta::of(4, None);
    let before = meta.replicas();
    meta.run(Command::SetState { node: NodeId(2), state: State::Draining });
    meta.settle();
    assert_eq!((meta.replicas(), meta.leads()[1], meta.made), (before, 0, 0));
    meta.run(Command::SetState { node: NodeId(2), state: State::Active });
    meta.settle();
    assert!(spread(&meta.leads()) <= 1);
}

#[test]
fn what_an_operator_pinned_stays_until_it_is_let_go() {
    let mut meta = Meta::of(3, None);
    for shard in 1..=SHARDS {
        meta.run(Command::Pin { group: GroupId(shard), node: NodeId(3) });
    }
    meta.settle();
    assert_eq!(meta.leads(), [0, 0, 16]);
    meta.run(Command::Unpin);
    meta.settle();
    assert!(spread(&meta.leads()) <= 1);
}

#[test]
fn a_lost_node_is_replaced_where_there_is_room() {
    for (nodes, replaced) in [(3, false), (4, true), (5, true)] {
        let mut meta = Meta::of(nodes, None);
        meta.up.remove(&NodeId(1));
        assert!(plan(meta.map(), &meta.up).is_empty(), "not before it is lost");
        meta.run(Command::SetLost { node: NodeId(1), lost: true });
        meta.settle();
        assert_eq!(meta.replicas()[0] == 0, replaced);
        assert_eq!(meta.live(), if replaced { 3 } else { 2 });
        let electorate = voters(meta.map(), GroupId::META);
        let votes = electorate.iter().any(|(_, node)| *node == NodeId(1));
        // Where all nodes vote there is nobody to take its place.
        assert_eq!(votes, nodes != 4);
        meta.up.insert(NodeId(1));
        meta.run(Command::SetLost { node: NodeId(1), lost: false });
        meta.settle();
        assert!(spread(&meta.replicas()) <= 1 && spread(&meta.leads()) <= 1);
    }
}

#[test]
fn a_removal_that_breaks_a_quorum_is_refused() {
    let refused = |meta: &Meta, node| removable(meta.map(), &meta.up, NodeId(node)).is_err();
    let mut meta = Meta::of(3, None);
    assert!(!refused(&meta, 1));
    meta.up.remove(&NodeId(3));
    assert!(refused(&meta, 1) && refused(&meta, 2));
    assert!(!refused(&meta, 3), "the dead one may go");
    meta.up.remove(&NodeId(2));
    assert!(refused(&meta, 2) && refused(&meta, 3));
    let mut meta = Meta::of(4, None);
    meta.up.remove(&NodeId(4));
    assert!(!refused(&meta, 1), "another can take its place");
    let mut meta = Meta::new(None);
    let last = Command::SetState { node: NodeId(1), state: State::Removing };
    assert_eq!(meta.try_run(last), Err(Refusal::LastNode { node: NodeId(1) }));
}

#[test]
fn a_forecast_is_what_then_happens() {
    let mut meta = Meta::of(4, None);
    meta.join(None, 1);
    let told = forecast(meta.map(), &meta.up);
    let adds = |change: &&Command| matches!(change, Command::AddReplica { .. });
    let told = told.iter().filter(adds).count();
    meta.settle();
    assert_eq!(told, meta.made);
    assert!(forecast(meta.map(), &meta.up).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_are_apart_and_loads_even_at_every_size(nodes in 1usize..12) {
        let meta = Meta::of(nodes, None);
        prop_assert!(meta.map().shards().all(|(_, at)| at.replicas.len() == nodes.min(REPLICAS)));
        prop_assert!(spread(&meta.replicas()) <= 1, "{:?}", meta.replicas());
        prop_assert!(spread(&meta.leads()) <= 1, "{:?}", meta.leads());
        prop_assert_eq!(meta.map().groups[&GroupId::META].voting.len(), meta_voters(nodes));
    }

    #[test]
    fn one_more_node_moves_its_share_and_no_more(nodes in 3usize..12) {
        let mut meta = Meta::of(nodes, None);
        meta.join(None, 1);
        meta.settle();
        let all = SHARDS as usize * REPLICAS;
        prop_assert!(meta.made <= all.div_ceil(nodes + 1) + 1, "{} moves", meta.made);
        prop_assert!(spread(&meta.replicas()) <= 1, "{:?}", meta.replicas());
    }

    #[test]
    fn zones_are_spread_when_there_are_enough(nodes in 3usize..10, zones in 2usize..5) {
        let meta = Meta::of(nodes, Some(zones));
        prop_assert_eq!(meta.zones(), zones.min(nodes).min(REPLICAS));
        let electorate = voters(meta.map(), GroupId::META);
        let of = |(_, node): &(ReplicaId, NodeId)| meta.map().nodes[node].zone().unwrap();
        let electorate: BTreeSet<_> = electorate.iter().map(of).collect();
        prop_assert_eq!(electorate.len(), zones.min(meta_voters(nodes)).min(nodes));
    }

    #[test]
    fn whoever_comes_and_goes_there_are_always_enough_replicas(
        steps in proptest::collection::vec((0u8..4, 0u64..8, 1u32..4), 1..12),
        pace in 1usize..4,
    ) {
        let mut meta = Meta::of(4, None);
        for (what, which, weight) in steps {
            let alive: Vec<NodeId> = meta.map().nodes.keys().copied().collect();
            let node = alive[which as usize % alive.len()];
            let change = match what {
                0 => { meta.join(None, weight); None }
                1 if alive.len() > 3 => Some(Command::SetState { node, state: State::Removing }),
                2 => Some(Command::SetState { node, state: State::Draining }),
                _ => Some(Command::SetState { node, state: State::Active }),
            };
            let staying = |meta: &Meta| {
                let stays = |node: &&Node| node.state != State::Removing;
                meta.map().nodes.values().filter(stays).count()
            };
            if let Some(change) = change {
                // Whether it is refused is no concern of this claim.
                let _ = meta.try_run(change);
            }
            for turn in 0..4 {
                // Nodes that have just come cannot have replicas yet.
                let before = meta.live();
                meta.round(|at| (at + turn) % pace == 0);
                prop_assert!(meta.live() >= before.min(staying(&meta).min(REPLICAS)));
            }
        }
        for node in meta.map().nodes.keys().copied().collect::<Vec<_>>() {
            // A node that is being removed stays so.
            let _ = meta.try_run(Command::SetState { node, state: State::Active });
        }
        meta.settle();
        let removing = |node: &Node| node.state == State::Removing;
        prop_assert!(!meta.map().nodes.values().any(removing), "a removal does not end");
        prop_assert!(meta.map().shards().all(|(_, at)| !at.is_moving()));
    }
}
