//! The cluster, through its API: what one node sees, and what each says of its clock and itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::cluster::{ClusterView, NodeView};
use client::{Client, Retry};
use jiff::Timestamp;

use super::{Finding, Verdict, grade};
use crate::cli::Context;
use crate::cli::cluster::problems::{self, About, Grade};
use crate::cli::failure::Failure;

const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Each node's clock is read so often, and the quickest answer counts.
const READINGS: usize = 3;
const APART_WARN_MS: u64 = 1_000;
const APART_FAIL_MS: u64 = 60_000;

pub(super) async fn check(context: &Context) -> Vec<Finding> {
    let nodes = context.nodes().join(", ");
    let found = match context.anonymous() {
        Ok(client) => patient(client).version().await,
        Err(failure) => return vec![Finding::fail("cluster", failure.message)],
    };
    if let Err(error) = found {
        let found = format!("{nodes}: {error}");
        return vec![if context.names_nodes() {
            Finding::fail("cluster", found).advice("is a node running there?")
        } else {
            Finding::skip("cluster", found).advice("name a node with --node")
        }];
    }
    match view(context).await {
        Ok(view) => look(context, &view).await,
        Err(finding) => vec![finding],
    }
}

fn patient(client: Client) -> Client {
    client.with_retry(Retry::NEVER).with_timeout(PROBE_TIMEOUT)
}

async fn view(context: &Context) -> Result<ClusterView, Finding> {
    let check = "cluster";
    let keyed = |failure: Failure| {
        Finding::skip(check, failure.message).advice("give the operator's key with --key-file")
    };
    let client = context.client().map_err(keyed)?;
    match client.with_timeout(PROBE_TIMEOUT).cluster().await {
        Ok(view) => Ok(view.body),
        Err(error) => Err(Finding::fail(check, error.to_string())
            .advice("it needs the operator's key, and a node that knows the cluster")),
    }
}

async fn look(context: &Context, view: &ClusterView) -> Vec<Finding> {
    let mut findings = seen(view);
    let asked = view.nodes.iter().filter(|node| !is_away(node)).map(|node| ask(context, node));
    let asked = futures::future::join_all(asked).await;
    findings.extend(asked.iter().map(|asked| asked.ready.clone()));
    let clocks: BTreeMap<&str, (i64, u64)> =
        asked.iter().filter_map(|asked| Some((&*asked.node, asked.clock?))).collect();
    findings.push(apart(&clocks));
    findings
}

fn is_away(node: &NodeView) -> bool {
    ["down", "lost"].contains(&node.state.as_str())
}

/// One line for each thing that is looked at, well or not; clocks are read from here instead.
fn seen(view: &ClusterView) -> Vec<Finding> {
    let problems = problems::problems(view);
    let mut findings = Vec::new();
    for about in About::ALL.into_iter().filter(|about| *about != About::Clocks) {
        let mut wrong = problems.iter().filter(|problem| problem.about == about).peekable();
        if wrong.peek().is_none() {
            findings.push(Finding::ok(about.name(), well(view, about)));
        }
        findings.extend(wrong.map(|problem| {
            let verdict = if problem.grade == Grade::Fail { Verdict::Fail } else { Verdict::Warn };
            Finding::new(about.name(), verdict, &problem.detail).advice(problem.advice)
        }));
    }
    findings
}

/// The figure behind an `ok`.
fn well(view: &ClusterView, about: About) -> String {
    let (nodes, groups) = (view.nodes.len(), view.shards.len());
    match about {
        About::Nodes => format!("{nodes} of {nodes} answer"),
        About::Quorum => format!("{groups} of {groups} groups have one"),
        About::Leaders => format!("{groups} of {groups} groups have a leader"),
        About::Voters => format!("{groups} of {groups} groups have all voters"),
        About::Lag => {
            let worst = view.nodes.iter().filter_map(|node| node.lag).max().unwrap_or(0);
            format!("{worst} entries at most")
        }
        About::Damage => "none was found".to_owned(),
        About::Checkpoints => "none is overdue".to_owned(),
        About::Certificates => {
            let ends = view.nodes.iter().filter_map(|node| node.certificate_expires_at.as_deref());
            format!("the first ends at {}", ends.min().unwrap_or("a time that nobody told"))
        }
        About::Clocks => String::new(),
        About::Versions => {
            let version = view.nodes.first().map_or("none", |node| &node.version);
            format!("{version} everywhere, wire version {}", view.wire)
        }
    }
}

/// What one node says of itself.
struct Asked {
    node: String,
    ready: Finding,
    /// Milliseconds that its clock is ahead of the one here, and how far that may be wrong.
    clock: Option<(i64, u64)>,
}

async fn ask(context: &Context, node: &NodeView) -> Asked {
    let (check, id) = ("node", node.id.clone());
    let away = |why: String| {
        let found = format!("{id} at {}: {why}", node.http);
        Finding::warn(check, found).advice("can this machine reach the address that it advertises?")
    };
    let client = match context.client_of(&node.http) {
        Ok(client) => patient(client),
        Err(failure) => return Asked { ready: away(failure.message), node: id, clock: None },
    };
    let ready = match client.readiness().await {
        Ok(found) if found.ready => Finding::ok(check, format!("{id} is ready")),
        Ok(found) => {
            let why = found.report["detail"].as_str().unwrap_or_default();
            Finding::fail(check, format!("{id} is not ready: {why}")).advice("look at its log")
        }
        Err(error) => away(error.to_string()),
    };
    Asked { ready, node: id, clock: clock(&client).await }
}

/// The time that a node shows lies between that of the question and that of the answer.
async fn clock(client: &Client) -> Option<(i64, u64)> {
    let mut best: Option<(i64, u64)> = None;
    for _ in 0..READINGS {
        let (asked, began) = (wall_ms(), Instant::now());
        let answer = client.version().await.ok()?;
        let round_ms = began.elapsed().as_millis() as u64;
        let shown: Timestamp = answer.body["time"].as_str()?.parse().ok()?;
        let half = round_ms.div_ceil(2);
        let ahead = shown.as_millisecond() - asked - half as i64;
        if best.is_none_or(|(_, wrong)| half < wrong) {
            best = Some((ahead, half));
        }
    }
    best
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

/// From the median of the nodes; a single one is held against the clock here.
fn apart(clocks: &BTreeMap<&str, (i64, u64)>) -> Finding {
    let check = "clocks";
    let mut ahead: BTreeMap<&str, i64> =
        clocks.iter().map(|(node, (at, _))| (*node, *at)).collect();
    if ahead.len() == 1 {
        ahead.insert("this machine", 0);
    }
    let furthest = problems::apart(&ahead).into_iter().max_by_key(|(_, ms)| ms.unsigned_abs());
    let Some((node, ms)) = furthest else {
        return Finding::skip(check, "no node told its time");
    };
    let (far, wrong) = (ms.unsigned_abs(), clocks.get(node).map_or(0, |(_, wrong)| *wrong));
    let side = if ms < 0 { "behind" } else { "ahead of" };
    let found = format!("{node} is {far} ms {side} the others, give or take {wrong} ms");
    // What the way took is not held against a clock.
    let sure = far.saturating_sub(wrong);
    Finding::new(check, grade(sure, APART_WARN_MS, APART_FAIL_MS), found)
        .bound(format!("{APART_WARN_MS} ms, at most {APART_FAIL_MS} ms"))
        .advice("keep it right with NTP")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(clocks: &[(&str, i64, u64)]) -> (Verdict, String) {
        let clocks = clocks.iter().map(|&(node, at, wrong)| (node, (at, wrong))).collect();
        let found = apart(&clocks);
        (found.verdict, found.found)
    }

    #[test]
    fn clocks_are_held_against_their_median_and_the_way_is_allowed_for() {
        let (ok, told) = verdict(&[("n1", 4, 1), ("n2", 5, 1), ("n3", 40, 1)]);
        assert_eq!(
            (ok, &*told),
            (Verdict::Ok, "n3 is 35 ms ahead of the others, give or take 1 ms")
        );
        assert_eq!(verdict(&[("n1", 0, 0), ("n2", 0, 0), ("n3", -1_500, 9)]).0, Verdict::Warn);
        assert_eq!(verdict(&[("n1", 0, 0), ("n2", 0, 0), ("n3", -1_500, 600)]).0, Verdict::Ok);
        let (fail, told) = verdict(&[("n1", 120_000, 2), ("n2", 0, 0), ("n3", 0, 0)]);
        assert_eq!(fail, Verdict::Fail);
        assert!(told.starts_with("n1 is 120000 ms ahead"), "{told}");
    }

    #[test]
    fn one_node_is_held_against_this_machine_and_none_is_skipped() {
        assert_eq!(verdict(&[("n1", 90_000, 2)]).0, Verdict::Fail);
        assert_eq!(verdict(&[]).0, Verdict::Skip);
    }
}
