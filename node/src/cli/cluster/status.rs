//! `skep cluster status`: what is wrong first, then nodes, shards and moves.

use client::cluster::{ClusterView, MoveView, NodeView, ReplicaView, ShardView};
use serde::Serialize;

use super::problems::{self, Grade, Problem};
use crate::cli::failure::Failure;
use crate::cli::output::Output;

const NODES: [&str; 12] = [
    "NODE", "STATE", "VERSION", "HTTP", "PEER", "PRESSURE", "DOCS/S", "LEADS", "REPLICAS", "LAG",
    "ZONE", "HEARD",
];
const SHARDS: [&str; 5] = ["SHARD", "LEADER", "REPLICAS (* votes, -n behind)", "EPOCH", "APPLIED"];
const MOVES: [&str; 5] = ["SHARD", "REPLICA ON", "IS", "AND", "BEHIND"];

/// The view with what follows from it.
#[derive(Serialize)]
struct Status<'a> {
    problems: &'a [Problem],
    #[serde(flatten)]
    view: &'a ClusterView,
}

pub(super) fn show(view: &ClusterView, output: Output) -> Result<(), Failure> {
    let problems = problems::problems(view);
    if output.is_json() {
        return Ok(output.json(&Status { problems: &problems, view })?);
    }
    let leader = view.leader.as_deref().unwrap_or("nobody");
    let (cluster, wire, by) = (&view.cluster_id, view.wire, &view.told_by);
    output
        .line(&format!("cluster {cluster}, led by {leader}, wire version {wire}, told by {by}"))?;
    for problem in &problems {
        let grade = if problem.grade == Grade::Fail { "FAIL" } else { "WARN" };
        output.line(&format!("{grade}  {}: {}", problem.about.name(), problem.detail))?;
        output.line(&format!("      {}", problem.advice))?;
    }
    output.table(&NODES, view.nodes.iter().map(node).collect())?;
    output.table(&SHARDS, view.shards.iter().map(shard).collect())?;
    if view.moves.is_empty() {
        return Ok(());
    }
    Ok(output.table(&MOVES, view.moves.iter().map(movement).collect())?)
}

fn node(node: &NodeView) -> Vec<String> {
    let number = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
    vec![
        node.id.clone(),
        node.state.clone(),
        node.version.clone(),
        node.http.clone(),
        node.peer.clone(),
        node.pressure.map(|pressure| format!("{pressure:.1} s")).unwrap_or_default(),
        node.documents_per_s.map(|rate| format!("{rate:.0}")).unwrap_or_default(),
        number(node.shards_led),
        number(node.replicas),
        number(node.lag),
        node.labels.get("zone").cloned().unwrap_or_default(),
        node.heard_ms.map_or_else(|| "never".to_owned(), heard),
    ]
}

fn heard(ms: u64) -> String {
    if ms == 0 { "itself".to_owned() } else { problems::span(ms) }
}

fn shard(shard: &ShardView) -> Vec<String> {
    let replicas: Vec<_> = shard.replicas.iter().map(replica).collect();
    vec![
        shard.id.clone(),
        shard.leader.clone().unwrap_or_else(|| "none".to_owned()),
        replicas.join(" "),
        shard.epoch.to_string(),
        shard.applied.map(|applied| applied.to_string()).unwrap_or_default(),
    ]
}

fn replica(replica: &ReplicaView) -> String {
    let mark = if replica.role == "voter" { "*" } else { "" };
    let lag = replica.lag.filter(|&lag| lag > 0).map(|lag| format!("-{lag}")).unwrap_or_default();
    format!("{}{mark}{lag}", replica.node)
}

fn movement(step: &MoveView) -> Vec<String> {
    vec![
        step.shard.clone(),
        step.node.clone(),
        step.direction.clone(),
        step.stage.clone(),
        step.lag.map(|lag| lag.to_string()).unwrap_or_default(),
    ]
}
