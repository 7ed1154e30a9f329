//! Looking at a cluster from outside: is it ready, is it whole, do its replicas agree.

use std::collections::BTreeMap;
use std::time::Duration;

use client::cluster::{ClusterView, Digest, ShardView};
use client::{ClientError, Retry};

use super::{Cluster, LaunchError, Probe, until};

/// Replicas that a group has once there are enough nodes.
const REPLICAS: usize = 3;
/// A probe that takes longer is as good as no answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(7);

/// The digest of each shard at the marker where all its replicas were found equal.
pub type Digests = BTreeMap<String, Digest>;

impl Cluster {
    /// Waits until node `i` answers `/readyz` with 200.
    pub async fn wait_ready(&self, i: usize, within: Duration) -> Result<(), LaunchError> {
        let client = self.admin_of(i)?.with_timeout(PROBE_TIMEOUT);
        until(&format!("readiness of node {i}"), within, async || {
            self.fail_if_ended(i)?;
            Ok(match client.readiness().await {
                Ok(found) if found.ready => Probe::Done(()),
                Ok(found) => Probe::NotYet(found.report.to_string()),
                Err(error) => Probe::NotYet(error.to_string()),
            })
        })
        .await
    }

    /// Waits until every node is ready and every group has min(3, nodes) voters.
    pub async fn wait_formed(&self, within: Duration) -> Result<(), LaunchError> {
        let waits = (0..self.len()).map(|i| self.wait_ready(i, within));
        futures::future::try_join_all(waits).await?;
        let wanted = self.len().min(REPLICAS);
        let admin = self.admin()?.with_retry(Retry::NEVER).with_timeout(PROBE_TIMEOUT);
        until("a full set of voters in every group", within, async || {
            (0..self.len()).try_for_each(|i| self.fail_if_ended(i))?;
            Ok(match admin.cluster().await {
                Ok(view) => whole(&view, self.len(), wanted),
                Err(error) => Probe::NotYet(error.to_string()),
            })
        })
        .await
    }

    /// Commits a marker in every group and waits until each replica on a live node gives the same
    /// digest there. A difference is an error at once: no waiting makes it good.
    pub async fn digests(&self, within: Duration) -> Result<Digests, LaunchError> {
        let view = self.admin()?.cluster().await?.body;
        let mut digests = Digests::new();
        for shard in &view.shards {
            let digest = until(&format!("the digest of shard {}", shard.id), within, async || {
                self.digest_of(shard).await
            })
            .await?;
            digests.insert(shard.id.clone(), digest);
        }
        Ok(digests)
    }

    async fn digest_of(&self, shard: &ShardView) -> Result<Probe<Digest>, LaunchError> {
        let marker = match self.admin()?.mark_digest(&shard.id).await {
            Ok(marker) => marker.body,
            Err(error) => return Ok(Probe::NotYet(error.to_string())),
        };
        let mut found: Vec<(String, Digest)> = Vec::new();
        for replica in &shard.replicas {
            let Some(i) = self.index_of(&replica.node).filter(|i| self.is_alive(*i)) else {
                continue;
            };
            let node = self.admin_of(i)?.with_retry(Retry::NEVER).with_timeout(PROBE_TIMEOUT);
            match node.digest(&shard.id, Some(marker.applied)).await {
                Ok(digest) => found.push((replica.node.clone(), digest.body)),
                Err(error) => return Ok(Probe::NotYet(format!("node {i}: {error}"))),
            }
        }
        agree(shard, marker.applied, found)
    }

    fn fail_if_ended(&self, i: usize) -> Result<(), LaunchError> {
        match self.exit_status(i) {
            Some(status) => {
                Err(LaunchError::Exited { node: i, status, stderr: self.last_words(i) })
            }
            None => Ok(()),
        }
    }

    /// One look at the cluster through any live node.
    pub async fn view(&self) -> Result<ClusterView, ClientError> {
        Ok(self.admin()?.cluster().await?.body)
    }
}

fn whole(view: &ClusterView, nodes: usize, voters: usize) -> Probe<()> {
    if view.nodes.len() < nodes {
        return Probe::NotYet(format!("{} of {nodes} nodes are known", view.nodes.len()));
    }
    if view.voters_min() < voters {
        let lacking = view.shards.iter().filter(|shard| shard.voters() < voters).count();
        return Probe::NotYet(format!("{lacking} groups have fewer than {voters} voters"));
    }
    Probe::Done(())
}

fn agree(
    shard: &ShardView,
    applied: u64,
    found: Vec<(String, Digest)>,
) -> Result<Probe<Digest>, LaunchError> {
    let all: Vec<_> =
        found.iter().map(|(node, digest)| format!("{node}={}", digest.sha256)).collect();
    let mut digests = found.into_iter().map(|(_, digest)| digest);
    let Some(first) = digests.next() else {
        return Ok(Probe::NotYet("no live node has a replica".to_owned()));
    };
    if digests.all(|digest| digest.sha256 == first.sha256 && digest.applied == first.applied) {
        return Ok(Probe::Done(first));
    }
    Err(LaunchError::Diverged { shard: shard.id.clone(), applied, digests: all.join(" ") })
}
