//! Where replicas are: in as many zones as there are, and elsewhere when a node stays away.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use client::cluster::{ClusterView, ShardView};
use client::fresh_key;
use client::keys::NewKey;
use tests::{Cluster, Options};

use crate::cluster::{node, wait, whole};
use crate::stage::same;

/// Two nodes in the first, so that one of them can be replaced without leaving it.
const ZONES: [&str; 4] = ["a", "a", "b", "c"];
/// In the first zone.
const LOST: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_in_every_zone_and_are_made_again_when_a_node_stays_away() -> Result<()> {
    let labelled = |zone: &str| vec!["--set".to_owned(), format!("node.labels=zone={zone}")];
    let options = Options {
        arguments: ZONES.map(labelled).to_vec(),
        ..Options::default().set("cluster.replace_after_s=3")
    };
    let mut cluster = Cluster::start(ZONES.len(), options).await?;
    let names: Vec<String> = (0..ZONES.len()).map(|i| cluster.launcher().name(i)).collect();
    let zones: BTreeMap<&str, &str> = names.iter().map(String::as_str).zip(ZONES).collect();
    let lost = names[LOST].as_str();
    let spread = |view: &ClusterView| {
        whole(view, 3) && shards(view).all(|shard| zones_of(shard, &zones).len() == 3)
    };
    let admin = cluster.admin(0)?;
    let used = |view: &ClusterView| spread(view) && shards(view).any(|shard| votes(shard, lost));
    wait("replicas in every zone and on both nodes of the first", &admin, used).await?;
    let key = NewKey { name: "kept".to_owned(), ..NewKey::default() };
    let key = cluster.client(0)?.create_key(&key, &fresh_key()).await?.body.key_id;

    cluster.kill(LOST).await?;
    let replaced =
        |view: &ClusterView| spread(view) && !shards(view).any(|shard| votes(shard, lost));
    let replaced = wait("replicas elsewhere", &admin, replaced).await?;
    same("state", node(&replaced, lost)?.state.as_str(), "lost")?;

    // It is given replicas again, and what was acknowledged is there.
    cluster.restart(LOST).await?;
    wait("replicas on the node that is back", &admin, used).await?;
    let keys = cluster.client(LOST)?.keys(None, None).await?.body.data;
    ensure!(keys.iter().any(|known| known.key_id == key), "an acknowledged key is lost: {keys:?}");
    cluster.digests().await.context("digests").map(drop)
}

/// All groups but that of the cluster, which is on every node.
fn shards(view: &ClusterView) -> impl Iterator<Item = &ShardView> {
    view.shards.iter().filter(|shard| shard.id != "0")
}

fn votes(shard: &ShardView, node: &str) -> bool {
    shard.replicas.iter().any(|replica| replica.node == node && replica.role == "voter")
}

fn zones_of<'a>(shard: &ShardView, zones: &BTreeMap<&str, &'a str>) -> Vec<&'a str> {
    let voters = shard.replicas.iter().filter(|replica| replica.role == "voter");
    let mut found: Vec<_> =
        voters.filter_map(|replica| zones.get(replica.node.as_str()).copied()).collect();
    found.sort_unstable();
    found.dedup();
    found
}
