//! What is not a sound backup, or not this one, is refused by name, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use protocol::{ClusterId, Digest};
use sha2::{Digest as _, Sha256};
use tests::Cluster;

use super::skep::{restore, restored};
use super::{back_up, folder, job_ends, options, submit};
use crate::stage::same;

/// A backup that is damaged in turn, and mended again.
struct Victim {
    to: PathBuf,
    id: String,
    data: PathBuf,
}

impl Victim {
    fn file(&self, name: &str) -> Result<PathBuf> {
        Ok(folder(&self.to, &self.id)?.join(name))
    }

    /// With other bytes in this file, or without it, a restore names the file and says why.
    async fn is_refused(&self, file: &Path, bytes: Option<Vec<u8>>, why: &str) -> Result<()> {
        let sound = fs::read(file)?;
        match bytes {
            Some(bytes) => fs::write(file, bytes)?,
            None => fs::remove_file(file)?,
        }
        let ended = restore(&self.to, Some(&self.id), &self.data).await?;
        fs::write(file, sound)?;
        let name = file.file_name().context("a name")?.to_string_lossy().into_owned();
        ensure!(ended.code == Some(5), "{name}: {ended:?}");
        same("lines", ended.stderr.lines().count(), 1)?;
        ensure!(ended.stderr.starts_with("skep: refused: "), "{}", ended.stderr);
        ensure!(ended.stderr.contains(&name), "{name} is not named: {}", ended.stderr);
        ensure!(ended.stderr.contains(why), "no {why:?}: {}", ended.stderr);
        ensure!(!self.data.exists(), "{name}: something is left behind");
        Ok(())
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << (at % 8);
    flipped
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_of_another_is_refused_and_leaves_nothing_behind() -> Result<()> {
    let to = tempfile::tempdir()?;
    let cluster = Cluster::start(1, options(to.path())).await?;
    let job = submit(&cluster, 40).await?;
    job_ends(&cluster, &job).await?;
    let other = back_up(&cluster, 0).await?;
    let backup = back_up(&cluster, 0).await?;
    let own = ClusterId::parse(&cluster.admin(0)?.cluster().await?.body.cluster_id)?;
    drop(cluster);
    let shard = backup.groups.iter().find(|group| group.blobs > 0).context("no blobs")?;
    let home = tempfile::tempdir()?;
    let victim =
        Victim { to: to.path().to_owned(), id: backup.id.clone(), data: home.path().join("data") };
    files_are_checked(&victim, &shard.shard, &other.id).await?;
    manifests_are_checked(&victim, own).await?;
    directories_are_checked(&victim).await?;
    restored(&victim.to, Some(&victim.id), &victim.data).await.map(drop)
}

async fn files_are_checked(victim: &Victim, shard: &str, other: &str) -> Result<()> {
    let group = victim.file(&format!("group-{shard}"))?;
    let sound = fs::read(&group)?;
    // The unit tests flip every byte of a file; this one goes through the command.
    for step in 0..12 {
        let at = step * (sound.len() - 1) / 11;
        victim.is_refused(&group, Some(flipped(&sound, at)), "").await?;
    }
    let cut = sound[..sound.len() - 1].to_vec();
    victim.is_refused(&group, Some(cut), "it is cut off").await?;
    victim.is_refused(&group, None, "is missing").await?;
    let foreign = fs::read(folder(&victim.to, other)?.join(format!("group-{shard}")))?;
    victim.is_refused(&group, Some(foreign), &format!("it is of group {shard} of {other}")).await?;
    let mut newer = sound;
    newer[8] = 9;
    victim.is_refused(&group, Some(newer), "it has format 9").await?;

    let list = victim.file(&format!("blobs-{shard}"))?;
    let names = fs::read_to_string(&list)?;
    victim.is_refused(&list, Some(flipped(names.as_bytes(), 9)), "SHA-256").await?;
    let mut words = names.split_whitespace();
    let (tenant, digest) = (words.next().context("tenant")?, words.next().context("digest")?);
    let cluster = group.ancestors().nth(2).context("the folder of the cluster")?;
    let blob = cluster.join("blobs").join(tenant).join(digest);
    let content = fs::read(&blob)?;
    victim.is_refused(&blob, Some(flipped(&content, content.len() / 2)), "SHA-256").await?;
    victim.is_refused(&blob, None, "is missing").await
}

async fn manifests_are_checked(victim: &Victim, own: ClusterId) -> Result<()> {
    let manifest = victim.file("manifest.json")?;
    let sound = fs::read(&manifest)?;
    for at in (0..sound.len()).step_by(sound.len() / 12) {
        victim.is_refused(&manifest, Some(flipped(&sound, at)), "damaged").await?;
    }
    let newer = r#"{"format":2,"more":"than we know"}"#;
    let sum = Digest(Sha256::digest(newer.as_bytes()).into());
    let newer = format!("{{\"sha256\":\"{sum}\",\"manifest\":{newer}}}\n").into_bytes();
    victim.is_refused(&manifest, Some(newer), "it has format 2").await?;

    // The same files below the id of another cluster.
    let stranger = ClusterId(own.0 ^ 1).to_string();
    let folder = manifest.parent().context("its folder")?;
    let away = victim.to.join(&stranger).join(&victim.id);
    fs::create_dir_all(away.parent().context("its parent")?)?;
    fs::rename(folder, &away)?;
    let ended = restore(&victim.to, Some(&victim.id), &victim.data).await?;
    fs::rename(&away, folder)?;
    same("exit code", ended.code, Some(5))?;
    ensure!(ended.stderr.contains(&own.to_string()), "{}", ended.stderr);
    ensure!(!victim.data.exists(), "something is left behind");
    Ok(())
}

async fn directories_are_checked(victim: &Victim) -> Result<()> {
    fs::create_dir(&victim.data)?;
    fs::write(victim.data.join("something"), "of somebody")?;
    let ended = restore(&victim.to, Some(&victim.id), &victim.data).await?;
    same("exit code", ended.code, Some(5))?;
    ensure!(ended.stderr.contains("is not empty"), "{}", ended.stderr);
    same("files", fs::read_dir(&victim.data)?.count(), 1)?;
    fs::remove_file(victim.data.join("something"))?;
    let missing = restore(&victim.to.join("nowhere"), None, &victim.data).await?;
    same("exit code", missing.code, Some(1))?;
    let none = restore(&victim.data, None, &victim.data).await?;
    same("exit code", none.code, Some(5))?;
    same("files", fs::read_dir(&victim.data)?.count(), 0)
}
