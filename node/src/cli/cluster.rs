//! `skep cluster`: the cluster as one of its nodes sees it.

use client::cluster::{ClusterView, ReplicaView};

use super::Context;
use super::failure::Failure;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Nodes and shards, their leaders and replicas
    Status,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Status => {
            let view = context.client()?.cluster().await?;
            context.output.detail(&format!("{:?}", view.meta));
            if context.output.is_json() {
                return Ok(context.output.json(&view.body)?);
            }
            let leader = view.leader.as_deref().unwrap_or("none");
            context.output.line(&format!("cluster {}, led by {leader}", view.cluster_id))?;
            context.output.table(&NODES, nodes(&view.body))?;
            Ok(context.output.table(&SHARDS, shards(&view.body))?)
        }
    }
}

const NODES: [&str; 7] = ["NODE", "STATE", "HTTP", "PEER", "VERSION", "PRESSURE", "LEADS"];
const SHARDS: [&str; 4] = ["SHARD", "LEADER", "REPLICAS (* votes)", "APPLIED"];

fn nodes(view: &ClusterView) -> Vec<Vec<String>> {
    let row = |node: &client::cluster::NodeView| {
        vec![
            node.id.clone(),
            node.state.clone(),
            node.http.clone(),
            node.peer.clone(),
            node.version.clone(),
            node.pressure.map(|pressure| format!("{pressure:.2}")).unwrap_or_default(),
            node.shards_led.map(|led| led.to_string()).unwrap_or_default(),
        ]
    };
    view.nodes.iter().map(row).collect()
}

fn shards(view: &ClusterView) -> Vec<Vec<String>> {
    let row = |shard: &client::cluster::ShardView| {
        let replicas: Vec<_> = shard.replicas.iter().map(replica).collect();
        vec![
            shard.id.clone(),
            shard.leader.clone().unwrap_or_else(|| "none".to_owned()),
            replicas.join(" "),
            shard.applied.map(|applied| applied.to_string()).unwrap_or_default(),
        ]
    };
    view.shards.iter().map(row).collect()
}

fn replica(replica: &ReplicaView) -> String {
    let mark = if replica.role == "voter" { "*" } else { "" };
    format!("{}{mark}", replica.node)
}
