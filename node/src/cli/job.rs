//! `skep job`: submit a batch, follow it, read its results.

use std::time::{Duration, Instant};

use client::Client;
use client::jobs::{Job, NewJob};

use super::failure::Failure;
use super::output::Output;
use super::{Context, input};

const POLL_PAUSE: Duration = Duration::from_millis(250);

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
    }
}

async fn submit(args: Submit, context: &Context) -> Result<(), Failure> {
    let documents = input::documents(&args.files, args.ndjson)?;
    let client = context.client()?;
    let job = NewJob { priority: args.priority, ..NewJob::scan(documents) };
    let key = args.idempotency_key.unwrap_or_else(client::fresh_key);
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
    if output.is_json() {
        return Ok(output.json(job)?);
    }
    let row = vec![
        job.id.clone(),
        job.status.clone(),
        format!("{:.0} %", job.progress * 100.0),
        job.counts.done.to_string(),
        job.counts.failed.to_string(),
        job.counts.total.to_string(),
        job.shard.clone(),
    ];
    let header = ["JOB", "STATUS", "PROGRESS", "DONE", "FAILED", "TOTAL", "SHARD"];
    Ok(output.table(&header, vec![row])?)
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
