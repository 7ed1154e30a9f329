//! Is this node ready: it knows who decides, and it has caught up with what it saw at its start.

use std::collections::BTreeMap;
use std::sync::Mutex;

use actors::System;
use actors::remote::{ClusterTransport, PeerState, PeerTransport as _};
use axum::http::HeaderValue;
use protocol::{GroupId, NodeId};

use super::health::{Check, Load, Status};

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

    fn leaders(&self) -> Check {
        let map = self.system.host.map().borrow().clone();
        let Some(map) = map else {
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

    /// A leader that has a quorum, as far as this node can tell.
    fn is_led(&self, group: GroupId) -> bool {
        let Some(group) = self.system.host.group(group) else {
            // Its replicas are elsewhere; any node that is up can answer for it.
            return true;
        };
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

impl Status for NodeStatus {
    fn node(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.system.host.node().to_string()).ok()
    }

    fn checks(&self) -> Vec<Check> {
        let identity = self.system.slots.identity();
        let model = format!("{} on {} {}", identity.name, identity.engine, identity.engine_version);
        let stays = !self.system.host.is_leaving();
        let staying = check("staying", stays, if stays { "serving" } else { "about to stop" });
        vec![self.leaders(), self.caught_up(), check("model", true, model), staying]
    }

    fn settings(&self) -> serde_json::Map<String, serde_json::Value> {
        let settings = self.system.slots.settings();
        let identity = self.system.slots.identity();
        let mut shown = serde_json::Map::new();
        shown.insert("inference.slots".to_owned(), settings.slots.into());
        shown.insert("inference.delay_ms".to_owned(), (settings.delay.as_millis() as u64).into());
        shown.insert("inference.engine".to_owned(), identity.engine.clone().into());
        shown.insert("inference.model".to_owned(), identity.name.clone().into());
        shown.insert("inference.model_sha256".to_owned(), identity.sha256.clone().into());
        shown
    }

    fn load(&self) -> Load {
        /// Documents per slot at which a cluster should have one more node.
        const FULL: f64 = 512.0;
        let loads = self.system.workers.loads();
        let documents: u64 = loads.values().map(|load| load.documents).sum();
        let slots: u32 = loads.values().map(|load| load.slots).sum();
        let pressure = documents as f64 / (f64::from(slots.max(1)) * FULL);
        let nodes = loads.len().max(1) as u64;
        let wanted = ((nodes as f64) * pressure.max(1.0)).ceil() as u64;
        Load { pressure, nodes, wanted }
    }
}

fn check(name: &'static str, ok: bool, detail: impl Into<String>) -> Check {
    Check { name, ok, detail: detail.into() }
}
