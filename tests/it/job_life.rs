//! The life of jobs through the API: ended, held up, timed, retried, found; and tenants that share the
//! nodes. Then the owner of all of it is killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::raw::Request;
use tests::{Cluster, Options};

use crate::stage::{Account, account, call, on_three_nodes, operator, same, text};

const WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Milliseconds that a document holds its slot at least; there is one slot on each node.
const DOCUMENT_MS: u64 = 20;
/// What a machine that does other things at the same time may add to a wait.
const SLACK_MS: u64 = 300;
/// Documents of the smallest task.
const TASK: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn jobs_live_as_they_were_asked_to_and_tenants_share_the_nodes() {
    let delay = format!("inference.delay_ms={DOCUMENT_MS}");
    // Its jobs have the same documents, and are about the time that these take.
    let options = Options::default().set("inference.slots=1").set("cache.memory_mb=0").set(&delay);
    on_three_nodes(options, async |cluster| {
        let home = account(cluster, "lives", json!({})).await?;
        let mut billed = 0;
        billed += cancelled(cluster, &home).await.context("cancel")?;
        billed += paused(cluster, &home).await.context("pause")?;
        billed += expired_and_retried(cluster, &home).await.context("deadline")?;
        billed += timed(cluster, &home).await.context("run_at")?;
        billed += urgent(cluster, &home).await.context("priority")?;
        bill(cluster, &home, billed).await.context("the bill")?;
        found(cluster, &home).await.context("filters")?;
        capped(cluster).await.context("caps")?;
        shared(cluster).await.context("shares")?;
        survived(cluster).await.context("the kill")
    })
    .await;
}

/// A time to come, as the API has it.
fn in_ms(ms: u64) -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(protocol::Time(now.as_millis() as u64 + ms).to_string())
}

fn documents(count: usize) -> Value {
    (0..count).map(|i| json!({"id": format!("d{i}"), "content": format!("note {i}")})).collect()
}

/// Submits a job with further fields, and gives its path.
async fn submit(cluster: &Cluster, home: &Account, count: usize, more: Value) -> Result<String> {
    let mut body = json!({"type": "scan", "documents": documents(count)});
    let fields = body.as_object_mut().context("an object")?;
    fields.extend(more.as_object().cloned().unwrap_or_default());
    let job = call(cluster, 0, &home.key, "POST", "/v1/jobs", Some(&body)).await?.ok(202)?;
    text(&job, "status_url")
}

async fn get(cluster: &Cluster, home: &Account, path: &str) -> Result<Value> {
    call(cluster, 1, &home.key, "GET", path, None).await?.ok(200)
}

/// A verb on a job, through another node than the submission.
async fn verb(
    cluster: &Cluster,
    home: &Account,
    job: &str,
    verb: &str,
    status: u16,
) -> Result<Value> {
    let path = format!("{job}/{verb}");
    let answer = call(cluster, 2, &home.key, "POST", &path, None).await?;
    match status {
        409 => answer.problem(409, "conflict"),
        _ => answer.ok(status),
    }
}

fn status(job: &Value) -> &str {
    job["status"].as_str().unwrap_or_default()
}

fn count(job: &Value, what: &str) -> u64 {
    job["counts"][what].as_u64().unwrap_or_default()
}

/// Follows a job until a condition holds; its counts may never fall.
async fn reach(
    cluster: &Cluster,
    home: &Account,
    path: &str,
    reached: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let (began, mut seen) = (Instant::now(), (0, 0));
    loop {
        let job = get(cluster, home, path).await?;
        let counts = (count(&job, "done"), count(&job, "failed"));
        ensure!(counts.0 >= seen.0 && counts.1 >= seen.1, "{counts:?} after {seen:?}");
        seen = counts;
        if reached(&job) {
            return Ok(job);
        }
        ensure!(began.elapsed() < WITHIN, "the job stands at {job}");
        tokio::time::sleep(POLL).await;
    }
}

async fn completed(cluster: &Cluster, home: &Account, path: &str) -> Result<Value> {
    let over = ["completed", "failed", "cancelled"];
    let job = reach(cluster, home, path, |job| over.contains(&status(job))).await?;
    same("status", status(&job), "completed")?;
    Ok(job)
}

/// Acknowledged means for ever; what was done until then is billed and shown, and nothing else.
async fn cancelled(cluster: &Cluster, home: &Account) -> Result<u64> {
    let job = submit(cluster, home, 20 * TASK, json!({})).await?;
    reach(cluster, home, &job, |job| count(job, "done") > 0).await?;
    let request = || {
        let request = Request::post(&format!("{job}/cancel")).bearer(&home.key);
        request.header("Idempotency-Key", "end-it")
    };
    let first = request().send(&cluster.url(2)).await?;
    let ended = first.ok(200)?;
    same("status", status(&ended), "cancelled")?;
    let again = request().send(&cluster.url(0)).await?;
    same("replayed", again.header("idempotent-replayed"), Some("true"))?;
    same("the first answer", again.json()?, ended.clone())?;
    verb(cluster, home, &job, "cancel", 200).await?;
    for wrong in ["pause", "resume", "retry"] {
        let problem = verb(cluster, home, &job, wrong, 409).await?;
        ensure!(text(&problem, "detail")?.contains("cancelled"), "{problem}");
    }
    // What ran then is refused when it ends: wait until nothing of the tenant runs.
    reach_queue(cluster, home, |queue| {
        queue["tasks_running"] == 0 && queue["documents_waiting"] == 0
    })
    .await?;
    let later = get(cluster, home, &job).await?;
    same("for ever", later["counts"].clone(), ended["counts"].clone())?;
    let results = get(cluster, home, &format!("{job}/results?limit=1000")).await?;
    let shown = results["data"].as_array().context("results")?.len() as u64;
    let done = count(&ended, "done");
    same("results", shown, done)?;
    ensure!(done > 0 && done < 20 * TASK as u64, "{done} were done");
    Ok(done)
}

async fn paused(cluster: &Cluster, home: &Account) -> Result<u64> {
    let job = submit(cluster, home, 10 * TASK, json!({})).await?;
    reach(cluster, home, &job, |job| status(job) == "running").await?;
    same("status", status(&verb(cluster, home, &job, "pause", 200).await?), "paused")?;
    verb(cluster, home, &job, "pause", 409).await?;
    // What runs comes to its end, and nothing follows.
    let idle = reach_queue(cluster, home, |queue| queue["tasks_running"] == 0).await?;
    let waiting = idle["documents_waiting"].as_u64().unwrap_or_default();
    ensure!(waiting > 0, "nothing is left to pause: {idle}");
    let held = get(cluster, home, &job).await?;
    same("status", status(&held), "paused")?;
    same("what waits", waiting, count(&held, "total") - count(&held, "done"))?;
    same("status", status(&verb(cluster, home, &job, "resume", 200).await?), "running")?;
    verb(cluster, home, &job, "resume", 409).await?;
    Ok(count(&completed(cluster, home, &job).await?, "done"))
}

async fn reach_queue(
    cluster: &Cluster,
    home: &Account,
    reached: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let began = Instant::now();
    loop {
        let queue = get(cluster, home, "/v1/queue").await?;
        if reached(&queue) {
            return Ok(queue);
        }
        ensure!(began.elapsed() < WITHIN, "the queue stands at {queue}");
        tokio::time::sleep(POLL).await;
    }
}

/// What its deadline cuts off is neither run nor billed; that part alone is done again, once.
async fn expired_and_retried(cluster: &Cluster, home: &Account) -> Result<u64> {
    let total = 24 * TASK;
    let job = submit(cluster, home, total, json!({"deadline_s": 2})).await?;
    let ended = reach(cluster, home, &job, |job| status(job) == "failed").await?;
    let (done, failed) = (count(&ended, "done"), count(&ended, "failed"));
    same("all of it", done + failed, total as u64)?;
    ensure!(done > 0 && failed > 0, "{done} done, {failed} failed");
    same("the cause", ended["error"]["code"].as_str(), Some("deadline_exceeded"))?;
    let results = get(cluster, home, &format!("{job}/results?limit=1000")).await?;
    let records = results["data"].as_array().context("results")?;
    let told = |record: &&Value| {
        record["error"].as_str().is_some_and(|error| error.contains("deadline_exceeded"))
    };
    same("dead letters say why", records.iter().filter(told).count() as u64, failed)?;
    let retry = verb(cluster, home, &job, "retry", 202).await?;
    same("of", text(&retry, "retry_of")?, text(&ended, "id")?)?;
    same("the failed part", retry["documents"].as_u64(), Some(failed))?;
    verb(cluster, home, &job, "retry", 409).await?;
    let new = text(&retry, "status_url")?;
    same("known", get(cluster, home, &job).await?["retried_as"].clone(), retry["id"].clone())?;
    let over = reach(cluster, home, &new, |job| ["completed", "failed"].contains(&status(job)));
    let mut last = over.await?;
    let mut billed = done + count(&last, "done");
    let mut path = new;
    // Each round does more of it, until nothing is left.
    while status(&last) == "failed" {
        let retry = verb(cluster, home, &path, "retry", 202).await?;
        path = text(&retry, "status_url")?;
        let over =
            reach(cluster, home, &path, |job| ["completed", "failed"].contains(&status(job)));
        last = over.await?;
        billed += count(&last, "done");
    }
    same("each document once", billed, total as u64)?;
    verb(cluster, home, &path, "retry", 409).await?;
    Ok(billed)
}

async fn timed(cluster: &Cluster, home: &Account) -> Result<u64> {
    let job = submit(cluster, home, TASK, json!({"run_at": in_ms(1_500)?})).await?;
    let early = get(cluster, home, &job).await?;
    same("status", status(&early), "queued")?;
    let run_at = text(&early, "run_at")?;
    let ended = completed(cluster, home, &job).await?;
    let updated = text(&ended, "updated_at")?;
    ensure!(updated > run_at, "it was done at {updated}, to be run at {run_at}");
    Ok(TASK as u64)
}

/// What is urgent goes ahead of what was there, which is done all the same.
async fn urgent(cluster: &Cluster, home: &Account) -> Result<u64> {
    let mut low = Vec::new();
    for _ in 0..3 {
        low.push(submit(cluster, home, 8 * TASK, json!({"priority": "low"})).await?);
    }
    let urgent = submit(cluster, home, TASK, json!({"priority": "urgent"})).await?;
    completed(cluster, home, &urgent).await?;
    let behind = get(cluster, home, &low[2]).await?;
    ensure!(status(&behind) != "completed", "it did not wait: {behind}");
    for low in low {
        completed(cluster, home, &low).await?;
    }
    Ok(25 * TASK as u64)
}

async fn bill(cluster: &Cluster, home: &Account, documents: u64) -> Result<()> {
    let usage = get(cluster, home, "/v1/usage?period=current_month").await?;
    same("documents", usage["documents_scanned"].as_u64(), Some(documents))?;
    let audit = get(cluster, home, "/v1/audit?limit=1000").await?;
    let records = audit["data"].as_array().context("audit")?;
    for verb in ["cancel", "pause", "resume", "retry"] {
        let of = |record: &&Value| record.to_string().contains(&format!("/{verb}\""));
        ensure!(records.iter().any(|record| of(&record)), "no {verb} in the audit");
    }
    Ok(())
}

async fn found(cluster: &Cluster, home: &Account) -> Result<()> {
    let list = async |query: &str| -> Result<Vec<Value>> {
        let page = get(cluster, home, &format!("/v1/jobs?limit=1000&{query}")).await?;
        page["data"].as_array().cloned().context("a list")
    };
    let all = list("order=asc").await?;
    let with = |wanted: &str| all.iter().filter(|job| status(job) == wanted).count();
    for wanted in ["cancelled", "failed", "completed", "queued"] {
        let jobs = list(&format!("status={wanted}")).await?;
        same(wanted, jobs.len(), with(wanted))?;
        ensure!(jobs.iter().all(|job| status(job) == wanted), "{jobs:?}");
    }
    same("two", list("status=cancelled,failed").await?.len(), with("cancelled") + with("failed"))?;
    same("error", list("error=DEADLINE_exceeded").await?.len(), with("failed"))?;
    same("no such error", list("error=worker_lost").await?.len(), 0)?;
    same("low", list("priority=low&type=scan").await?.len(), 3)?;
    let second = text(&all[1], "created_at")?;
    same("since", list(&format!("since={second}")).await?.len(), all.len() - 1)?;
    same("until", list(&format!("until={second}")).await?.len(), 1)?;
    // Page by page it is the same.
    let (mut paged, mut next) = (0, String::new());
    loop {
        let query = format!("/v1/jobs?limit=1&status=completed{next}");
        let page = get(cluster, home, &query).await?;
        paged += page["data"].as_array().context("a page")?.len();
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        next = format!("&cursor={cursor}");
    }
    same("paged", paged, with("completed"))?;
    for wrong in ["status=done", "priority=9", "since=yesterday", "error=", "type=x"] {
        let answer = call(cluster, 0, &home.key, "GET", &format!("/v1/jobs?{wrong}"), None).await?;
        answer.problem(400, "malformed").context(wrong)?;
    }
    Ok(())
}

/// A tenant runs no more at a time than it may, and what does not fit into its backlog is told when
/// there may be room.
async fn capped(cluster: &Cluster) -> Result<()> {
    let limits = json!({"overrides": {"max_running": 1, "max_backlog": 12 * TASK, "weight": 3}});
    let home = account(cluster, "capped", limits).await?;
    let job = submit(cluster, &home, 10 * TASK, json!({})).await?;
    let queue = reach_queue(cluster, &home, |queue| queue["tasks_running"] == 1).await?;
    same("weight", (queue["weight"].as_u64(), queue["max_running"].as_u64()), (Some(3), Some(1)))?;
    let body = json!({"type": "scan", "documents": documents(12 * TASK)});
    let full = call(cluster, 1, &home.key, "POST", "/v1/jobs", Some(&body)).await?;
    let told = full.problem(429, "queue_full")?;
    let wait_ms = told["retry_after_ms"].as_u64().unwrap_or_default();
    ensure!(wait_ms >= 1_000 && told["reset_s"].as_u64() >= Some(1), "{told}");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let queue = get(cluster, &home, "/v1/queue").await?;
        ensure!(queue["tasks_running"].as_u64() <= Some(1), "{queue}");
    }
    verb(cluster, &home, &job, "cancel", 200).await?;
    Ok(())
}

/// Tenants of one shard.
async fn neighbours(cluster: &Cluster, weights: &[u64]) -> Result<Vec<Account>> {
    let mut by_shard: BTreeMap<u64, Vec<Account>> = BTreeMap::new();
    for i in 0..1_000 {
        let home = account(cluster, &format!("neighbour {i}"), json!({})).await?;
        let path = format!("/v1/tenants/{}", home.id);
        let tenant = operator(cluster, 0, "GET", &path, None).await?.ok(200)?;
        let here = by_shard.entry(tenant["shard"].as_u64().context("shard")?).or_default();
        here.push(home);
        if here.len() == weights.len() {
            let homes = std::mem::take(here);
            for (home, weight) in homes.iter().zip(weights) {
                let path = format!("/v1/tenants/{}/plan", home.id);
                let body = json!({"plan": "enterprise", "overrides": {"weight": weight}});
                operator(cluster, 0, "PUT", &path, Some(&body)).await?.ok(200)?;
            }
            return Ok(homes);
        }
    }
    anyhow::bail!("no shard got enough tenants")
}

/// A tenant with one task at a time hardly waits beside one that wants everything; two that do get as
/// much as they weigh.
async fn shared(cluster: &Cluster) -> Result<()> {
    let homes = neighbours(cluster, &[1, 4, 1]).await?;
    let [one, four, single] = homes.as_slice() else { anyhow::bail!("three tenants") };
    let (idle_ms, run_ms) = turns(cluster, single, 2).await?;
    let mut jobs = backlog(cluster, one, 5).await?;
    let (wait_ms, _) = turns(cluster, single, 4).await?;
    say(&format!("one task: {wait_ms} ms beside others, {idle_ms} alone, {run_ms} to run"));
    let bound_ms = 2 * idle_ms + run_ms + SLACK_MS;
    ensure!(wait_ms <= bound_ms, "waited {wait_ms} ms, {bound_ms} are allowed");

    jobs.extend(backlog(cluster, four, 6).await?);
    let done = async |tasks: usize| -> Result<(u64, u64)> {
        let began = Instant::now();
        loop {
            let less = documents_done(cluster, one).await?;
            let more = documents_done(cluster, four).await?;
            if more >= (tasks * TASK) as u64 {
                return Ok((less, more));
            }
            ensure!(began.elapsed() < WITHIN, "{less} and {more} are done");
            tokio::time::sleep(POLL).await;
        }
    };
    // What was under way when the second came is over by then.
    let before = done(8).await?;
    let after = done(48).await?;
    let (less, more) = (after.0 - before.0, after.1 - before.1);
    let ratio = more as f64 / less.max(1) as f64;
    say(&format!("weights 1:4: {less}:{more} documents, 1:{ratio:.2}"));
    // Forty tasks are counted, and six are under way at either end.
    ensure!((3.0..=5.5).contains(&ratio), "1:{ratio:.2} of 1:4");
    for (key, job) in jobs {
        let answer = call(cluster, 0, &key, "POST", &format!("{job}/cancel"), None).await?;
        ensure!([200, 409].contains(&answer.status), "{}", answer.text());
    }
    Ok(())
}

/// Jobs of one task each, one after the other: the longest wait for a node, and the longest whole turn.
async fn turns(cluster: &Cluster, home: &Account, count: usize) -> Result<(u64, u64)> {
    let mut longest = 0;
    for _ in 0..count {
        let began = Instant::now();
        completed(cluster, home, &submit(cluster, home, TASK, json!({})).await?).await?;
        longest = longest.max(began.elapsed().as_millis() as u64);
    }
    let queue = get(cluster, home, "/v1/queue").await?;
    Ok((queue["wait_p95_ms"].as_u64().context("wait")?, longest))
}

/// Jobs of sixteen tasks, with the key that they were submitted with.
async fn backlog(cluster: &Cluster, home: &Account, count: usize) -> Result<Vec<(String, String)>> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push((home.key.clone(), submit(cluster, home, 16 * TASK, json!({})).await?));
    }
    Ok(jobs)
}

async fn documents_done(cluster: &Cluster, home: &Account) -> Result<u64> {
    let list = get(cluster, home, "/v1/jobs").await?;
    Ok(list["data"].as_array().context("jobs")?.iter().map(|job| count(job, "done")).sum())
}

#[expect(clippy::print_stderr, reason = "a figure of a run that may be slow for good reasons")]
fn say(figure: &str) {
    eprintln!("{figure}");
}

/// What was acknowledged holds after the owner was killed, on every node that is left.
async fn survived(cluster: &mut Cluster) -> Result<()> {
    let home = account(cluster, "survivor", json!({})).await?;
    let ended = submit(cluster, &home, 10 * TASK, json!({})).await?;
    let held = submit(cluster, &home, 10 * TASK, json!({})).await?;
    let later = submit(cluster, &home, TASK, json!({"run_at": in_ms(3_000)?})).await?;
    let runs = submit(cluster, &home, 20 * TASK, json!({"priority": "high"})).await?;
    verb(cluster, &home, &held, "pause", 200).await?;
    reach(cluster, &home, &runs, |job| count(job, "done") > 0).await?;
    let cancelled = verb(cluster, &home, &ended, "cancel", 200).await?;
    let told = call(cluster, 0, &home.key, "GET", &runs, None).await?;
    let owner = told.header("skep-owner").context("no owner")?.to_owned();
    let dead = cluster.index_of(&owner).context("no such node")?;
    cluster.kill(dead).await?;
    let alive = (dead + 1) % cluster.len();
    let ask = async |method: &str, path: &str| {
        let began = Instant::now();
        loop {
            let request = Request::new(method, path).bearer(&home.key);
            let request =
                if method == "POST" { request.header("Idempotency-Key", path) } else { request };
            let answer = request.send(&cluster.url(alive)).await?;
            if answer.status < 500 || began.elapsed() > WITHIN {
                return answer.ok(200).with_context(|| format!("{method} {path}"));
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let after = ask("GET", &ended).await?;
    same("cancelled for ever", after["counts"].clone(), cancelled["counts"].clone())?;
    same("status", status(&after), "cancelled")?;
    let still = ask("GET", &held).await?;
    same("status", status(&still), "paused")?;
    ask("POST", &format!("{held}/resume")).await?;
    let mut done = count(&after, "done");
    for path in [&runs, &held, &later] {
        let began = Instant::now();
        loop {
            let job = ask("GET", path).await?;
            if status(&job) == "completed" {
                done += count(&job, "done");
                break;
            }
            ensure!(began.elapsed() < WITHIN, "the job stands at {job}");
            tokio::time::sleep(POLL).await;
        }
    }
    let usage = ask("GET", "/v1/usage?period=current_month").await?;
    same("each document once", usage["documents_scanned"].as_u64(), Some(done))?;
    same("all of those that were not cancelled", done - count(&after, "done"), 31 * TASK as u64)
}
