//! Backups: made while clients write, restored into clusters of other sizes, refused when anything of
//! them is not as it was; and what becomes of one whose node dies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::backups::Backup;
use client::jobs::Job;
use client::keys::NewKey;
use client::{Client, ClientError, fresh_key};
use serde_json::{Value, json};
use tests::{Cluster, Options, Probe, corpus, free_ports, until};

use crate::stage::{call, operator, same};

mod damage;
mod skep;

use skep::{restore, restored};

pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// A tenant has a thousand keys at most.
const WRITE_EVERY: Duration = Duration::from_millis(20);

fn options(to: &Path) -> Options {
    Options::default().set(&format!("backup.to={}", to.display())).set("storage.checkpoint_s=1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_restored_into_one_node_that_grows_to_five() -> Result<()> {
    let to = tempfile::tempdir()?;
    let cluster =
        Cluster::start(3, options(to.path()).set("inference.delay_ms=40").set("cache.memory_mb=0"))
            .await?;
    let done = submit(&cluster, 100).await?;
    job_ends(&cluster, &done).await?;
    let results = results(&cluster, 1, &done).await?;
    let half = submit(&cluster, 2_000).await?;
    let (writer, before) = keep_writing(&cluster).await?;

    let first = back_up(&cluster, 1).await.context("under load")?;
    let written = writer.stop().await?;
    ensure!(written > before.len(), "nothing was written while the backup was made");
    ensure!(first.groups.len() == 17 && first.blobs > Some(0), "{first:?}");
    job_ends(&cluster, &half).await?;
    digests_are_those_of_the_replicas(&cluster).await?;
    private(to.path())?;
    let old = cluster.admins()?.cluster().await?.body;
    let (admin, tenant) = (cluster.admin_key()?.to_owned(), cluster.tenant()?.clone());
    drop(cluster);

    let home = tempfile::tempdir()?;
    let told = restored(to.path(), Some(&first.id), &home.path().join("node-0/data")).await?;
    is_as_backed_up(&told, &first)?;
    let mut cluster = Cluster::revive(home, &admin, &tenant, options(to.path())).await?;
    let view = cluster.admins()?.cluster().await?.body;
    ensure!(view.cluster_id != old.cluster_id, "it is the old cluster");
    for node in &old.nodes {
        ensure!(view.nodes.iter().all(|new| new.id != node.id), "{} is there again", node.id);
    }
    all_is_known(&cluster, 0, &before, &done, &results).await.context("on one node")?;
    for ports in free_ports(4)? {
        cluster.launcher().add(ports).await?;
    }
    is_even(&cluster).await?;
    for node in 0..5 {
        all_is_known(&cluster, node, &before, &done, &results).await.context("on five nodes")?;
    }
    // Its tasks were leased to nodes of the old life.
    job_ends(&cluster, &half).await.context("the job that ran")?;
    let ended = job(&cluster, &half).await?;
    ensure!(Some(&ended.updated_at) > first.finished_at.as_ref(), "it was over before: {ended:?}");
    cluster.digests().await?;
    // And it is backed up in its turn, beside the backups of the old one.
    let again = back_up(&cluster, 0).await?;
    same("state", again.state.as_str(), "complete")
}

/// Replicas are spread over all nodes, and none is on its way.
async fn is_even(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admins()?;
    let even = until("an even spread", WITHIN, async || {
        let view = admin.cluster().await?.body;
        let held = view.nodes.iter().map(|node| node.replicas.unwrap_or(0));
        let (least, most) = (held.clone().min(), held.max());
        let apart = most.zip(least).map_or(0, |(most, least)| most - least);
        Ok(if view.moves.is_empty() && apart <= 1 && view.voters_min() >= 3 {
            Probe::Done(())
        } else {
            Probe::NotYet(format!("{} moves, {apart} apart", view.moves.len()))
        })
    });
    Ok(even.await?)
}

/// Documents of a job, some of them harmful.
pub(crate) async fn submit(cluster: &Cluster, documents: usize) -> Result<String> {
    let samples = corpus::documents(&corpus::samples(5, documents, 4));
    let body = json!({"type": "scan", "documents": samples});
    let key = &cluster.tenant()?.api_key;
    let answer = call(cluster, 0, key, "POST", "/v1/jobs", Some(&body)).await?.ok(202)?;
    crate::stage::text(&answer, "id")
}

async fn job(cluster: &Cluster, id: &str) -> Result<Job> {
    Ok(cluster.clients()?.job(id).await?.body)
}

pub(crate) async fn job_ends(cluster: &Cluster, id: &str) -> Result<()> {
    let (what, client) = (format!("the end of {id}"), cluster.clients()?);
    let ended = until(&what, WITHIN, async || {
        let now = client.job(id).await?.body;
        Ok(match now.status.as_str() {
            "completed" => Probe::Done(()),
            _ => Probe::NotYet(format!("{now:?}")),
        })
    });
    Ok(ended.await?)
}

fn refused(error: &anyhow::Error) -> node::cli::launch::LaunchError {
    node::cli::launch::LaunchError::Refused(format!("{error:#}"))
}

pub(crate) async fn results(cluster: &Cluster, node: usize, job: &str) -> Result<Vec<Vec<u8>>> {
    let mut answer = cluster.client(node)?.job_results_stream(job).await?;
    let mut lines = Vec::new();
    while let Some(line) = answer.body.next_line().await? {
        lines.push(line.to_vec());
    }
    Ok(lines)
}

/// Makes keys until it is stopped.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<usize>>,
}

impl Writer {
    /// How many were acknowledged.
    pub(crate) async fn stop(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Gives the keys that were acknowledged before it goes on by itself.
pub(crate) async fn keep_writing(cluster: &Cluster) -> Result<(Writer, Vec<String>)> {
    let client = cluster.clients()?;
    let mut before = Vec::new();
    for _ in 0..20 {
        before.push(make_key(&client).await?);
    }
    let (stop, count) = (Arc::new(AtomicBool::new(false)), before.len());
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let mut made = count;
        let mut pace = tokio::time::interval(WRITE_EVERY);
        while !stopped.load(Ordering::Relaxed) {
            pace.tick().await;
            make_key(&client).await?;
            made += 1;
        }
        Ok(made)
    });
    Ok((Writer { stop, task }, before))
}

async fn make_key(client: &Client) -> Result<String> {
    let key = NewKey { name: "written".to_owned(), ..NewKey::default() };
    let made = client.create_key(&key, &fresh_key()).await?.body;
    made.api_key.context("a key without its text")
}

/// Begins a backup at a node, twice with the same Idempotency-Key, and waits until it is complete.
pub(crate) async fn back_up(cluster: &Cluster, node: usize) -> Result<Backup> {
    let (admin, once) = (cluster.admin(node)?, fresh_key());
    // One that is complete may still be clearing away older ones.
    let begun = until("the end of the backup before", WITHIN, async || {
        Ok(match admin.begin_backup(&once).await {
            Ok(begun) => Probe::Done(begun.body),
            Err(ClientError::Problem(problem)) if problem.status == 409 => {
                Probe::NotYet(problem.to_string())
            }
            Err(error) => return Err(refused(&error.into())),
        })
    });
    let begun = begun.await?;
    let again = admin.begin_backup(&once).await?.body;
    same("the id of the same call", &again.id, &begun.id)?;
    is_over(&cluster.admins()?, &begun.id).await
}

async fn is_over(admin: &Client, id: &str) -> Result<Backup> {
    let what = format!("the end of {id}");
    let over = until(&what, WITHIN, async || {
        Ok(match admin.backup(id).await {
            Ok(backup) if backup.is_over() => Probe::Done(backup.body),
            Ok(backup) => Probe::NotYet(backup.state.clone()),
            Err(error) => Probe::NotYet(error.to_string()),
        })
    });
    let backup = over.await?;
    ensure!(backup.state == "complete", "{backup:?}");
    Ok(backup)
}

/// Of a cluster to which nobody writes, each shard stands where a backup has it: then its digest is
/// that of the live state.
pub(crate) async fn digests_are_those_of_the_replicas(cluster: &Cluster) -> Result<()> {
    let compared = until("a backup of a cluster at rest", WITHIN, async || {
        let backup = back_up(cluster, 0).await.map_err(|error| refused(&error))?;
        let mut moved = Vec::new();
        for group in backup.groups.iter().filter(|group| group.shard != "0") {
            match live_digest(cluster, &group.shard, group.index).await? {
                Some(digest) if digest == group.digest => {}
                Some(digest) => {
                    let what = format!("shard {}: {digest} lives, {group:?}", group.shard);
                    return Err(node::cli::launch::LaunchError::Refused(what));
                }
                None => moved.push(group.shard.clone()),
            }
        }
        Ok(if moved.is_empty() {
            Probe::Done(())
        } else {
            Probe::NotYet(format!("shards {moved:?} went on"))
        })
    });
    Ok(compared.await?)
}

/// The digest of a replica that stands at this entry.
async fn live_digest(
    cluster: &Cluster,
    shard: &str,
    index: u64,
) -> std::result::Result<Option<String>, node::cli::launch::LaunchError> {
    for node in 0..cluster.len() {
        let admin = cluster.admin(node).map_err(|error| refused(&error))?;
        let digest = admin.digest(shard, None).await?.body;
        if digest.applied == index {
            return Ok(Some(digest.sha256));
        }
    }
    Ok(None)
}

/// Nobody but their owner may read what was backed up: there are secrets in it.
fn private(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let mode = path.metadata()?.permissions().mode() & 0o777;
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        ensure!(mode == wanted, "{} has mode {mode:o}", path.display());
        if path.is_dir() {
            private(&path)?;
        }
    }
    Ok(())
}

/// What a restore says that it has read back from the disk is what the backup says.
pub(crate) fn is_as_backed_up(told: &Value, backup: &Backup) -> Result<()> {
    let told = told["groups"].as_array().context("groups")?;
    let seen = |group: &Value| {
        let (index, digest) = (group["index"].as_u64(), group["digest"].as_str());
        (group["shard"].to_string(), (index, digest.unwrap_or_default().to_owned()))
    };
    let told: BTreeMap<_, _> = told.iter().map(seen).collect();
    for group in &backup.groups {
        let (index, digest) = told.get(&group.shard).context("a group is missing")?;
        same(&format!("index of shard {}", group.shard), *index, Some(group.index))?;
        // The map of the meta group names the new cluster.
        if group.shard != "0" {
            same(&format!("digest of shard {}", group.shard), digest, &group.digest)?;
        }
    }
    same("groups", told.len(), backup.groups.len())
}

pub(crate) async fn all_is_known(
    cluster: &Cluster,
    node: usize,
    keys: &[String],
    done: &str,
    results: &[Vec<u8>],
) -> Result<()> {
    for key in keys {
        // Leaders move while nodes come; the client asks again where it is told to.
        cluster
            .client_of(node, key)?
            .me()
            .await
            .with_context(|| format!("a key on node {node}"))?;
    }
    let found = self::results(cluster, node, done).await?;
    ensure!(found == results, "node {node} has other results");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_node_dies_is_none_and_the_next_one_works() -> Result<()> {
    let to = tempfile::tempdir()?;
    let mut cluster = Cluster::start(3, options(to.path())).await?;
    let job = submit(&cluster, 40).await?;
    job_ends(&cluster, &job).await?;
    for point in ["backup-group", "backup-manifest"] {
        let failpoint = vec![("SKEP_FAILPOINTS".to_owned(), format!("{point}=abort"))];
        cluster.launcher().set_variables(0, failpoint);
        cluster.kill(0).await?;
        cluster.restart(0).await?;
        cluster.wait_whole().await?;
        leads_the_map(&mut cluster, 0).await?;
        let begun = cluster.admin(2)?.begin_backup(&fresh_key()).await?.body;
        let launcher = cluster.launcher();
        until("the death of the node", WITHIN, async || {
            Ok(match launcher.exit_status(0) {
                Some(_) => Probe::Done(()),
                None => Probe::NotYet("it lives".to_owned()),
            })
        })
        .await?;
        is_cut_off(&cluster, &begun.id).await.with_context(|| point.to_owned())?;
        let refused = restore(to.path(), Some(&begun.id), &to.path().join("data")).await?;
        same("exit code", refused.code, Some(5))?;
        cluster.launcher().set_variables(0, Vec::new());
        cluster.restart(0).await?;
        cluster.wait_whole().await?;
        let next = next_one(&cluster).await?;
        // What was left of the other goes when the next one is complete.
        rubbish_goes(&cluster, &begun.id).await?;
        ensure!(next.id > begun.id, "{} is not after {}", next.id, begun.id);
    }
    let home = tempfile::tempdir()?;
    restored(to.path(), None, &home.path().join("data")).await.map(drop)
}

/// One whose node loses the lead of the meta group fails, and that goes back to the node that was
/// chosen to lead when it has started again.
pub(crate) async fn next_one(cluster: &Cluster) -> Result<Backup> {
    let next = until("the next backup", WITHIN, async || {
        Ok(match back_up(cluster, 1).await {
            Ok(backup) => Probe::Done(backup),
            Err(error) => Probe::NotYet(format!("{error:#}")),
        })
    });
    Ok(next.await?)
}

async fn leads_the_map(cluster: &mut Cluster, node: usize) -> Result<()> {
    let name = cluster.launcher().name(node);
    let admin = cluster.admins()?;
    let leads = until("the lead of the meta group", WITHIN, async || {
        let leader = admin.cluster().await?.body.leader;
        if leader.as_ref() == Some(&name) {
            return Ok(Probe::Done(()));
        }
        admin.transfer_shard("0", &name).await?;
        Ok(Probe::NotYet(format!("{leader:?} leads")))
    });
    Ok(leads.await?)
}

async fn is_cut_off(cluster: &Cluster, id: &str) -> Result<()> {
    let admin = cluster.admins()?;
    let seen = until("the end of what was begun", WITHIN, async || {
        Ok(match admin.backup(id).await {
            Ok(backup) if backup.state == "cut_off" => Probe::Done(()),
            Ok(backup) if backup.state == "complete" => {
                return Err(node::cli::launch::LaunchError::Refused("it is complete".to_owned()));
            }
            Ok(backup) => Probe::NotYet(backup.state.clone()),
            Err(error) => Probe::NotYet(error.to_string()),
        })
    });
    Ok(seen.await?)
}

pub(crate) async fn rubbish_goes(cluster: &Cluster, id: &str) -> Result<()> {
    let admin = cluster.admins()?;
    let gone = until("the end of the rubbish", WITHIN, async || {
        let listed = admin.backups().await?.body.data;
        let still = listed.iter().find(|backup| backup.id == id);
        Ok(match still {
            None => Probe::Done(()),
            Some(backup) => Probe::NotYet(backup.state.clone()),
        })
    });
    Ok(gone.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_makes_backups_and_keeps_the_newest() -> Result<()> {
    let to = tempfile::tempdir()?;
    let scheduled = options(to.path()).set("backup.every_s=2").set("backup.keep=2");
    let cluster = Cluster::start(1, scheduled).await?;
    let job = submit(&cluster, 20).await?;
    job_ends(&cluster, &job).await?;
    let admin = cluster.admin(0)?;
    let complete = async || {
        let mut listed = admin.backups().await?.body.data;
        listed.retain(|backup| backup.state == "complete");
        Ok::<_, node::cli::launch::LaunchError>(listed)
    };
    let first = until("a backup", WITHIN, async || {
        let listed = complete().await?;
        let found = listed.into_iter().find(|backup| backup.blobs > Some(0));
        Ok(found.map_or_else(|| Probe::NotYet("none".to_owned()), Probe::Done))
    });
    let first = first.await?;
    until("the end of the first backup", WITHIN, async || {
        let listed = complete().await?;
        let kept: Vec<&str> = listed.iter().map(|backup| backup.id.as_str()).collect();
        // The newest is there before the oldest goes.
        let goes = kept.contains(&first.id.as_str()) || kept.len() != 2;
        Ok(if goes { Probe::NotYet(format!("{kept:?}")) } else { Probe::Done(()) })
    })
    .await?;
    let home = tempfile::tempdir()?;
    restored(to.path(), None, &home.path().join("data")).await.context("what is kept")?;
    let metrics = cluster.client(0)?.metrics().await?.body;
    for name in ["last_success_timestamp_seconds", "seconds", "bytes"] {
        let name = format!("skep_backup_{name} ");
        let line = metrics.lines().find(|line| line.starts_with(&name)).context("no metric")?;
        ensure!(!line.ends_with(" 0"), "{line}");
    }
    // What was a tenant's goes with the last backup that needs it.
    let tenant = cluster.tenant()?.id.clone();
    let content = folder(to.path(), "blobs")?.join(&tenant);
    ensure!(content.exists(), "{} is not there", content.display());
    operator(&cluster, 0, "DELETE", &format!("/v1/tenants/{tenant}"), None).await?.ok(200)?;
    let swept = until("the end of the tenant's blobs", WITHIN, async || {
        Ok(if content.exists() { Probe::NotYet("there".to_owned()) } else { Probe::Done(()) })
    });
    Ok(swept.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_there_are_no_backups() -> Result<()> {
    let cluster = Cluster::start(1, Options::default()).await?;
    let body = json!({});
    let asked = operator(&cluster, 0, "POST", "/admin/v1/backups", Some(&body)).await?;
    let problem = asked.ok(409)?;
    ensure!(problem["detail"].to_string().contains("backup.to is not set"), "{problem}");
    operator(&cluster, 0, "GET", "/admin/v1/backups", None).await?.ok(409)?;
    Ok(())
}

/// Where the files of a backup are.
fn folder(to: &Path, backup: &str) -> Result<PathBuf> {
    for cluster in std::fs::read_dir(to)? {
        let found = cluster?.path().join(backup);
        if found.exists() {
            return Ok(found);
        }
    }
    anyhow::bail!("{backup} is nowhere in {}", to.display())
}
