//! Jobs by models of the registry beside a bare loop of onnxruntime in Python on the same graph: documents
//! per CPU-second of the whole way from submission to the last result, node and model processes together.
//! Documents of mixed length can be measured instead.
//! The graphs are those of any folder with `NAME.onnx` that take `ids` of 128 tokens and give `probs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use client::models::Alias;
use client::scan::Document;
use client::{Call, Client, Credential, fresh_key};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::cpu;
use crate::sample::median;
use crate::skep::{Limits, Skep};
use crate::table::{Table, line, preamble};

mod mixed;

/// The bare loop: prints documents per CPU-second of its best batch.
const LOOP: &str = include_str!("models/loop.py");
/// Its labels.
const LABELS: usize = 8;
/// Bytes of a document.
const BYTES: usize = 512;
/// Documents that are measured at a time, at least: CPU time is told in hundredths of a second.
const DOCUMENTS_LEAST: usize = 10_000;
/// Jobs that are submitted at a time.
const SIDE_BY_SIDE: usize = 4;
const POLL: Duration = Duration::from_millis(100);
const DONE_WITHIN: Duration = Duration::from_secs(300);
const HEAD: [&str; 5] = ["model", "documents", "documents/CPU-s", "bare loop", "ratio"];

/// How much to do.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// A bundle of a transformer: 600 documents of mixed length instead, beside first-come batches of 32
    #[arg(long)]
    mixed: Option<PathBuf>,
    /// A Python with onnxruntime and numpy
    #[arg(long, default_value = "python3")]
    python: String,
    /// The folder of the graphs
    #[arg(long, required_unless_present = "mixed")]
    folder: Option<PathBuf>,
    /// Names of graphs, each with the padded tokens of its runs
    #[arg(long, value_delimiter = ',', default_value = "tiny:2048,mlp:32768")]
    models: Vec<String>,
    /// Documents of a job
    #[arg(long, value_delimiter = ',', default_values_t = [256, 10_000])]
    documents: Vec<usize>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Further settings of the node, `key=value`, such as `inference.engine=ort`
    #[arg(long = "set")]
    settings: Vec<String>,
}

pub(crate) async fn run(plan: &Plan) -> Result<()> {
    let mut settings = plan.settings.clone();
    settings.push("inference.slots=1".to_owned());
    let skep = Skep::start_with(1, &settings).await?;
    let tenant = skep.tenant("bench", Limits::None).await?;
    let client = Client::new(skep.urls(), Credential::key(&tenant.key))?;
    let admin = Client::new(skep.urls(), Credential::key(&skep.admin_key()?))?;
    if let Some(bundle) = &plan.mixed {
        preamble("models: documents of mixed length beside first-come batches, one node, one slot");
        mixed::run(plan, bundle, &skep, &admin).await?;
    } else {
        preamble("models: jobs beside a bare loop of onnxruntime in Python, one node, one slot");
        uniform(plan, &skep, &client, &admin).await?;
    }
    skep.stop().await
}

async fn uniform(plan: &Plan, skep: &Skep, client: &Client, admin: &Client) -> Result<()> {
    let folder = plan.folder.as_ref().context("no folder of graphs")?;
    let mut table = Table::new(&HEAD);
    for named in &plan.models {
        let (name, padded) = named.split_once(':').unwrap_or((named, "512"));
        let graph = folder.join(format!("{name}.onnx"));
        // One graph may be there with several budgets.
        let name = &format!("{name}-{padded}");
        serve(admin, name, bundle(&graph, padded.parse()?)?).await?;
        for &documents in &plan.documents {
            let (mut ours, mut ratios) = (Vec::new(), Vec::new());
            // In turn, so that what else the machine does is shared.
            let mut bare = vec![bare_loop(&plan.python, LOOP, &graph, &[])?];
            for round in 0..plan.rounds {
                let rate = jobs(skep, client, name, (documents, round)).await?;
                bare.push(bare_loop(&plan.python, LOOP, &graph, &[])?);
                ours.push(rate);
                ratios.push(rate * 2.0 / bare[round..].iter().sum::<f64>());
            }
            let figures = [median(ours), median(bare)].map(|figure| format!("{figure:.0}"));
            let ratio = format!("{:.3}", median(ratios));
            let row = [name.clone(), documents.to_string()].into_iter().chain(figures);
            table.row(row.chain([ratio]).collect());
        }
    }
    table.print();
    Ok(())
}

/// Documents that nobody has scored, each of [`BYTES`].
fn fresh(count: usize, round: usize, job: usize) -> Vec<Document> {
    let text = |i| {
        let mut text = format!("{round} {job} {i} ");
        text.extend("all that is said here is new ".chars().cycle().take(BYTES - text.len()));
        text
    };
    (0..count).map(|i| Document::new(format!("d{i}"), text(i))).collect()
}

fn bundle(graph: &Path, padded_tokens: usize) -> Result<Bytes> {
    let manifest = json!({
        "task": "classifier", "precision": "fp32",
        "labels": (0..LABELS).map(|label| format!("l{label}")).collect::<Vec<_>>(),
        "tokenizer": {"kind": "trigrams", "vocabulary": 8192}, "tokens_max": 128, "fixed_width": true,
        "inputs": {"ids": "ids"}, "output": "probs", "padded_tokens": padded_tokens,
    });
    let graph = std::fs::read(graph).with_context(|| graph.display().to_string())?;
    let mut tar = tar::Builder::new(Vec::new());
    for (file, content) in
        [("manifest.json", manifest.to_string().into_bytes()), ("model.onnx", graph)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, file, &content[..])?;
    }
    Ok(Bytes::from(tar.into_inner()?))
}

async fn serve(admin: &Client, name: &str, tar: Bytes) -> Result<()> {
    let digest: String = Sha256::digest(&tar).iter().map(|byte| format!("{byte:02x}")).collect();
    admin.create_model(name, &fresh_key()).await?;
    let version = admin.upload_model(name, tar, &digest, &fresh_key()).await?.body.version;
    let alias = Alias { version, canary: None };
    admin.set_model_alias(name, alias, &fresh_key()).await.map(drop)?;
    Ok(())
}

/// Documents per CPU-second of jobs of that size that are submitted side by side, as many as give the clock
/// of CPU time something to tell, from the first submission to the last end.
async fn jobs(
    skep: &Skep,
    client: &Client,
    model: &str,
    (size, round): (usize, usize),
) -> Result<f64> {
    let count = DOCUMENTS_LEAST.div_ceil(size);
    let batches: Vec<_> = (0..count).map(|job| fresh(size, round, job)).collect();
    let pids = family(&skep.pids())?;
    let before = cpu::used_ms(&pids)?;
    let submitted =
        futures::stream::iter(&batches).map(|documents| submit(client, model, documents));
    let submitted: Vec<String> = submitted.buffer_unordered(SIDE_BY_SIDE).try_collect().await?;
    for job in &submitted {
        done(client, job).await?;
    }
    ensure!(family(&skep.pids())? == pids, "a process of a model ended");
    let used_ms = cpu::used_ms(&pids)? - before;
    Ok((count * size) as f64 / used_ms * 1_000.0)
}

async fn submit(client: &Client, model: &str, documents: &[Document]) -> Result<String> {
    let body = json!({"type": "scan", "documents": documents, "model": model});
    let call = Call::post("/v1/jobs").json(&body)?.idempotency_key(fresh_key());
    let made: serde_json::Value = client.json(call).await?.body;
    Ok(made["id"].as_str().context("no id")?.to_owned())
}

async fn done(client: &Client, job: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let job = client.job(job).await?.body;
        if job.is_over() {
            ensure!(job.counts.failed == 0 && job.status == "completed", "{job:?}");
            return Ok(());
        }
        ensure!(begin.elapsed() < DONE_WITHIN, "not done: {job:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// A job that is done.
struct Done {
    id: String,
    /// Documents per CPU-second of node and model processes, from submission to its end.
    rate: f64,
}

async fn job(skep: &Skep, client: &Client, model: &str, documents: &[Document]) -> Result<Done> {
    let pids = family(&skep.pids())?;
    let before = cpu::used_ms(&pids)?;
    let id = submit(client, model, documents).await?;
    done(client, &id).await?;
    ensure!(family(&skep.pids())? == pids, "a process of a model ended");
    let used_ms = cpu::used_ms(&pids)? - before;
    Ok(Done { id, rate: documents.len() as f64 / used_ms * 1_000.0 })
}

/// The processes and those that they started.
fn family(parents: &[u32]) -> Result<Vec<u32>> {
    let mut found = parents.to_vec();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // One that has ended meanwhile is none of ours.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.and_then(|parent| parent.parse().ok()).is_some_and(|pid| parents.contains(&pid)) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What a program in Python prints last.
fn bare_loop(python: &str, program: &str, graph: &Path, arguments: &[String]) -> Result<f64> {
    let output = Command::new(python).args(["-c", program]).arg(graph).args(arguments).output();
    let output = output.with_context(|| format!("{python} does not run"))?;
    if !output.status.success() {
        bail!("the bare loop: {}", String::from_utf8_lossy(&output.stderr));
    }
    let told = String::from_utf8_lossy(&output.stdout);
    line(told.trim());
    let best = told.split_whitespace().last().context("the bare loop said nothing")?;
    Ok(best.parse()?)
}
