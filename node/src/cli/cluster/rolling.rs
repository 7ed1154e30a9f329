//! `skep cluster restart --rolling`: each node is asked to stop in order and to begin again, and the
//! next one only when all are whole.

use std::time::{Duration, Instant};

use client::Retry;
use client::cluster::{ClusterView, NodeView};

use crate::cli::Context;
use crate::cli::failure::{Exit, Failure};
use crate::cli::launch::{Probe, until};

/// How long the cluster may take to be whole, before and after each restart.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// How long leaderships may take to come back to a node.
const LEADING_WITHIN: Duration = Duration::from_secs(10);
/// A look that takes longer is as good as no answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A follower this close has caught up.
const LAG_MAX: u64 = 100;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let mut nodes = context.client()?.cluster().await?.body.nodes;
    let leader = context.client()?.cluster().await?.body.leader;
    // The leader of the meta group last, so that it moves once.
    nodes.sort_by_key(|node| Some(&node.id) == leader.as_ref());
    wait_whole(context, &nodes, "before the first restart").await?;
    for node in &nodes {
        let began = Instant::now();
        let before = incarnation(node);
        context.client_of(&node.http)?.restart_node(&node.id).await?;
        wait_back(context, node, before).await?;
        wait_whole(context, &nodes, &format!("after the restart of {}", node.id)).await?;
        wait_leading(context, node).await?;
        let took = began.elapsed().as_secs_f32();
        context.output.line(&format!("{} is back after {took:.1} s", node.id))?;
    }
    Ok(())
}

fn incarnation(node: &NodeView) -> u64 {
    node.incarnation.as_u64().unwrap_or(0)
}

async fn wait_back(context: &Context, node: &NodeView, before: u64) -> Result<(), Failure> {
    let client = context.client_of(&node.http)?;
    let client = client.with_retry(Retry::NEVER).with_timeout(PROBE_TIMEOUT);
    let what = format!("the return of {}", node.id);
    let back = until(&what, WHOLE_WITHIN, async || {
        let view = match client.cluster().await {
            Ok(view) => view.body,
            Err(error) => return Ok(Probe::NotYet(error.to_string())),
        };
        let own = view.nodes.iter().find(|seen| seen.id == node.id);
        Ok(match own.map(incarnation) {
            Some(now) if now > before => Probe::Done(()),
            now => Probe::NotYet(format!("its incarnation is {now:?}")),
        })
    });
    Ok(back.await?)
}

/// A node gets back what it led. One that does not is no reason to stop in the middle.
async fn wait_leading(context: &Context, node: &NodeView) -> Result<(), Failure> {
    let client = context.client_of(&node.http)?;
    let client = client.with_retry(Retry::NEVER).with_timeout(PROBE_TIMEOUT);
    let leads = until("leaderships", LEADING_WITHIN, async || {
        let view = match client.cluster().await {
            Ok(view) => view.body,
            Err(error) => return Ok(Probe::NotYet(error.to_string())),
        };
        let own = view.nodes.iter().find(|seen| seen.id == node.id);
        let back = own.is_some_and(|own| own.shards_led >= node.shards_led);
        Ok(if back { Probe::Done(()) } else { Probe::NotYet("not yet".to_owned()) })
    });
    if let Err(error) = leads.await {
        context.output.note(&format!("{}: {error}", node.id));
    }
    Ok(())
}

/// Every node is ready, and every follower has caught up in the eyes of its leader.
async fn wait_whole(context: &Context, nodes: &[NodeView], when: &str) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for node in nodes {
        let client = context.client_of(&node.http)?;
        clients.push(client.with_retry(Retry::NEVER).with_timeout(PROBE_TIMEOUT));
    }
    let what = format!("a whole cluster {when}");
    let whole = until(&what, WHOLE_WITHIN, async || {
        for (node, client) in nodes.iter().zip(&clients) {
            match client.readiness().await {
                Ok(found) if found.ready => {}
                Ok(_) => return Ok(Probe::NotYet(format!("{} is not ready", node.id))),
                Err(error) => return Ok(Probe::NotYet(error.to_string())),
            }
            match client.cluster().await {
                Ok(view) => {
                    if let Some(why) = lacking(&view.body) {
                        return Ok(Probe::NotYet(format!("{} says: {why}", node.id)));
                    }
                }
                Err(error) => return Ok(Probe::NotYet(error.to_string())),
            }
        }
        Ok(Probe::Done(()))
    });
    whole.await.map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))
}

fn lacking(view: &ClusterView) -> Option<String> {
    let away = view.nodes.iter().find(|node| ["down", "lost"].contains(&node.state.as_str()));
    if let Some(away) = away {
        return Some(format!("{} is {}", away.id, away.state));
    }
    let behind = |shard: &client::cluster::ShardView| {
        shard.replicas.iter().any(|replica| replica.lag.is_some_and(|lag| lag > LAG_MAX))
    };
    let shard = view.shards.iter().find(|shard| behind(shard))?;
    Some(format!("a replica of shard {} is behind", shard.id))
}
