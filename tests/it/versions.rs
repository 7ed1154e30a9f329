//! What another release wrote is refused in one line and never touched; and two releases work in one
//! cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::keys::NewKey;
use client::{Call, fresh_key};
use protocol::nodes::Directory;
use protocol::versions::Wire;
use tests::{Cluster, Options, Probe, until};

use crate::stage::{same, skipped};

const REFUSED_WITHIN: Duration = Duration::from_secs(10);
/// A binary to take for that of the release before, instead of building the last tag.
const PREVIOUS: &str = "SKEP_PREVIOUS_BIN";

/// Starts a node on a directory in which something has another version; it says so and ends.
async fn refuses(cluster: &mut Cluster, wanted: &str) -> Result<()> {
    let launcher = cluster.launcher();
    launcher.start(0)?;
    let status = until("the refusal", REFUSED_WITHIN, async || {
        Ok(match launcher.exit_status(0) {
            Some(status) => Probe::Done(status),
            None => Probe::NotYet("it goes on".to_owned()),
        })
    })
    .await?;
    let words = launcher.last_words(0);
    ensure!(words.starts_with("skep: refused: ") && words.contains(wanted), "it says {words:?}");
    same("exit code", status.code(), Some(5))
}

/// Changes a file for one start.
async fn with(
    cluster: &mut Cluster,
    path: &Path,
    change: impl FnOnce(&mut Vec<u8>),
    wanted: &str,
) -> Result<()> {
    let whole = std::fs::read(path).with_context(|| path.display().to_string())?;
    let mut changed = whole.clone();
    change(&mut changed);
    std::fs::write(path, &changed)?;
    refuses(cluster, wanted).await.with_context(|| path.display().to_string())?;
    same("the file after the refusal", std::fs::read(path)? == changed, true)?;
    Ok(std::fs::write(path, whole)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_release_wrote_is_refused_in_one_line() -> Result<()> {
    let options = Options::default().set("storage.checkpoint_s=1");
    let mut cluster = Cluster::start(1, options).await?;
    cluster.client(0)?.create_key(&named("before"), &fresh_key()).await?;
    cluster.stop(0).await?;
    let data = cluster.data(0);

    let raise = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(bytes).replace("\"format\": 2", "\"format\": 3");
        *bytes = text.into_bytes();
    };
    with(&mut cluster, &data.join("node.json"), raise, "has format 3, this build reads 2").await?;

    let raise = |bytes: &mut Vec<u8>| {
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    };
    let segment = last_segment(&data)?;
    with(&mut cluster, &segment, raise, "has format 2, which this release does not know").await?;

    let raise = |bytes: &mut Vec<u8>| *bytes = b"3\n".to_vec();
    with(&mut cluster, &data.join("blobs/format"), raise, "has format \"3\"").await?;

    let raise = |bytes: &mut Vec<u8>| {
        bytes[0] += 1;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..1]), &bytes[5..]);
        bytes[1..5].copy_from_slice(&sum.to_le_bytes());
    };
    with(&mut cluster, &data.join("peers"), raise, "frame has version 2").await?;

    let raise = |bytes: &mut Vec<u8>| {
        let read = protocol::codec::decode(bytes);
        let mut directory: Directory = read.expect("what the node wrote");
        directory.wire = Wire::OURS.max + 1;
        *bytes = protocol::codec::encode(&directory).expect("a directory");
    };
    let wanted = "the cluster speaks wire version 4, this build 1 to 3: start the newer release";
    with(&mut cluster, &data.join("peers"), raise, wanted).await?;

    // Nothing of all that has changed anything.
    cluster.restart(0).await?;
    let keys = cluster.client(0)?.keys(None, None).await?.body.data;
    ensure!(keys.iter().any(|key| key.name.as_deref() == Some("before")), "{keys:?}");
    Ok(())
}

fn named(name: &str) -> NewKey {
    NewKey { name: name.to_owned(), ..NewKey::default() }
}

fn last_segment(data: &Path) -> Result<PathBuf> {
    let listed = std::fs::read_dir(data.join("wal"))?;
    let paths = listed.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let segments = paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "seg"));
    segments.max().context("no segment")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_wire_version_is_told_everywhere() -> Result<()> {
    let cluster = Cluster::start(1, Options::default()).await?;
    let admin = cluster.admin(0)?;
    let version = admin.version().await?.body;
    let spoken = serde_json::json!({"active": 3, "min": 1, "max": 3});
    same("/version", &version["wire"], &spoken)?;
    let report = admin.readiness().await?.report;
    same("/readyz?verbose", &report["wire"], &spoken)?;
    let view = admin.cluster().await?.body;
    same("cluster", (view.wire, view.nodes[0].wire.max), (3, 3))?;
    let metrics = admin.metrics().await?.body;
    ensure!(metrics.contains("\nskep_wire_version 3\n"), "no wire version in the metrics");
    Ok(())
}

/// Upgraded node by node, one of them and back first: what was written by either release is read by
/// both, and replicas are equal.
#[tokio::test(flavor = "multi_thread")]
async fn the_release_before_and_this_one_work_in_one_cluster() -> Result<()> {
    let Some(previous) = previous()? else { return Ok(()) };
    let options = Options { binary: Some(previous.clone()), ..Options::default() };
    let mut cluster = Cluster::start(3, options).await?;
    let current = tests::binary()?;
    let mut written = Vec::new();
    let steps = [(0, &current), (0, &previous), (0, &current), (1, &current), (2, &current)];
    for (step, (i, binary)) in steps.into_iter().enumerate() {
        cluster.stop(i).await?;
        cluster.launcher().set_binary(i, binary)?;
        cluster.restart(i).await?;
        cluster.wait_whole().await?;
        let name = format!("step {step}");
        let key = cluster.client(i)?.create_key(&named(&name), &fresh_key()).await?.body;
        written.push(name);
        scan_with(&cluster, i, key.api_key.as_deref().context("no key")?).await?;
        read_everywhere(&cluster, &written).await?;
        cluster.digests().await.with_context(|| format!("after step {step}"))?;
    }
    Ok(())
}

/// A key that one release made is known to a node of the other.
async fn scan_with(cluster: &Cluster, i: usize, key: &str) -> Result<()> {
    let other = (i + 1) % cluster.len();
    let body = serde_json::json!({"docs": [{"id": "a", "content": "hello"}]});
    let call = Call::post("/v1/scan").json(&body)?.idempotency_key(fresh_key());
    cluster.client_of(other, key)?.json::<serde_json::Value>(call).await?;
    Ok(())
}

async fn read_everywhere(cluster: &Cluster, written: &[String]) -> Result<()> {
    for i in 0..cluster.len() {
        let keys = cluster.client(i)?.keys(None, None).await?.body.data;
        let lost =
            written.iter().find(|name| !keys.iter().any(|key| key.name.as_ref() == Some(*name)));
        ensure!(lost.is_none(), "node {i} does not have {lost:?}");
    }
    Ok(())
}

/// The binary of the release before; `None`, said loudly, while there is none.
fn previous() -> Result<Option<PathBuf>> {
    if let Some(binary) = std::env::var_os(PREVIOUS) {
        return Ok(Some(std::path::absolute(binary)?));
    }
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let listed = git(root, &["tag", "--list", "v*", "--sort=-version:refname"])?;
    let here = git(root, &["tag", "--points-at", "HEAD"])?;
    let before = listed.lines().find(|tag| !here.lines().any(|now| now == *tag));
    let Some(tag) = before else {
        let tags = listed.lines().count();
        skipped("the release before", &format!("of {tags} tags none is of one ({PREVIOUS})"));
        return Ok(None);
    };
    build(root, tag).map(Some)
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().context("git")?;
    ensure!(output.status.success(), "git {arguments:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds a tag beside the target of this test, once.
fn build(root: &Path, tag: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("the test has no target directory")?;
    let (sources, built) = (target.join("previous").join(tag), target.join("previous-target"));
    let binary = sources.with_extension("skep");
    if binary.exists() {
        return Ok(binary);
    }
    std::fs::create_dir_all(&sources)?;
    let archive = sources.with_extension("tar");
    let archived = archive.to_str().context("the target has a name that is no text")?;
    git(root, &["archive", "--output", archived, tag])?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&sources))?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "-p", "node", "--bin", "skep", "--target-dir"]).arg(&built);
    run(cargo.current_dir(&sources))?;
    std::fs::copy(built.join("debug").join("skep"), &binary)?;
    std::fs::remove_file(archive)?;
    Ok(binary)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
