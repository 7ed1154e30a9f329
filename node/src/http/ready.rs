//! Is this node ready: it knows who decides, and it has caught up with what it saw at its start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::System;
use actors::jobs::Standing;
use actors::remote::{ClusterTransport, PeerState, PeerTransport as _};
use axum::http::HeaderValue;
use protocol::nodes::{Map, NODES_MAX, REPLICAS};
use protocol::versions::Wire;
use protocol::{GroupId, NodeId};
use raft::Group;

use super::health::{Check, Load, Status};
use super::report::{GroupReport, Report, Settings, Spoken};

/// What the node says of itself.
#[derive(Debug)]
pub struct NodeStatus {
    system: System,
    transport: ClusterTransport,
    /// The commit index of each group when it was first seen here.
    seen: Mutex<BTreeMap<GroupId, u64>>,
}

impl NodeStatus {
    /// Looks at a tree that runs.
    #[must_use]
    pub fn new(system: System, transport: ClusterTransport) -> Self {
        Self { system, transport, seen: Mutex::default() }
    }

    fn map(&self) -> Option<Arc<Map>> {
        self.system.host.map().borrow().clone()
    }

    fn settings(&self) -> Settings {
        let settings = self.system.slots.settings();
        let identity = self.system.slots.identity();
        Settings {
            slots: settings.slots,
            delay_ms: settings.delay.as_millis() as u64,
            engine: identity.engine.clone(),
            model: identity.name.clone(),
            model_sha256: identity.sha256.clone(),
            checkpoint_s: self.system.host.checkpoint_every().as_secs(),
        }
    }

    fn peers_up(&self) -> usize {
        let states = self.transport.states();
        let states = states.borrow();
        states.values().filter(|state| matches!(state, PeerState::Up { .. })).count()
    }

    fn leaders(&self) -> Check {
        let Some(map) = self.map() else {
            return check("leaders", false, "the cluster map is not known yet");
        };
        let without: Vec<String> = map
            .groups
            .keys()
            .filter(|&&group| !self.is_led(group))
            .map(GroupId::to_string)
            .collect();
        let detail = match without.len() {
            0 => format!("{} groups have a leader", map.groups.len()),
            _ => format!("no leader of group {}", without.join(", ")),
        };
        check("leaders", without.is_empty(), detail)
    }

    /// A leader that has a quorum, as far as this node can tell. One who was obeyed here a moment ago
    /// counts: leads are handed over all the time, and requests wait for that.
    fn is_led(&self, group: GroupId) -> bool {
        /// No election begins before 1.5 s, and an idle leader beats every 0.6 s.
        const MOMENT: Duration = Duration::from_millis(1_200);
        let Some(group) = self.system.host.group(group) else {
            // Its replicas are elsewhere; any node that is up can answer for it.
            return true;
        };
        if group.silence() < MOMENT {
            return true;
        }
        match group.leader() {
            Some(leader) if leader == self.system.host.node() => group.has_quorum(),
            Some(leader) => self.is_up(leader),
            None => false,
        }
    }

    fn is_up(&self, node: NodeId) -> bool {
        let states = self.transport.states();
        let states = states.borrow();
        matches!(states.get(&node.0), Some(PeerState::Up { .. }))
    }

    fn caught_up(&self) -> Check {
        let mut seen = self.seen.lock().unwrap_or_else(|_| std::process::abort());
        let mut behind = Vec::new();
        for group in self.system.host.groups() {
            let target = *seen.entry(group.id()).or_insert_with(|| group.committed());
            if group.applied() < target {
                behind.push(group.id().to_string());
            }
        }
        let detail = match behind.len() {
            0 => "every replica has what was committed at the start".to_owned(),
            _ => format!("behind in group {}", behind.join(", ")),
        };
        check("caught_up", behind.is_empty(), detail)
    }
}

impl NodeStatus {
    /// Whether every version that serves is warm here; `built_in` always is.
    fn model(&self, built_in: String) -> Check {
        match self.system.models.warm() {
            Ok(()) => check("model", true, built_in),
            Err(why) => check("model", false, why),
        }
    }
}

impl Status for NodeStatus {
    fn node(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.system.host.node().to_string()).ok()
    }

    fn checks(&self) -> Vec<Check> {
        let identity = self.system.slots.identity();
        let model = format!("{} on {} {}", identity.name, identity.engine, identity.engine_version);
        let stays = !self.system.host.is_leaving();
        let staying = check("staying", stays, if stays { "serving" } else { "about to stop" });
        vec![self.leaders(), self.caught_up(), self.model(model), staying]
    }

    fn wire(&self) -> Spoken {
        let Wire { min, max } = Wire::OURS;
        Spoken { active: self.map().map(|map| map.wire), min, max }
    }

    fn report(&self) -> Option<Report> {
        let (system, host) = (&self.system, &self.system.host);
        let map = self.map();
        let own = map.as_ref().and_then(|map| map.nodes.get(&host.node()));
        let load = system.workers.loads().remove(&host.node());
        let ahead = actors::clock::walls_ahead().into_iter();
        Some(Report {
            version: env!("CARGO_PKG_VERSION"),
            wire: self.wire(),
            state: own.map(|node| node.state.name().to_owned()),
            settings: self.settings(),
            pressure: load.as_ref().map_or(0.0, actors::jobs::Load::pressure_s),
            documents: load.map_or(0, |load| load.documents),
            peers_up: self.peers_up(),
            peers: map.as_ref().map_or(0, |map| map.nodes.len().saturating_sub(1)),
            certificate_expires_at: host.peers().trust().expires_at().to_string(),
            clocks_ahead_ms: ahead.map(|(node, ms)| (node.to_string(), ms)).collect(),
            damage: host.damage().into_iter().map(|damage| damage.why).collect(),
            groups: host.groups().iter().map(group_report).collect(),
        })
    }

    fn load(&self) -> Load {
        let loads = self.system.workers.loads();
        let working = loads.values().filter(|load| load.standing == Standing::Working);
        let working: Vec<_> = working.collect();
        let backlog: u64 = self.system.ward.all().values().map(|vitals| vitals.backlog).sum();
        // Tasks that were given out are in both; scans are on nodes only.
        let documents = loads.values().map(|load| load.documents).sum::<u64>().max(backlog);
        let per_s: f64 = working.iter().map(|load| load.documents_per_s()).sum();
        wanted(working.len().max(1) as u64, documents as f64 / per_s.max(0.001))
    }
}

/// What a cluster of so many nodes needs that takes so long for what waits.
fn wanted(nodes: u64, drain_s: f64) -> Load {
    /// A backlog that takes longer than this is worth another node.
    const DRAIN_S: f64 = 30.0;
    /// Of what is measured under load only the order of magnitude is right.
    const GROWTH_MAX: u64 = 2;
    let pressure = drain_s / DRAIN_S;
    let (least, most) = (nodes.min(REPLICAS as u64), (nodes * GROWTH_MAX).min(NODES_MAX as u64));
    let wanted = ((nodes as f64 * pressure).ceil() as u64).clamp(least, most.max(least));
    Load { pressure, nodes, wanted }
}

fn group_report(group: &Group) -> GroupReport {
    let open = group.leads();
    let applied = group.applied();
    let followers = group.members().iter().filter_map(|member| member.lag).max().unwrap_or(0);
    let lag = if open { followers } else { group.committed().saturating_sub(applied) };
    let checkpoint = group.checkpoint();
    GroupReport {
        group: group.id().0,
        replica_id: group.replica().0,
        leader: group.leader().map(|leader| leader.to_string()),
        open,
        epoch: group.view().epoch().0,
        applied,
        lag,
        checkpoint_index: checkpoint.map(|written| written.index),
        checkpoint_age_s: checkpoint.map(|written| written.at.elapsed().as_secs()),
    }
}

fn check(name: &'static str, ok: bool, detail: impl Into<String>) -> Check {
    Check { name, ok, detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_nodes_follow_the_time_that_the_backlog_takes() {
        let nodes = |nodes, drain_s| wanted(nodes, drain_s).wanted;
        assert_eq!(nodes(3, 0.0), 3, "three replicas need three nodes");
        assert_eq!(nodes(1, 0.0), 1);
        assert_eq!(nodes(6, 15.0), 3);
        assert_eq!(nodes(6, 30.0), 6);
        assert_eq!(nodes(6, 31.0), 7);
        assert_eq!(nodes(6, 3_000.0), 12, "no more than twice as many at once");
        assert_eq!(nodes(150, 3_000.0), 200);
        assert!((wanted(3, 60.0).pressure - 2.0).abs() < 1e-9);
    }
}
