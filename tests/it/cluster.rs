//! Nodes come, rest and go: what operators ask of the cluster, and what it refuses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::cluster::{ClusterView, NodeView};
use client::keys::NewKey;
use client::{Client, ClientError, Credential, Retry, fresh_key};
use tests::{Cluster, Options, Probe, until};

use crate::stage::same;

/// Until what was asked for is done, on a slow machine.
const WRITE_EVERY: Duration = Duration::from_millis(10);
pub(crate) const DONE_WITHIN: Duration = Duration::from_secs(60);

async fn view(client: &Client) -> Result<ClusterView> {
    Ok(client.cluster().await?.body)
}

pub(crate) fn node<'a>(view: &'a ClusterView, id: &str) -> Result<&'a NodeView> {
    view.nodes.iter().find(|node| node.id == id).with_context(|| format!("no {id} in {view:?}"))
}

/// Waits until the cluster looks right to a node.
pub(crate) async fn wait(
    what: &str,
    client: &Client,
    right: impl Fn(&ClusterView) -> bool,
) -> Result<ClusterView> {
    let seen = until(what, DONE_WITHIN, async || {
        let view = match client.cluster().await {
            Ok(view) => view.body,
            Err(error) => return Ok(Probe::NotYet(error.to_string())),
        };
        let shown = format!("{:?} {:?}", view.nodes, view.moves);
        Ok(if right(&view) { Probe::Done(view) } else { Probe::NotYet(shown) })
    });
    Ok(seen.await?)
}

/// Every group has `voters` voters and a leader, and nothing is on its way.
pub(crate) fn whole(view: &ClusterView, voters: usize) -> bool {
    let right = |shard: &client::cluster::ShardView| {
        let enough = shard.id == "0" || shard.voters() == voters;
        enough && shard.leader.is_some()
    };
    view.moves.is_empty() && view.shards.iter().all(right)
}

fn conflict(outcome: Result<impl std::fmt::Debug, ClientError>) -> Result<String> {
    match outcome {
        Err(ClientError::Problem(problem)) if problem.status == 409 => Ok(problem.to_string()),
        other => anyhow::bail!("not a conflict: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_undrained_and_shards_are_handed_over() -> Result<()> {
    let cluster = Cluster::start(3, Options::default()).await?;
    let admin = cluster.admins()?;
    same("state", admin.drain_node("n2").await?.body.state.as_str(), "draining")?;
    // Who leads is heard of a moment after the state.
    let rests = |view: &ClusterView| node(view, "n2").is_ok_and(|node| node.state == "drained");
    let drained = wait("n2 drained", &admin, |view| rests(view) && whole(view, 3)).await?;
    same("leads", node(&drained, "n2")?.shards_led, Some(0))?;
    same("replicas", node(&drained, "n2")?.replicas, Some(16))?;
    conflict(admin.transfer_shard("1", "n2").await).context("a shard for a drained node")?;

    admin.undrain_node("n2").await?;
    let leads = |view: &ClusterView, id: &str| node(view, id).ok().and_then(|node| node.shards_led);
    wait("leaders on n2", &admin, |view| leads(view, "n2") >= Some(5)).await?;

    admin.transfer_shard("4", "n3").await?;
    let leads = |view: &ClusterView| {
        view.shards.iter().any(|shard| shard.id == "4" && shard.leader.as_deref() == Some("n3"))
    };
    wait("n3 leading shard 4", &admin, leads).await?;
    let nobody = admin.transfer_shard("4", "n9").await;
    ensure!(matches!(&nobody, Err(ClientError::Problem(p)) if p.status == 404), "{nobody:?}");
    let planned = admin.plan_of_placement().await?.body;
    let done = admin.rebalance().await?.body;
    same("the plan", format!("{:?}", done.changes), format!("{:?}", planned.changes))?;
    cluster.digests().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_four_is_removed_and_ends_and_a_wiped_one_comes_back_as_another() -> Result<()> {
    let mut cluster = Cluster::start(4, Options::default()).await?;
    let writer = cluster.client(0)?;
    let first = writer.create_key(&named("before"), &fresh_key()).await?.body.key_id;
    let gone = 3;
    let id = cluster.launcher().name(gone);
    let admin = cluster.admin(0)?;
    let once = fresh_key();
    let asked = async || {
        let call = client::Call::post("/admin/v1/nodes").segment(&id).segment("remove");
        admin.json::<client::cluster::NodeChange>(call.idempotency_key(&once)).await
    };
    same("state", asked().await?.body.state.as_str(), "removing")?;
    wait("the removal", &admin, |view| view.nodes.len() == 3 && whole(view, 3)).await?;
    same("asked again", asked().await?.meta.replayed, true)?;
    let refused = admin.remove_node(&id).await;
    ensure!(matches!(&refused, Err(ClientError::Problem(p)) if p.status == 404), "{refused:?}");
    ends(&mut cluster, gone, 0, "was removed from the cluster").await?;

    // With what it had it is nobody: it ends again, and votes nowhere.
    cluster.launcher().start(gone)?;
    ends(&mut cluster, gone, 5, "skep: refused: ").await?;
    let wiped = cluster.launcher().rejoin(gone).await?;
    ensure!(wiped != id, "{wiped} has the id of the node that was removed");
    let back = wait("the wiped node's replicas", &admin, |view| {
        whole(view, 3) && node(view, &wiped).is_ok_and(|node| node.replicas >= Some(11))
    });
    back.await?;
    let keys = cluster.client(gone)?.keys(None, None).await?.body.data;
    ensure!(keys.iter().any(|key| key.key_id == first), "an acknowledged key is lost: {keys:?}");
    cluster.digests().await.map(drop)
}

fn named(name: &str) -> NewKey {
    NewKey { name: name.to_owned(), ..NewKey::default() }
}

async fn ends(cluster: &mut Cluster, i: usize, code: i32, wanted: &str) -> Result<()> {
    let launcher = cluster.launcher();
    let status = until("the end of the removed node", DONE_WITHIN, async || {
        Ok(match launcher.exit_status(i) {
            Some(status) => Probe::Done(status),
            None => Probe::NotYet("it goes on".to_owned()),
        })
    })
    .await?;
    let words = launcher.last_words(i);
    ensure!(words.contains(wanted), "its last words are {words:?}");
    same("exit code", status.code(), Some(code))
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_that_break_a_quorum_are_refused_and_others_end() -> Result<()> {
    let cluster = Cluster::start(3, Options::default()).await?;
    let admin = cluster.admin(0)?;
    cluster.kill(2).await?;
    let down = |view: &ClusterView| view.nodes.iter().any(|node| node.state == "down");
    wait("the death", &admin, down).await?;
    // Which of those that joined at once is called what is a matter of luck.
    let dead = cluster_name(&cluster, &admin, 2).await?;
    let other = cluster_name(&cluster, &admin, 1).await?;
    let why = conflict(admin.remove_node(&other).await)?;
    ensure!(why.contains("would be left with 1 of 2 voters"), "{why}");
    may_go(&admin, &dead).await?;
    wait("the dead one's removal", &admin, |view| view.nodes.len() == 2 && whole(view, 2)).await?;

    // Two are left: one may go, and the last one may not.
    may_go(&admin, &other).await?;
    wait("the second removal", &admin, |view| view.nodes.len() == 1 && whole(view, 1)).await?;
    let why = conflict(admin.remove_node("n1").await)?;
    ensure!(why.contains("n1 is the last node that works"), "{why}");
    cluster.client(0)?.create_key(&named("alone"), &fresh_key()).await?;
    Ok(())
}

/// Asks for a removal until it is allowed: the node that is asked must see the others answer, and the
/// map must know who votes.
async fn may_go(admin: &Client, id: &str) -> Result<()> {
    let asked = until("leave to go", DONE_WITHIN, async || {
        Ok(match admin.remove_node(id).await {
            Ok(_) => Probe::Done(()),
            Err(refused) => Probe::NotYet(refused.to_string()),
        })
    });
    Ok(asked.await?)
}

/// The id of node `i`, by its address.
async fn cluster_name(cluster: &Cluster, admin: &Client, i: usize) -> Result<String> {
    let (view, url) = (view(admin).await?, cluster.url(i));
    let found = view.nodes.iter().find(|node| node.http == url);
    Ok(found.with_context(|| format!("nobody is at {url}"))?.id.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_restarts_itself_in_the_same_process_and_only_when_asked_itself() -> Result<()> {
    let mut cluster = Cluster::start(3, Options::default()).await?;
    let (name, pid) = (cluster.launcher().name(1), cluster.pid(1));
    conflict(cluster.admin(0)?.restart_node(&name).await)?;
    let before = cluster.admin(1)?.restart_node(&name).await?.body.incarnation;
    let own = cluster.admin(1)?.with_retry(Retry::NEVER);
    wait("a higher incarnation", &own, |view| {
        node(view, &name).is_ok_and(|node| node.incarnation.as_u64() > Some(before))
    })
    .await?;
    cluster.wait_ready(1).await?;
    same("pid", cluster.pid(1), pid)?;
    cluster.digests().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_over_so_that_writes_go_on_at_once() -> Result<()> {
    let cluster = Cluster::start(3, Options::default()).await?;
    let key = cluster.tenant()?.api_key.clone();
    let usage = cluster.clients()?.usage().await?;
    let owner = usage.meta.owner.context("no Skep-Owner")?;
    let owner = cluster.index_of(&owner).context("an owner that is no node")?;
    let others = (1..3).map(|step| cluster.url((owner + step) % 3)).collect();
    let eager = Retry { tries_max: 2, pause: Duration::from_millis(20), ..Retry::PATIENT };
    let client = Client::new(others, Credential::key(&key))?.with_retry(eager);
    let writes = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        let began = Instant::now();
        // A tenant has a thousand keys at most.
        let mut pace = tokio::time::interval(WRITE_EVERY);
        while began.elapsed() < Duration::from_secs(5) {
            pace.tick().await;
            let at = Instant::now();
            client.create_key(&named("during"), &fresh_key()).await?;
            longest = longest.max(at.elapsed());
        }
        Ok::<_, ClientError>(longest)
    });
    let began = Instant::now();
    let status = cluster.stop(owner).await?.context("no exit status")?;
    let took = began.elapsed();
    ensure!(status.success(), "it ended with {status}");
    ensure!(took < Duration::from_secs(10), "it took {took:?} to stop");
    let longest = writes.await??;
    ensure!(longest < Duration::from_secs(2), "a write took {longest:?}");
    Ok(())
}
