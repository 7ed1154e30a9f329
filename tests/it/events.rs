//! Events of jobs: the same on every node, without a gap through cuts and kills, to readers who are
//! slow as to those who are quick.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::events::{Event, Events};
use tests::raw::Request;
use tests::{Cluster, Options, Probe, until};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::stage::{Account, account, call, on_three_nodes, same, text};

const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Of the job that is followed while nodes are killed.
const DOCUMENTS: usize = 480;
/// Streams that nobody reads, and what each may cost.
const STUCK: usize = 40;
const STUCK_BYTES_MAX: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_job_are_the_same_on_every_node_and_have_no_gap() {
    let options = Options::default().set("inference.slots=1").set("inference.delay_ms=20");
    on_three_nodes(options, async |cluster| {
        let home = account(cluster, "follows", json!({})).await?;
        let job = followed_through_kills(cluster, &home).await.context("kills")?;
        every_node_tells_the_same(cluster, &home, &job).await.context("all nodes")?;
        what_is_no_number_of_an_event_is_refused(cluster, &home, &job).await.context("ids")?;
        holds_and_ends_are_told(cluster, &home).await.context("holds")?;
        who_reads_nothing_costs_little(cluster, &home, &job).await.context("stuck")
    })
    .await;
}

async fn submit(cluster: &Cluster, home: &Account, of: &str, count: usize) -> Result<String> {
    let document = |i| json!({"id": format!("d{i}"), "content": format!("{of} {i}")});
    let documents: Vec<Value> = (0..count).map(document).collect();
    let body = json!({"type": "scan", "documents": documents});
    let job = call(cluster, 0, &home.key, "POST", "/v1/jobs", Some(&body)).await?.ok(202)?;
    text(&job, "id")
}

/// Each event has the next number and more behind it than the last; the last is the only `done`.
fn check(events: &[Event], documents: usize) -> Result<()> {
    let mut seen = 0;
    for (index, event) in events.iter().enumerate() {
        let Event { id, name, data } = event;
        same("number", *id, index as u64 + 1)?;
        same("seq", data["seq"].as_u64(), Some(*id))?;
        let last = index + 1 == events.len();
        same("done comes last", name == "done", last)?;
        let done = data["counts"]["done"].as_u64().context("counts")?;
        ensure!(done >= seen, "{done} after {seen}");
        ensure!(name != "progress" || done > seen, "progress without any: {data}");
        seen = done;
    }
    let last = events.last().context("no events")?;
    same("status", last.data["status"].as_str(), Some("completed"))?;
    same("all are done", seen, documents as u64)
}

/// Cut after every second event and resumed on the next node; meanwhile each node is killed once.
async fn followed_through_kills(cluster: &mut Cluster, home: &Account) -> Result<String> {
    let job = submit(cluster, home, "kills", DOCUMENTS).await?;
    let (began, mut seen, mut at, mut killed) = (Instant::now(), Vec::<Event>::new(), 0, 0);
    while seen.last().is_none_or(|event| event.name != "done") {
        ensure!(began.elapsed() < WITHIN, "the job stands at {:?}", seen.last());
        at = (at + 1) % cluster.len();
        let after = seen.last().map(|event| event.id);
        // One that was just killed, or has no owner to ask, is passed over.
        let opened = Events::open(&cluster.url(at), &home.key, &job, after).await;
        let Ok(mut events) = opened else {
            tokio::time::sleep(POLL).await;
            continue;
        };
        for _ in 0..2 {
            let Some(event) = events.next().await? else { break };
            seen.push(event);
        }
        if killed < cluster.len() && seen.len() >= 4 * (killed + 1) {
            // The one that serves the stream.
            cluster.kill(at).await?;
            while let Some(event) = events.next().await? {
                seen.push(event);
            }
            cluster.restart(at).await?;
            killed += 1;
        }
    }
    same("nodes that were killed", killed, cluster.len())?;
    check(&seen, DOCUMENTS)?;
    cluster.wait_whole().await?;
    Ok(job)
}

async fn every_node_tells_the_same(cluster: &Cluster, home: &Account, job: &str) -> Result<()> {
    let mut first = None;
    for i in 0..cluster.len() {
        let all = Events::open(&cluster.url(i), &home.key, job, None).await?.rest().await?;
        check(&all, DOCUMENTS)?;
        let middle = all.len() as u64 / 2;
        let rest = Events::open(&cluster.url(i), &home.key, job, Some(middle)).await?;
        same("the rest", rest.rest().await?, all[middle as usize..].to_vec())?;
        let last = Events::open(&cluster.url(i), &home.key, job, Some(all.len() as u64)).await?;
        same("after the last", last.rest().await?, Vec::new())?;
        let first = first.get_or_insert_with(|| all.clone());
        same("events", &all, &*first)?;
    }
    Ok(())
}

async fn what_is_no_number_of_an_event_is_refused(
    cluster: &Cluster,
    home: &Account,
    job: &str,
) -> Result<()> {
    let other = account(cluster, "a stranger", json!({})).await?;
    let target = format!("/v1/jobs/{job}/events");
    for i in 0..cluster.len() {
        for wrong in ["100000", "x", "-1", "1.5", ""] {
            let request = Request::get(&target).bearer(&home.key).header("Last-Event-ID", wrong);
            request.send(&cluster.url(i)).await?.problem(400, "malformed").context(wrong)?;
        }
        let request = Request::get(&target).bearer(&other.key);
        request.send(&cluster.url(i)).await?.problem(404, "not_found")?;
    }
    Ok(())
}

/// A job that is held up, goes on and is cancelled, as one reader sees it; each within a second.
async fn holds_and_ends_are_told(cluster: &Cluster, home: &Account) -> Result<()> {
    let job = submit(cluster, home, "holds", 200).await?;
    let mut events = Events::open(&cluster.url(1), &home.key, &job, None).await?;
    for (verb, status) in [("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")] {
        let path = format!("/v1/jobs/{job}/{verb}");
        call(cluster, 2, &home.key, "POST", &path, None).await?.ok(200)?;
        let asked = Instant::now();
        loop {
            let event = events.next().await?.context("the stream ended")?;
            if event.data["status"] == status {
                break;
            }
        }
        ensure!(asked.elapsed() < Duration::from_secs(1), "{verb}: {:?}", asked.elapsed());
    }
    same("after the end", events.next().await?, None)
}

/// Streams that nobody reads: the node that serves them grows by less than their bound.
async fn who_reads_nothing_costs_little(
    cluster: &Cluster,
    home: &Account,
    job: &str,
) -> Result<()> {
    let url = cluster.url(0);
    let address = url.strip_prefix("http://").context("a URL of http")?;
    let pid = cluster.pid(0).context("node 0 runs")?;
    let open = async || -> Result<Vec<TcpStream>> {
        let mut streams = Vec::new();
        for _ in 0..STUCK {
            let mut stream = TcpStream::connect(address).await?;
            let head = format!(
                "GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: skep\r\nAuthorization: Bearer {}\r\n\r\n",
                home.key
            );
            stream.write_all(head.as_bytes()).await?;
            // The answer has begun, and nothing more of it is read.
            stream.readable().await?;
            streams.push(stream);
        }
        Ok(streams)
    };
    // Once before, for what the process keeps of any connection.
    drop(open().await?);
    let before = resident(pid)?;
    let stuck = open().await?;
    let grown = resident(pid)?.saturating_sub(before);
    let most = STUCK as u64 * STUCK_BYTES_MAX;
    ensure!(grown <= most, "{STUCK} streams cost {grown} bytes");
    drop(stuck);
    // They are counted, and given free when their readers go.
    until("streams are never free", WITHIN, async || {
        let opened = Events::open(&url, &home.key, job, None).await;
        Ok(opened.map_or_else(|error| Probe::NotYet(format!("{error:#}")), |_| Probe::Done(())))
    })
    .await?;
    Ok(())
}

/// Bytes of a process in memory.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
