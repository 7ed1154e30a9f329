//! What operators see of a cluster that is well, and of one that is not: status, doctor, readiness,
//! metrics. Invariant: nothing that is shown has a secret in it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::raw::Request;
use tests::{Cluster, Options, Probe, until};
use tokio::process::Command;

use crate::stage::{on_three_nodes, same, skipped};

const TOLD_WITHIN: Duration = Duration::from_secs(30);
const LIBRARY: &str = "libfaketimeMT.so.1";
/// By how much a clock is set wrong, in seconds.
const AHEAD_S: i64 = 300;

/// Runs `skep` with the operator's key, against node `i`.
async fn skep(cluster: &Cluster, i: usize, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(tests::binary()?);
    command.args(arguments).args(["--node", &cluster.url(i)]);
    command.env("SKEP_KEY", cluster.admin_key()?).kill_on_drop(true);
    let output = command.output().await?;
    let text = [&*output.stdout, &*output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    for secret in ["sk_admin_", "sk_live_", "skep_join_", "PRIVATE"] {
        ensure!(!text.contains(secret), "{arguments:?} shows {secret}");
    }
    Ok(output)
}

async fn json(cluster: &Cluster, i: usize, arguments: &[&str]) -> Result<(i32, Value)> {
    let output = skep(cluster, i, &[arguments, &["-o", "json"]].concat()).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text)
        .with_context(|| format!("{text} {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output.status.code().context("a signal")?, value))
}

/// Waits until a command tells what is looked for.
async fn told(
    cluster: &Cluster,
    i: usize,
    arguments: &[&str],
    what: &str,
    right: impl Fn(i32, &Value) -> bool,
) -> Result<Value> {
    let seen = until(what, TOLD_WITHIN, async || {
        Ok(match json(cluster, i, arguments).await {
            Ok((code, value)) if right(code, &value) => Probe::Done(value),
            Ok((code, value)) => Probe::NotYet(format!("{code}: {value}")),
            Err(error) => Probe::NotYet(format!("{error:#}")),
        })
    });
    Ok(seen.await?)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The findings of one check.
fn findings<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    list(report, "checks").iter().filter(|finding| finding["check"] == check).collect()
}

fn verdicts(report: &Value, check: &str) -> Vec<String> {
    let found = findings(report, check).into_iter();
    found.map(|finding| finding["verdict"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_cluster_is_told_so_by_any_node_and_one_that_lost_a_node_is_not() {
    on_three_nodes(Options::default(), async |cluster| {
        for i in 0..cluster.len() {
            let well = |_: i32, view: &Value| list(view, "problems").is_empty() && complete(view);
            told(cluster, i, &["cluster", "status"], "a status without problems", well).await?;
        }
        readiness(cluster).await?;
        figures(cluster).await?;
        table(cluster).await?;
        healthy(cluster).await?;
        unhealthy(cluster).await
    })
    .await;
}

/// Every node and replica is told of, also those of other nodes, and no lead is about to move.
fn complete(view: &Value) -> bool {
    let nodes = list(view, "nodes").iter().all(|node| {
        node["pressure"].is_f64() && node["certificate_expires_at"].is_string() && node["lag"] == 0
    });
    let shards = list(view, "shards").iter().all(|shard| {
        let replicas = list(shard, "replicas").iter();
        let settled = shard["leader"] == shard["preferred"] || shard["id"] == "0";
        let led = shard["leader"].is_string() && settled;
        led && replicas.into_iter().all(|replica| replica["lag"] == 0)
    });
    nodes && shards && list(view, "nodes").len() == 3 && list(view, "shards").len() == 17
}

async fn readiness(cluster: &Cluster) -> Result<()> {
    let report = Request::get("/readyz?verbose").send(&cluster.url(1)).await?.ok(200)?;
    same("groups", list(&report, "groups").len(), 17)?;
    let led = |group: &Value| group["leader"].is_string() && group["epoch"].as_u64() > Some(0);
    ensure!(list(&report, "groups").iter().all(led), "{report}");
    until("one owner of each group", TOLD_WITHIN, async || {
        let mut owned = 0;
        for i in 0..cluster.len() {
            let client = match cluster.admin(i) {
                Ok(client) => client,
                Err(error) => return Ok(Probe::NotYet(format!("{error:#}"))),
            };
            let report = client.readiness().await?.report;
            owned += list(&report, "groups").iter().filter(|group| group["open"] == true).count();
        }
        Ok(if owned == 17 { Probe::Done(()) } else { Probe::NotYet(format!("{owned} of 17")) })
    })
    .await?;
    same("peers", (&report["peers_up"], &report["peers"]), (&2.into(), &2.into()))?;
    ensure!(report["settings"]["inference.slots"].is_u64(), "{report}");
    ensure!(report["certificate_expires_at"].is_string(), "{report}");
    let text = report.to_string();
    for secret in ["sk_", "cookie", "pepper", "skep_join_"] {
        ensure!(!text.contains(secret), "{secret} in {text}");
    }
    let plain = Request::get("/readyz").send(&cluster.url(1)).await?.ok(200)?;
    same("without verbose", plain, serde_json::json!({"status": "ready"}))?;
    let load = Request::get("/autoscale").send(&cluster.url(1)).await?.ok(200)?;
    same("an idle cluster wants", load["wanted"].as_u64(), Some(3))
}

async fn figures(cluster: &Cluster) -> Result<()> {
    let text = Request::get("/metrics").send(&cluster.url(0)).await?.text();
    for (line, wanted) in [
        ("skep_nodes{state=\"up\"}", 3.0),
        ("skep_nodes{state=\"down\"}", 0.0),
        ("skep_groups_without_leader", 0.0),
        ("skep_groups_short_of_voters", 0.0),
        ("skep_replicas_moving", 0.0),
        ("skep_wire_version", 3.0),
    ] {
        same(line, figure(&text, line)?, wanted)?;
    }
    // The cluster grew from one node, whose leader did that.
    let mut added = 0.0;
    for i in 0..cluster.len() {
        let text = Request::get("/metrics").send(&cluster.url(i)).await?.text();
        added += figure(&text, "skep_replica_moves_total{kind=\"add\",stage=\"finished\"}")?;
    }
    ensure!(added >= 34.0, "{added} replicas were added, two of each of 17 groups are more");
    Ok(())
}

fn figure(text: &str, line: &str) -> Result<f64> {
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.with_context(|| format!("no figure {line}"))?.parse().context("a number")
}

async fn table(cluster: &Cluster) -> Result<()> {
    let output = skep(cluster, 2, &["cluster", "status", "-o", "table"]).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    for word in ["PRESSURE", "HEARD", "EPOCH", "wire version 3", "n1", "n2", "n3", "itself"] {
        ensure!(text.contains(word), "no {word} in {text}");
    }
    ensure!(!text.contains("FAIL") && !text.contains("WARN"), "{text}");
    Ok(())
}

async fn healthy(cluster: &Cluster) -> Result<()> {
    let data = cluster.data(0).display().to_string();
    let address = |url: String| url.trim_start_matches("http://").to_owned();
    let view = cluster.admin(0)?.cluster().await?.body;
    let own = view.nodes.iter().find(|node| node.http == cluster.url(0)).context("node 0")?;
    let (http, peer) = (address(cluster.url(0)), own.peer.clone());
    let arguments = ["doctor", "--data", &data, "--http", &http, "--peer", &peer];
    let (code, report) = json(cluster, 0, &arguments).await?;
    let failed = list(&report, "checks").iter().filter(|finding| finding["verdict"] == "fail");
    let failed: Vec<_> = failed.collect();
    // How fast a disk is, and what room there is, is the machine's business.
    let of_the_machine = |finding: &&Value| {
        let check = finding["check"].as_str().unwrap_or_default();
        ["disk sync p50", "disk sync p99", "disk room", "memory", "open files"].contains(&check)
    };
    ensure!(failed.iter().all(of_the_machine), "{failed:?}");
    same("exit code", code, i32::from(!failed.is_empty()))?;
    for check in [
        "data identity",
        "data log",
        "data versions",
        "data access",
        "clock pace",
        "client port",
        "peer port",
        "nodes",
        "quorum",
        "leaders",
        "voters",
        "lag",
        "checkpoints",
        "certificates",
        "versions",
        "damage",
        "clocks",
    ] {
        same(check, verdicts(&report, check), vec!["ok".to_owned()])?;
    }
    same("nodes asked", verdicts(&report, "node"), vec!["ok".to_owned(); 3])?;
    for check in ["disk sync p50", "disk sync p99", "disk room", "open files", "memory"] {
        same(check, findings(&report, check).len(), 1)?;
    }
    let left = std::fs::read_dir(cluster.data(0))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<_> = left.filter(|name| name.contains("doctor")).collect();
    ensure!(left.is_empty(), "it leaves {left:?}");
    Ok(())
}

async fn unhealthy(cluster: &mut Cluster) -> Result<()> {
    let id = cluster.launcher().name(2);
    cluster.kill(2).await?;
    let down = format!("{id} is down");
    let tells = |value: &Value, list_of: &str, member: &str, words: &str| {
        list(value, list_of)
            .iter()
            .any(|found| found[member].as_str().is_some_and(|text| text.contains(words)))
    };
    let right = |code: i32, view: &Value| {
        let bare = tells(view, "problems", "detail", "the loss of one more node stops");
        code == 0 && tells(view, "problems", "detail", &down) && bare
    };
    let view = told(cluster, 0, &["cluster", "status"], "a node that is down", right).await?;
    same("the worst first", view["problems"][0]["about"].as_str(), Some("nodes"))?;
    let table = skep(cluster, 0, &["cluster", "status", "-o", "table"]).await?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let (problem, nodes) = (table.find("FAIL  nodes"), table.find("PRESSURE"));
    ensure!(problem.is_some() && problem < nodes, "problems do not come first: {table}");
    let right = |code: i32, report: &Value| {
        code == 1
            && tells(report, "checks", "found", &down)
            && verdicts(report, "nodes") == ["fail"]
            && verdicts(report, "leaders") == ["ok"]
    };
    told(cluster, 0, &["doctor"], "a doctor that fails", right).await?;
    let nobody = skep(cluster, 2, &["doctor"]).await?;
    same("exit code where nobody answers", nobody.status.code(), Some(1))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_told_by_status_and_doctor() {
    let Some(library) = library() else {
        return skipped("a wrong clock", &format!("{LIBRARY} is not installed (Debian: faketime)"));
    };
    on_three_nodes(Options::default(), async |cluster| {
        cluster.stop(1).await?;
        let variables = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME", format!("{AHEAD_S:+}")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        cluster.launcher().set_variables(1, variables.into());
        cluster.restart(1).await?;
        let words = format!("the clock of {} is 5.0 min ahead", cluster.launcher().name(1));
        for i in 0..cluster.len() {
            // The one that is wrong is told as the wrong one by itself, too.
            let right = |_: i32, view: &Value| {
                let clocks = list(view, "problems").iter().filter(|one| one["about"] == "clocks");
                let told: Vec<_> = clocks.filter_map(|one| one["detail"].as_str()).collect();
                matches!(&told[..], [only] if only.contains(&words))
            };
            told(cluster, i, &["cluster", "status"], "the wrong clock", right).await?;
        }
        let right = |code: i32, report: &Value| code == 1 && verdicts(report, "clocks") == ["fail"];
        let report = told(cluster, 0, &["doctor"], "a doctor that sees it", right).await?;
        let found = findings(&report, "clocks")[0]["found"].as_str().unwrap_or_default();
        ensure!(found.starts_with(&cluster.launcher().name(1)), "{found}");
        let ms: i64 = found.split(' ').nth(2).context("a figure")?.parse()?;
        ensure!((ms - AHEAD_S * 1_000).abs() < 2_000, "{found}");
        Ok(())
    })
    .await;
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let by_architecture = folders.map(|folder| folder.path().join("faketime"));
    let all = by_architecture.chain([PathBuf::from("/usr/lib/faketime")]);
    all.map(|folder| folder.join(LIBRARY)).find(|library| Path::exists(library))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_ready_tells_how_it_is() -> Result<()> {
    let cluster = Cluster::start(3, Options::default()).await?;
    cluster.kill(1).await?;
    cluster.kill(2).await?;
    let seen = until("a node without a quorum", TOLD_WITHIN, async || {
        let answer = Request::get("/readyz?verbose").send(&cluster.url(0)).await;
        Ok(match answer {
            Ok(answer) if answer.status == 503 => Probe::Done(answer),
            Ok(answer) => Probe::NotYet(answer.text()),
            Err(error) => Probe::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    let problem = seen.json()?;
    same("code", problem["code"].as_str(), Some("not_ready"))?;
    same("groups", list(&problem["report"], "groups").len(), 17)?;
    same("peers", problem["report"]["peers_up"].as_u64(), Some(0))?;
    let plain = Request::get("/readyz").send(&cluster.url(0)).await?.json()?;
    ensure!(plain["report"].is_null(), "{plain}");
    let (code, view) = json(&cluster, 0, &["cluster", "status"]).await?;
    same("status", code, 0)?;
    let told = list(&view, "problems").iter().any(|problem| problem["about"] == "quorum");
    ensure!(told, "{view}");
    Ok(())
}
