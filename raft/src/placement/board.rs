//! What the nodes carry, as it will be when everything that is under way has ended.

use std::collections::{BTreeMap, BTreeSet};

use protocol::NodeId;
use protocol::nodes::{Map, Node, State};

/// So that loads over weights are compared in whole numbers.
const SCALE: u64 = 1_000_000;

/// Where a node stands; one that does not say stands apart from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Zone<'a> {
    Named(&'a str),
    Own(NodeId),
}

pub(super) fn zone_of(node: &Node) -> Zone<'_> {
    node.zone().map_or(Zone::Own(node.id), Zone::Named)
}

/// Loads of the nodes, in replicas or in leaderships.
pub(super) struct Board<'a> {
    pub(super) map: &'a Map,
    up: &'a BTreeSet<NodeId>,
    load: BTreeMap<NodeId, u64>,
}

impl<'a> Board<'a> {
    pub(super) fn new(map: &'a Map, up: &'a BTreeSet<NodeId>) -> Self {
        Self { map, up, load: BTreeMap::new() }
    }

    pub(super) fn take(&mut self, node: NodeId) {
        *self.load.entry(node).or_default() += 1;
    }

    pub(super) fn give(&mut self, node: NodeId) {
        if let Some(load) = self.load.get_mut(&node) {
            *load -= 1;
        }
    }

    pub(super) fn load(&self, node: NodeId) -> u64 {
        self.load.get(&node).copied().unwrap_or(0)
    }

    fn weight(&self, node: NodeId) -> u64 {
        self.map.nodes.get(&node).map_or(1, |node| u64::from(node.registration.weight.max(1)))
    }

    /// What the sum of `load² / weight` falls by when the node has one less.
    pub(super) fn relief(&self, node: NodeId) -> u64 {
        (2 * self.load(node)).saturating_sub(1) * SCALE / self.weight(node)
    }

    /// What the same sum rises by when the node has one more.
    pub(super) fn burden(&self, node: NodeId) -> u64 {
        (2 * self.load(node) + 1) * SCALE / self.weight(node)
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.up.contains(&node)
    }

    /// Nodes that may be given something now.
    pub(super) fn takers(&self) -> impl Iterator<Item = NodeId> {
        let takes = |node: &&Node| node.takes_more() && self.up.contains(&node.id);
        self.map.nodes.values().filter(takes).map(|node| node.id)
    }

    /// How much a node should be rid of what it holds; from 2 on it must.
    pub(super) fn doom(&self, node: NodeId) -> u8 {
        match self.map.nodes.get(&node) {
            None => 3,
            Some(node) if node.state == State::Removing => 3,
            Some(node) if node.lost => 2,
            Some(node) => u8::from(!self.is_up(node.id)),
        }
    }

    /// Different zones among these nodes.
    pub(super) fn zones(&self, nodes: impl IntoIterator<Item = NodeId>) -> usize {
        let zone = |node| self.map.nodes.get(&node).map_or(Zone::Own(node), zone_of);
        nodes.into_iter().map(zone).collect::<BTreeSet<_>>().len()
    }
}
