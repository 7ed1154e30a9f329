//! `skep job`: submit a batch, follow it, end, hold up and repeat it, read its results.

use std::time::{Duration, Instant};

use client::Client;
use client::jobs::{Job, JobFilter, JobOptions, NewJob, Submitted};

use super::failure::Failure;
use super::output::Output;
use super::{Context, input};

const POLL_PAUSE: Duration = Duration::from_millis(250);
/// Jobs on a page.
const PAGE: u32 = 200;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Submit files as one job
    Submit(Submit),
    /// How far a job is
    Status(Status),
    /// The results of a job, one JSON record per line
    Results {
        /// The job's id
        job: String,
    },
    /// Jobs, oldest first
    List(List),
    /// End a job for ever; what has no result gets none and is not billed
    Cancel(Named),
    /// Begin nothing more of a job until it is resumed
    Pause(Named),
    /// Go on with a paused job
    Resume(Named),
    /// Do the failed part of a job again, as a job of its own
    Retry(Named),
    /// Retry every failed job that was not retried yet: its dead letters go back into the queue
    Redrive(Redrive),
    /// What waits, and for how long tasks waited of late
    Queue,
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The job's id
    job: String,
    /// The Idempotency-Key, for scripts that may run twice
    #[arg(long, env = "SKEP_IDEMPOTENCY_KEY", value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// queued, running, paused, completed, failed, cancelled; several are separated by commas
    #[arg(long, env = "SKEP_STATUS", value_name = "STATUS", value_delimiter = ',')]
    status: Vec<String>,
    /// low, normal, high or urgent
    #[arg(long, env = "SKEP_PRIORITY")]
    priority: Option<String>,
    #[command(flatten)]
    among: Among,
    /// How many at most
    #[arg(long, env = "SKEP_LIMIT", value_name = "N", default_value_t = 50)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    among: Among,
    /// How many at most
    #[arg(long, env = "SKEP_LIMIT", value_name = "N", default_value_t = 1000)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
struct Among {
    /// Submitted then or later: 2027-01-31T12:00:00Z
    #[arg(long, env = "SKEP_SINCE", value_name = "TIME")]
    since: Option<String>,
    /// Submitted before
    #[arg(long, env = "SKEP_UNTIL", value_name = "TIME")]
    until: Option<String>,
    /// Text in what is told of the failure
    #[arg(long, env = "SKEP_ERROR", value_name = "TEXT")]
    error: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Submit {
    /// Files to scan, `-` for stdin; `.ndjson` and `.jsonl` hold one document per line
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Take every input as one JSON document per line: {"id", "content"}
    #[arg(long, env = "SKEP_NDJSON")]
    ndjson: bool,
    /// low, normal, high or urgent
    #[arg(long, env = "SKEP_PRIORITY")]
    priority: Option<String>,
    /// Seconds after which it is neither run nor billed any more
    #[arg(long, env = "SKEP_DEADLINE_S", value_name = "SECONDS")]
    deadline_s: Option<u64>,
    /// Not before: 2027-01-31T12:00:00Z
    #[arg(long, env = "SKEP_RUN_AT", value_name = "TIME")]
    run_at: Option<String>,
    /// Attempts of each task until it is a dead letter
    #[arg(long, env = "SKEP_MAX_ATTEMPTS", value_name = "N")]
    max_attempts: Option<u32>,
    /// The Idempotency-Key, for scripts that may run twice
    #[arg(long, env = "SKEP_IDEMPOTENCY_KEY", value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// The job's id
    job: String,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, clap::Args)]
struct Wait {
    /// Wait until the job is over; exit with 1 unless it completed
    #[arg(long, env = "SKEP_WAIT")]
    wait: bool,
    /// How long to wait at most
    #[arg(long, env = "SKEP_WAIT_S", value_name = "SECONDS", default_value_t = 3600)]
    wait_s: u64,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Submit(args) => submit(args, context).await,
        Command::Status(args) => {
            let client = context.client()?;
            show(&client, &args.job, &args.wait, context.output).await
        }
        Command::Results { job } => results(&job, context).await,
        Command::List(args) => list(args, context).await,
        Command::Cancel(named) => {
            let (client, key) = (context.client()?, key(named.idempotency_key));
            print(&client.cancel_job(&named.job, &key).await?.body, context.output)
        }
        Command::Pause(named) => {
            let (client, key) = (context.client()?, key(named.idempotency_key));
            print(&client.pause_job(&named.job, &key).await?.body, context.output)
        }
        Command::Resume(named) => {
            let (client, key) = (context.client()?, key(named.idempotency_key));
            print(&client.resume_job(&named.job, &key).await?.body, context.output)
        }
        Command::Retry(named) => {
            let (client, key) = (context.client()?, key(named.idempotency_key));
            retried(&client.retry_job(&named.job, &key).await?.body, context.output)
        }
        Command::Redrive(args) => redrive(args, context).await,
        Command::Queue => queue(context).await,
    }
}

fn key(given: Option<String>) -> String {
    given.unwrap_or_else(client::fresh_key)
}

fn retried(job: &Submitted, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(job)?);
    }
    Ok(output.line(&job.id)?)
}

/// All jobs for which a filter holds, at most so many.
async fn find(client: &Client, filter: &JobFilter, limit: usize) -> Result<Vec<Job>, Failure> {
    let (mut jobs, mut cursor) = (Vec::new(), None);
    while jobs.len() < limit {
        let page = client.find_jobs(filter, Some(PAGE), cursor.as_deref()).await?.body;
        jobs.extend(page.data);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    jobs.truncate(limit);
    Ok(jobs)
}

async fn list(args: List, context: &Context) -> Result<(), Failure> {
    let List { status, priority, among: Among { since, until, error }, limit } = args;
    let filter = JobFilter { statuses: status, priority, since, until, error };
    print_all(&find(&context.client()?, &filter, limit).await?, context.output)
}

async fn redrive(args: Redrive, context: &Context) -> Result<(), Failure> {
    let Redrive { among: Among { since, until, error }, limit } = args;
    let statuses = vec!["failed".to_owned()];
    let filter = JobFilter { statuses, priority: None, since, until, error };
    let client = context.client()?;
    let mut count = 0;
    for job in find(&client, &filter, limit).await? {
        if job.retried_as.is_none() {
            // A job has one retry, so to do this twice makes nothing twice.
            retried(&client.retry_job(&job.id, &client::fresh_key()).await?.body, context.output)?;
            count += 1;
        }
    }
    context.output.note(&format!("{count} jobs were retried"));
    Ok(())
}

async fn queue(context: &Context) -> Result<(), Failure> {
    let queue = context.client()?.queue().await?.body;
    if context.output.is_json() {
        return Ok(context.output.json(&queue)?);
    }
    let ms = |wait: Option<u64>| wait.map_or_else(|| "-".to_owned(), |wait| format!("{wait} ms"));
    let row = vec![
        queue.documents_waiting.to_string(),
        queue.tasks_waiting.to_string(),
        queue.tasks_running.to_string(),
        queue.weight.to_string(),
        ms(queue.wait_p50_ms),
        ms(queue.wait_p95_ms),
    ];
    let header =
        ["DOCUMENTS WAITING", "TASKS WAITING", "TASKS RUNNING", "WEIGHT", "WAIT P50", "WAIT P95"];
    Ok(context.output.table(&header, vec![row])?)
}

async fn submit(args: Submit, context: &Context) -> Result<(), Failure> {
    let documents = input::documents(&args.files, args.ndjson)?;
    let client = context.client()?;
    let options = args.max_attempts.map(|max| JobOptions { max_attempts: Some(max) });
    let job = NewJob {
        priority: args.priority,
        run_at: args.run_at,
        deadline_s: args.deadline_s,
        options,
        ..NewJob::scan(documents)
    };
    let key = key(args.idempotency_key);
    let submitted = client.submit_job(&job, &key).await?;
    context.output.detail(&format!("{:?}", submitted.meta));
    if args.wait.wait {
        return show(&client, &submitted.id, &args.wait, context.output).await;
    }
    if context.output.is_json() {
        return Ok(context.output.json(&submitted.body)?);
    }
    let id = &submitted.id;
    context.output.line(id)?;
    context.output.note(&format!("{} documents; skep job status --wait {id}", submitted.documents));
    Ok(())
}

async fn show(client: &Client, id: &str, wait: &Wait, output: Output) -> Result<(), Failure> {
    let mut answer = client.job(id).await?;
    if wait.wait {
        let deadline = Instant::now() + Duration::from_secs(wait.wait_s);
        let bar = output.bar(answer.counts.total, &answer.status);
        while !answer.is_over() && Instant::now() < deadline {
            bar.set_position(answer.counts.done + answer.counts.failed);
            tokio::time::sleep(POLL_PAUSE).await;
            answer = client.job(id).await?;
        }
        bar.finish_and_clear();
    }
    output.detail(&format!("{:?}", answer.meta));
    print(&answer.body, output)?;
    if wait.wait && answer.status != "completed" {
        return Err(Failure::failed(format!("the job is {}", answer.status)));
    }
    Ok(())
}

fn print(job: &Job, output: Output) -> Result<(), Failure> {
    print_all(std::slice::from_ref(job), output)
}

fn print_all(jobs: &[Job], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(jobs.iter().try_for_each(|job| output.json(job))?);
    }
    let rows = jobs.iter().map(|job| {
        vec![
            job.id.clone(),
            job.status.clone(),
            format!("{:.0} %", job.progress * 100.0),
            job.counts.done.to_string(),
            job.counts.failed.to_string(),
            job.counts.total.to_string(),
            job.shard.clone(),
            job.error.as_ref().map_or_else(String::new, |error| error.code.clone()),
        ]
    });
    let header = ["JOB", "STATUS", "PROGRESS", "DONE", "FAILED", "TOTAL", "SHARD", "ERROR"];
    Ok(output.table(&header, rows.collect())?)
}

async fn results(job: &str, context: &Context) -> Result<(), Failure> {
    let mut results = context.client()?.job_results_stream(job).await?;
    let complete = results.meta.complete;
    while let Some(line) = results.body.next_line().await? {
        context.output.bytes(&line)?;
    }
    if complete == Some(false) {
        context.output.note("The job is not over; these are the results so far.");
    }
    Ok(())
}
