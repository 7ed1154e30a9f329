//! Nodes, moves of replicas and versions, as figures.

use std::collections::BTreeMap;

use actors::System;
use actors::remote::{PeerState, PeerTransport};
use prometheus::core::Collector;
use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use protocol::nodes::{Map, Node, State};

/// Every state of a node, so that one that nobody is in is a zero and not a gap.
const STATES: [&str; 6] = ["up", "draining", "drained", "removing", "down", "lost"];

/// Figures of the cluster as a whole, as this node sees it.
#[derive(Debug)]
pub(super) struct Members {
    nodes: IntGaugeVec,
    leaderless: IntGauge,
    short: IntGauge,
    moving: IntGauge,
    moves: IntCounterVec,
    wire: IntGauge,
    apart: Gauge,
    pressure: Gauge,
}

impl Members {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let moves = Opts::new(
            "replica_moves_total",
            "Changes of memberships and leaders that this node led, by kind and stage",
        );
        Ok(Self {
            nodes: IntGaugeVec::new(
                Opts::new("nodes", "Nodes, by state as seen here"),
                &["state"],
            )?,
            leaderless: IntGauge::new(
                "groups_without_leader",
                "Groups with a replica here of which no leader is known here",
            )?,
            short: IntGauge::new(
                "groups_short_of_voters",
                "Groups in which fewer replicas vote than should, by the map",
            )?,
            moving: IntGauge::new("replicas_moving", "Replicas on their way, by the map")?,
            moves: IntCounterVec::new(moves, &["kind", "stage"])?,
            wire: IntGauge::new("wire_version", "Version of the wire that the cluster speaks")?,
            apart: Gauge::new(
                "clock_apart_seconds",
                "The most that the clock of another node differs from this one's",
            )?,
            pressure: Gauge::new(
                "pressure_seconds",
                "Until what waits for the inference slots of this node is done",
            )?,
        })
    }

    pub(super) fn gauges(&self) -> [&dyn Collector; 8] {
        [
            &self.nodes,
            &self.leaderless,
            &self.short,
            &self.moving,
            &self.moves,
            &self.wire,
            &self.apart,
            &self.pressure,
        ]
    }

    pub(super) fn look(&self, system: &System, transport: &impl PeerTransport) {
        let groups = system.host.groups();
        let leaderless = groups.iter().filter(|group| group.leader().is_none()).count();
        self.leaderless.set(leaderless as i64);
        self.moves.reset();
        for (kind, stage, count) in system.host.moves().counts() {
            self.moves.with_label_values(&[kind.name(), stage.name()]).inc_by(count);
        }
        let apart_ms = actors::clock::walls_ahead().into_values().map(i64::unsigned_abs).max();
        self.apart.set(apart_ms.unwrap_or(0) as f64 / 1_000.0);
        let load = system.workers.loads().remove(&system.host.node());
        self.pressure.set(load.map_or(0.0, |load| load.pressure_s()));
        let map = system.host.map().borrow().clone();
        if let Some(map) = map {
            self.look_at(&map, |node| {
                let up = transport.states().borrow().get(&node.id.0).copied();
                node.id == system.host.node() || matches!(up, Some(PeerState::Up { .. }))
            });
        }
    }

    fn look_at(&self, map: &Map, is_up: impl Fn(&Node) -> bool) {
        let mut counts: BTreeMap<&str, i64> = STATES.map(|state| (state, 0)).into();
        for node in map.nodes.values() {
            *counts.entry(state(node, is_up(node))).or_default() += 1;
        }
        for (state, count) in counts {
            self.nodes.with_label_values(&[state]).set(count);
        }
        let short = map.groups.iter().filter(|(group, at)| {
            at.settled().count() < raft::placement::voters_wanted(map, **group)
        });
        self.short.set(short.count() as i64);
        let moving = |at: &protocol::nodes::Placement| {
            let joining = at.replicas.keys().filter(|id| !at.voting.contains(id));
            joining.chain(&at.leaving).count() as i64
        };
        self.moving.set(map.shards().map(|(_, at)| moving(at)).sum());
        self.wire.set(i64::from(map.wire));
    }
}

/// As in `GET /admin/v1/cluster`.
pub(in crate::http) fn state(node: &Node, up: bool) -> &'static str {
    match (up, node.state) {
        (false, _) if node.lost => "lost",
        (false, _) => "down",
        (true, State::Active) => "up",
        (true, state) => state.name(),
    }
}
