//! What is wrong with a cluster, by the view of one of its nodes. Pure: a view in, problems out.

use std::collections::BTreeMap;

use client::cluster::{ClusterView, NodeView, ShardView};
use jiff::Timestamp;
use serde::Serialize;

/// Entries that a replica may miss: a log keeps about as many for peers that are behind.
const LAG_MAX: u64 = 1_000;
/// Clocks that differ by more are not kept right.
const CLOCK_APART_MS: i64 = 1_000;
/// Clocks that differ by more date work wrongly.
const CLOCK_WRONG_MS: i64 = 60_000;
/// Groups that are named in one problem.
const NAMED_MAX: usize = 20;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// Something does not work.
    Fail,
    /// It works, and a person should look.
    Warn,
}

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) grade: Grade,
    pub(crate) about: About,
    pub(crate) detail: String,
    pub(crate) advice: &'static str,
}

/// What a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum About {
    Nodes,
    Quorum,
    Leaders,
    Voters,
    Lag,
    Damage,
    Checkpoints,
    Certificates,
    Clocks,
    Versions,
}

impl About {
    /// Everything that is looked at, in the order in which it is told.
    pub(crate) const ALL: [Self; 10] = [
        Self::Nodes,
        Self::Quorum,
        Self::Leaders,
        Self::Voters,
        Self::Lag,
        Self::Damage,
        Self::Checkpoints,
        Self::Certificates,
        Self::Clocks,
        Self::Versions,
    ];

    /// As people read it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Quorum => "quorum",
            Self::Leaders => "leaders",
            Self::Voters => "voters",
            Self::Lag => "lag",
            Self::Damage => "damage",
            Self::Checkpoints => "checkpoints",
            Self::Certificates => "certificates",
            Self::Clocks => "clocks",
            Self::Versions => "versions",
        }
    }
}

/// Everything that is wrong, the worst first.
pub(crate) fn problems(view: &ClusterView) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(view.nodes.iter().filter_map(away));
    found.extend(quorums(view));
    found.extend(leaders(view));
    found.extend(voters(view));
    found.extend(view.nodes.iter().filter_map(behind));
    found.extend(view.nodes.iter().filter_map(damaged));
    found.extend(view.nodes.iter().filter_map(unsaved));
    found.extend(view.nodes.iter().filter_map(|node| certificate(view, node)));
    found.extend(clocks(view));
    found.extend(versions(view));
    // A stable sort: what caused the rest stays before it.
    found.sort_by_key(|problem| problem.grade);
    found
}

fn problem(grade: Grade, about: About, detail: String, advice: &'static str) -> Problem {
    Problem { grade, about, detail, advice }
}

fn answers(node: &NodeView) -> bool {
    !["down", "lost"].contains(&node.state.as_str())
}

fn away(node: &NodeView) -> Option<Problem> {
    if answers(node) {
        return None;
    }
    let since = match node.heard_ms {
        Some(ms) => format!("was heard of {} ago", span(ms)),
        None => "was not heard of yet".to_owned(),
    };
    let detail = format!("{} is {}, {since}", node.id, node.state);
    let advice = "start it again with its directory; if that is lost, remove the node";
    Some(problem(Grade::Fail, About::Nodes, detail, advice))
}

fn quorums(view: &ClusterView) -> Vec<Problem> {
    let up: Vec<&str> = view.nodes.iter().filter(|node| answers(node)).map(|n| &*n.id).collect();
    let (mut lost, mut bare) = (Vec::new(), Vec::new());
    for shard in &view.shards {
        let votes = shard.replicas.iter().filter(|replica| replica.role == "voter");
        let all = shard.voters();
        let live = votes.filter(|replica| up.contains(&&*replica.node)).count();
        if live <= all / 2 {
            lost.push(&*shard.id);
        } else if live < all && live == all / 2 + 1 {
            bare.push(&*shard.id);
        }
    }
    let mut found = Vec::new();
    if !lost.is_empty() {
        let detail = format!("no quorum in {}", groups(&lost));
        found.push(problem(Grade::Fail, About::Quorum, detail, "bring nodes back"));
    }
    if !bare.is_empty() {
        let detail = format!("the loss of one more node stops {}", groups(&bare));
        found.push(problem(Grade::Warn, About::Quorum, detail, "bring the missing nodes back"));
    }
    found
}

fn leaders(view: &ClusterView) -> Option<Problem> {
    let without = view.shards.iter().filter(|shard| shard.leader.is_none());
    let without: Vec<&str> = without.map(|shard| &*shard.id).collect();
    if without.is_empty() {
        return None;
    }
    let detail = format!("nobody leads {}", groups(&without));
    let advice = "if it lasts for more than a few seconds, look at the nodes of their replicas";
    Some(problem(Grade::Fail, About::Leaders, detail, advice))
}

fn voters(view: &ClusterView) -> Option<Problem> {
    let lacks = |shard: &&ShardView| shard.voters() < shard.voters_wanted;
    let few: Vec<&ShardView> = view.shards.iter().filter(lacks).collect();
    let first = few.first()?;
    let names: Vec<&str> = few.iter().map(|shard| &*shard.id).collect();
    let (have, wanted) = (first.voters(), first.voters_wanted);
    let detail = format!("{have} of {wanted} voters in {}", groups(&names));
    let advice = "replicas are made again by themselves where there is a node with room";
    Some(problem(Grade::Warn, About::Voters, detail, advice))
}

fn behind(node: &NodeView) -> Option<Problem> {
    let lag = node.lag.filter(|&lag| answers(node) && lag > LAG_MAX)?;
    let detail = format!("a replica on {} misses {lag} entries, {LAG_MAX} are usual", node.id);
    let advice = "if it does not close up, look at the disk and the network of the node";
    Some(problem(Grade::Warn, About::Lag, detail, advice))
}

fn damaged(node: &NodeView) -> Option<Problem> {
    let count = node.damaged.filter(|&count| count > 0)?;
    let what = if count == 1 { "log or state" } else { "logs and states" };
    let detail = format!("{} found {count} {what} damaged when it started", node.id);
    let advice = "look at its disk; what it lost is made anew, `/readyz?verbose` names the files";
    Some(problem(Grade::Warn, About::Damage, detail, advice))
}

fn unsaved(node: &NodeView) -> Option<Problem> {
    let age_s = node.checkpoint_overdue_s?;
    let detail = format!("a checkpoint of {} is overdue, {} old", node.id, span(age_s * 1_000));
    let advice = "look for `checkpoint not written` in its log, and at the room on its disk";
    Some(problem(Grade::Warn, About::Checkpoints, detail, advice))
}

fn certificate(view: &ClusterView, node: &NodeView) -> Option<Problem> {
    let ends: Timestamp = node.certificate_expires_at.as_ref()?.parse().ok()?;
    let told: Timestamp = view.told_at.parse().ok()?;
    let term_ms = i64::try_from(node.certificate_term_s? * 1_000).ok()?;
    // Made by its own clock, so it is read by that clock.
    let left_ms = ends.as_millisecond() - told.as_millisecond() - node.clock_ahead_ms.unwrap_or(0);
    let advice = "renewals fail: see `certificate not renewed` in its log, and its clock";
    if left_ms <= 0 {
        let detail = format!("the certificate of {} has ended", node.id);
        return Some(problem(Grade::Fail, About::Certificates, detail, advice));
    }
    if left_ms < term_ms / 4 {
        let left = span(left_ms.unsigned_abs());
        let detail = format!("the certificate of {} ends in {left}", node.id);
        return Some(problem(Grade::Warn, About::Certificates, detail, advice));
    }
    None
}

/// Against the median, so that one clock that is wrong does not accuse the others.
fn clocks(view: &ClusterView) -> Vec<Problem> {
    let ahead = view.nodes.iter().filter(|node| answers(node));
    let ahead = ahead.filter_map(|node| Some((&*node.id, node.clock_ahead_ms?)));
    let ahead: BTreeMap<&str, i64> = ahead.collect();
    let mut found = Vec::new();
    for (node, apart_ms) in apart(&ahead) {
        if apart_ms.abs() <= CLOCK_APART_MS {
            continue;
        }
        let grade = if apart_ms.abs() <= CLOCK_WRONG_MS { Grade::Warn } else { Grade::Fail };
        let by = span(apart_ms.unsigned_abs());
        let side = if apart_ms > 0 { "ahead of" } else { "behind" };
        let detail = format!("the clock of {node} is {by} {side} the others");
        found.push(problem(grade, About::Clocks, detail, "keep it right with NTP"));
    }
    found
}

/// How far each is from the median; the earlier of the middle two, as the nodes themselves have it.
pub(crate) fn apart<'a>(clocks: &BTreeMap<&'a str, i64>) -> Vec<(&'a str, i64)> {
    let mut sorted: Vec<i64> = clocks.values().copied().collect();
    sorted.sort_unstable();
    let Some(median) = sorted.get(sorted.len().saturating_sub(1) / 2) else { return Vec::new() };
    clocks.iter().map(|(&node, at)| (node, at - median)).collect()
}

fn versions(view: &ClusterView) -> Option<Problem> {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in &view.nodes {
        by_version.entry(&node.version).or_default().push(&node.id);
    }
    if by_version.len() < 2 {
        return None;
    }
    let told = by_version.iter().map(|(version, on)| format!("{version} on {}", on.join(", ")));
    let detail = told.collect::<Vec<_>>().join("; ");
    let advice = "finish the upgrade: what is new begins when every node has it";
    Some(problem(Grade::Warn, About::Versions, detail, advice))
}

fn groups(ids: &[&str]) -> String {
    let named = ids.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    let more = if ids.len() > NAMED_MAX { ", …" } else { "" };
    format!("group {named}{more}")
}

/// Milliseconds, as people say them.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{:.1} min", ms as f64 / 60_000.0),
        3_600_000..172_800_000 => format!("{:.1} h", ms as f64 / 3_600_000.0),
        _ => format!("{} days", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests;
