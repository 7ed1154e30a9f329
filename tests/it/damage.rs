//! Data that is damaged on the disk of a node: the node serves nothing of it, comes back under its name
//! with replicas that are made anew, and nothing that was acknowledged is lost.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use client::cluster::ClusterView;
use client::keys::NewKey;
use client::{Client, fresh_key};
use tests::raw::Request;
use tests::{Cluster, Options, Probe, until};

use crate::cluster::{DONE_WITHIN, node, wait, whole};
use crate::stage::same;

const HURT: usize = 2;
const GIVE_UP: &str = "give-up-retired";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_damaged_log_gets_all_its_replicas_anew() -> Result<()> {
    let play = Play::begin(Options::default()).await?;
    let segment = segments(&play.data)?.into_iter().next().context("no segment")?;
    let mut bytes = std::fs::read(&segment)?;
    let end = bytes.iter().rposition(|&byte| byte != 0).context("an empty segment")?;
    bytes[end / 2] ^= 0x10;
    std::fs::write(&segment, bytes)?;
    play.comes_back(0..=16, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_while_it_is_mended_is_mended_later() -> Result<()> {
    let play = Play::begin(Options::default()).await?;
    std::fs::remove_dir_all(play.data.join("wal"))?;
    let deaths = ["readmit-given", "readmit-aside", "readmit-retired", "readmit-saved"];
    play.comes_back(0..=16, &deaths).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_log_never_votes_under_its_old_ids() -> Result<()> {
    let play = Play::begin(Options::default()).await?;
    std::fs::remove_dir_all(play.data.join("wal"))?;
    play.comes_back(0..=16, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_costs_its_group_alone() -> Result<()> {
    let options = Options::default().set("storage.checkpoint_s=1");
    let play = Play::begin_with(options, Some(3)).await?;
    overwrite(&play.data.join("checkpoint/3.redb"))?;
    play.comes_back(3..=3, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_of_the_map_is_mended_too() -> Result<()> {
    let options = Options::default().set("storage.checkpoint_s=1");
    let play = Play::begin_with(options, Some(0)).await?;
    overwrite(&play.data.join("checkpoint/0.redb"))?;
    play.comes_back(0..=0, &[GIVE_UP]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_refuses_a_damaged_log_and_leaves_it_as_it_is() -> Result<()> {
    let mut cluster = Cluster::start(1, Options::default()).await?;
    cluster.client(0)?.create_key(&named("kept"), &fresh_key()).await?;
    cluster.kill(0).await?;
    let data = cluster.data(0);
    let segment = segments(&data)?.into_iter().next().context("no segment")?;
    let whole = std::fs::read(&segment)?;
    let mut bytes = whole.clone();
    let end = bytes.iter().rposition(|&byte| byte != 0).context("an empty segment")?;
    bytes[end / 2] ^= 0x10;
    std::fs::write(&segment, &bytes)?;
    let launcher = cluster.launcher();
    launcher.start(0)?;
    let status = until("its end", DONE_WITHIN, async || {
        Ok(match launcher.exit_status(0) {
            Some(status) => Probe::Done(status),
            None => Probe::NotYet("it goes on".to_owned()),
        })
    });
    same("exit code", status.await?.code(), Some(1))?;
    let words = launcher.last_words(0);
    ensure!(words.contains("is damaged at ") && words.contains(".seg"), "{words}");
    ensure!(std::fs::read(&segment)? == bytes, "the damaged log was changed");
    std::fs::write(&segment, whole)?;
    cluster.restart(0).await?;
    let keys = cluster.client(0)?.keys(None, None).await?.body.data;
    ensure!(keys.iter().any(|key| key.name.as_deref() == Some("kept")), "{keys:?}");
    Ok(())
}

/// Three nodes with something on them, one of which is dead and about to be hurt.
struct Play {
    cluster: Cluster,
    admin: Client,
    name: String,
    data: PathBuf,
    before: BTreeSet<(String, u64)>,
    key: u64,
}

impl Play {
    async fn begin(options: Options) -> Result<Self> {
        Self::begin_with(options, None).await
    }

    /// Waits for the checkpoint of a group.
    async fn begin_with(options: Options, checkpoint: Option<u32>) -> Result<Self> {
        let mut cluster = Cluster::start(3, options).await?;
        let admin = cluster.admin(0)?;
        let view = wait("the start", &admin, |view| whole(view, 3)).await?;
        let name = cluster.launcher().name(HURT);
        let key = cluster.client(1)?.create_key(&named("before"), &fresh_key()).await?.body.key_id;
        // Until all of it is there too.
        cluster.digests().await?;
        let data = cluster.data(HURT);
        if let Some(group) = checkpoint {
            let file = data.join(format!("checkpoint/{group}.redb"));
            until("the checkpoint", DONE_WITHIN, async || {
                Ok(if file.exists() { Probe::Done(()) } else { Probe::NotYet("none".to_owned()) })
            })
            .await?;
        }
        cluster.kill(HURT).await?;
        let before = replicas(&view, &name);
        Ok(Self { cluster, admin, name, data, before, key })
    }

    /// The replicas of these groups have new ids, all others their old ones, and all votes count.
    /// It dies once at each of these places before.
    async fn comes_back(self, lost: std::ops::RangeInclusive<u64>, deaths: &[&str]) -> Result<()> {
        let Self { mut cluster, admin, name, data, before, key } = self;
        for place in deaths {
            die_at(&mut cluster, place).await.with_context(|| format!("death at {place}"))?;
        }
        cluster.restart(HURT).await.context("the restart")?;
        let is_lost = |(group, _): &(String, u64)| {
            group.parse().is_ok_and(|group: u64| lost.contains(&group))
        };
        let back = wait("replicas in their place", &admin, |view| {
            let now = replicas(view, &name);
            let kept = before.iter().all(|old| is_lost(old) != now.contains(old));
            kept && now.len() == before.len() && whole(view, 3) && meta_voters(view) == 3
        });
        let starts = node(&back.await?, &name)?.incarnation.as_u64().context("no incarnation")?;
        same("starts", starts, 2 + deaths.len() as u64)?;
        let text = Request::get("/metrics").send(&cluster.url(HURT)).await?.text();
        ensure!(text.contains("\nskep_storage_damage_total 1\n"), "damage is not counted");
        let aside = std::fs::read_dir(data.join("damaged")).map_or(0, Iterator::count);
        // One that dies right after it gave a replica up leaves the file to the next, which needs it less.
        let least = usize::from(deaths != [GIVE_UP]);
        ensure!((least..=3).contains(&aside), "{aside} starts have set something aside");
        cluster.digests().await?;

        // What the mended node has counts from now on.
        cluster.kill(0).await?;
        let writer = cluster.client(HURT)?;
        let after = writer.create_key(&named("after"), &fresh_key()).await?.body.key_id;
        cluster.kill(1).await?;
        cluster.restart(0).await?;
        let keys = cluster.client(HURT)?.keys(None, None).await?.body.data;
        for id in [key, after] {
            ensure!(keys.iter().any(|key| key.key_id == id), "{id} is lost: {keys:?}");
        }
        Ok(())
    }
}

/// The node starts, and dies at a place before it is ready.
async fn die_at(cluster: &mut Cluster, place: &str) -> Result<()> {
    let launcher = cluster.launcher();
    let armed = ("SKEP_FAILPOINTS".to_owned(), format!("{place}=abort"));
    launcher.set_variables(HURT, vec![armed]);
    launcher.start(HURT)?;
    launcher.set_variables(HURT, Vec::new());
    let died = until("its death", DONE_WITHIN, async || {
        Ok(match launcher.exit_status(HURT) {
            Some(status) => Probe::Done(status),
            None => Probe::NotYet("it lives".to_owned()),
        })
    });
    let died = died.await?;
    ensure!(died.code().is_none(), "it ended by itself: {died}");
    Ok(())
}

fn named(name: &str) -> NewKey {
    NewKey { name: name.to_owned(), ..NewKey::default() }
}

fn replicas(view: &ClusterView, name: &str) -> BTreeSet<(String, u64)> {
    let of = view.shards.iter().flat_map(|shard| {
        let here = shard.replicas.iter().filter(|replica| replica.node == name);
        here.filter_map(|replica| Some((shard.id.clone(), replica.replica_id.as_u64()?)))
    });
    of.collect()
}

fn meta_voters(view: &ClusterView) -> usize {
    view.shards.iter().filter(|shard| shard.id == "0").map(|shard| shard.voters()).sum()
}

fn segments(data: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data.join("wal"))? {
        found.push(entry?.path());
    }
    found.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    found.sort();
    Ok(found)
}

/// The first pages of a file, which hold where everything is.
fn overwrite(file: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let open = std::fs::OpenOptions::new().write(true).open(file);
    let open = open.with_context(|| format!("no {}", file.display()))?;
    open.write_all_at(&[0xA5; 16 << 10], 0).context("overwriting")
}
