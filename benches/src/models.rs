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
        serve(admin, name, bundle(&graph, padded.parse()?)?).await?;
        for &documents in &plan.documents {
            let (mut ours, mut ratios, mut bare) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..plan.rounds {
                // In turn, so that what else the machine does is shared.
                let peer = bare_loop(&plan.python, LOOP, &graph, &[])?;
                let documents = like(documents, round);
                let rate = job(skep, client, name, &documents).await?.rate;
                ours.push(rate);
                bare.push(peer);
                ratios.push(rate / peer);
            }
            let figures = [median(ours), median(bare)].map(|figure| format!("{figure:.0}"));
            let ratio = format!("{:.3}", median(ratios));
            let row = [name.to_owned(), documents.to_string()].into_iter().chain(figures);
            table.row(row.chain([ratio]).collect());
        }
    }
    table.print();
    Ok(())
}

/// Documents as long as what the graphs look at.
fn like(count: usize, round: usize) -> Vec<Document> {
    let text = |i| format!("{round} {i} {}", "all that is said here is new ".repeat(5));
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

/// A job that is done.
struct Done {
    id: String,
    /// Documents per CPU-second of node and model processes, from submission to its end.
    rate: f64,
}

async fn job(skep: &Skep, client: &Client, model: &str, documents: &[Document]) -> Result<Done> {
    let body = json!({"type": "scan", "documents": documents, "model": model});
    let pids = family(&skep.pids())?;
    let before = cpu::used_ms(&pids)?;
    let call = Call::post("/v1/jobs").json(&body)?.idempotency_key(fresh_key());
    let made: serde_json::Value = client.json(call).await?.body;
    let id = made["id"].as_str().context("no id")?;
    let begin = Instant::now();
    loop {
        let job = client.job(id).await?.body;
        if job.is_over() {
            ensure!(job.counts.failed == 0 && job.status == "completed", "{job:?}");
            break;
        }
        ensure!(begin.elapsed() < DONE_WITHIN, "not done: {job:?}");
        tokio::time::sleep(POLL).await;
    }
    ensure!(family(&skep.pids())? == pids, "a process of a model ended");
    let used_ms = cpu::used_ms(&pids)? - before;
    Ok(Done { id: id.to_owned(), rate: documents.len() as f64 / used_ms * 1_000.0 })
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
