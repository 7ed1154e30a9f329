//! Models of operators on three nodes: brought, served, switched and taken back under load, shared out, and
//! held where they do harm. Then a node is killed and comes back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use client::Call;
use client::models::{Alias, Canary};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::raw::Request;
use tests::{Cluster, Options};

use crate::stage::{Account, account, call, on_three_nodes, operator, same, skipped, text};

const WITHIN: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// What ends a model in the bundle `bad.tar`, and what is told of it.
const BAD: [(&str, &str); 3] = [
    ("please @@H now", "document hung the model: no answer in 2 s"),
    ("please @@A now", "document ended the model by signal"),
    ("please @@P now", "the model panicked"),
];

#[tokio::test(flavor = "multi_thread")]
async fn models_are_brought_served_switched_and_held() {
    let options = Options::default()
        .set("inference.engine=rten")
        .set("inference.slots=1")
        .set("inference.batch_limit_s=2")
        .set("inference.batch_mib=256");
    on_three_nodes(options, async |cluster| {
        let home = account(cluster, "models", json!({})).await?;
        // For whom nothing is cached.
        let other = account(cluster, "others", json!({})).await?;
        brought(cluster, &home).await.context("upload")?;
        refused(cluster).await.context("refusals")?;
        served(cluster, &home, &other).await.context("alias")?;
        switched(cluster, &home, &other).await.context("switch")?;
        shared_out(cluster, &home).await.context("canary")?;
        allowed(cluster).await.context("plans")?;
        held(cluster, &home).await.context("bad documents")?;
        survived(cluster, &other).await.context("the kill")
    })
    .await;
}

/// Variable: the bundle that `deploy/models/export_minilm.py` makes.
const MINILM: &str = "SKEP_MINILM";

/// A sentence encoder with its tokenizer and 90 MB of weights: what its makers publish of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentence_encoder_finds_what_is_alike() -> Result<()> {
    let Some(path) = std::env::var_os(MINILM) else {
        skipped("a sentence encoder", &format!("{MINILM} names no bundle"));
        return Ok(());
    };
    let cluster = Cluster::start(1, Options::default().set("inference.slots=1")).await?;
    let home = account(&cluster, "vectors", json!({})).await?;
    let (tar, digest) = read(path.into())?;
    let admin = cluster.admin(0)?;
    admin.create_model("minilm", &client::fresh_key()).await?;
    let version = admin.upload_model("minilm", tar, &digest, &client::fresh_key()).await?.body;
    let alias = Alias { version: version.version, canary: None };
    admin.set_model_alias("minilm", alias, &client::fresh_key()).await?;
    let texts =
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."];
    let documents: Vec<_> =
        texts.iter().enumerate().map(|(i, text)| (format!("d{i}"), (*text).to_owned())).collect();
    let records = run_at(&cluster, 0, &home, "minilm", &documents).await?;
    let vector = |i: usize| -> Result<Vec<f64>> {
        let numbers = records[&format!("d{i}")]["embedding"].as_array().context("no embedding")?;
        Ok(numbers.iter().filter_map(Value::as_f64).collect())
    };
    let all = [vector(0)?, vector(1)?, vector(2)?];
    same("dimensions", all.each_ref().map(Vec::len), [384; 3])?;
    for (a, b, published) in [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)] {
        let cosine: f64 = all[a].iter().zip(&all[b]).map(|(x, y)| x * y).sum();
        ensure!((cosine - published).abs() < 0.0002, "{a} and {b}: {cosine}, not {published}");
    }
    Ok(())
}

fn bundle(name: &str) -> Result<(Bytes, String)> {
    read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/models").join(name))
}

fn read(path: PathBuf) -> Result<(Bytes, String)> {
    let tar = Bytes::from(std::fs::read(&path).with_context(|| path.display().to_string())?);
    let digest: String = Sha256::digest(&tar).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((tar, digest))
}

async fn upload(cluster: &Cluster, node: usize, model: &str, file: &str) -> Result<u32> {
    let (tar, digest) = bundle(file)?;
    let once = client::fresh_key();
    let version = cluster.admin(node)?.upload_model(model, tar, &digest, &once).await?.body;
    same("sha256", version.sha256, digest)?;
    Ok(version.version)
}

async fn serve(cluster: &Cluster, model: &str, version: u32, canary: Option<Canary>) -> Result<()> {
    let alias = Alias { version, canary };
    let once = client::fresh_key();
    let served = cluster.admin(1)?.set_model_alias(model, alias, &once).await?.body;
    same("alias", served.alias, Some(alias))
}

fn documents(count: usize) -> Vec<(String, String)> {
    // Lengths of all kinds, each text once.
    let content = |i: usize| format!("note {i} says {}", "so much ".repeat(i * 7 % 29));
    (0..count).map(|i| (format!("d{i}"), content(i))).collect()
}

async fn submit(
    cluster: &Cluster,
    node: usize,
    home: &Account,
    model: Option<&str>,
    documents: &[(String, String)],
) -> Result<String> {
    let listed: Vec<Value> =
        documents.iter().map(|(id, content)| json!({"id": id, "content": content})).collect();
    let mut body = json!({"type": "scan", "documents": listed});
    if let Some(model) = model {
        body["model"] = model.into();
    }
    let job = call(cluster, node, &home.key, "POST", "/v1/jobs", Some(&body)).await?.ok(202)?;
    text(&job, "status_url")
}

async fn wait(cluster: &Cluster, home: &Account, job: &str) -> Result<Value> {
    let began = Instant::now();
    let client = cluster.clients_of(&home.key)?;
    let id = job.rsplit('/').next().unwrap_or_default();
    loop {
        let seen = client.job(id).await?.body;
        if ["completed", "failed", "cancelled"].contains(&seen.status.as_str()) {
            return Ok(serde_json::to_value(seen)?);
        }
        ensure!(began.elapsed() < WITHIN, "{job} has not ended: {seen:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The records of a job by document, each once.
async fn results(cluster: &Cluster, home: &Account, job: &str) -> Result<BTreeMap<String, Value>> {
    let call = Call::get(&format!("{job}/results")).accept("application/x-ndjson");
    let answer = cluster.clients_of(&home.key)?.fetch(call).await?.body;
    let mut records = BTreeMap::new();
    for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: Value = serde_json::from_slice(line)?;
        let id = text(&record, "doc_id")?;
        ensure!(records.insert(id.clone(), record).is_none(), "two records of {id}");
    }
    Ok(records)
}

async fn run(
    cluster: &Cluster,
    home: &Account,
    model: &str,
    documents: &[(String, String)],
) -> Result<BTreeMap<String, Value>> {
    run_at(cluster, 2, home, model, documents).await
}

async fn run_at(
    cluster: &Cluster,
    node: usize,
    home: &Account,
    model: &str,
    documents: &[(String, String)],
) -> Result<BTreeMap<String, Value>> {
    let job = submit(cluster, node, home, Some(model), documents).await?;
    wait(cluster, home, &job).await?;
    let records = results(cluster, home, &job).await?;
    same("records", records.len(), documents.len())?;
    Ok(records)
}

async fn brought(cluster: &Cluster, home: &Account) -> Result<()> {
    let admin = cluster.admin(0)?;
    let once = client::fresh_key();
    let made = admin.create_model("mood", &once).await?.body;
    let again = cluster.admin(1)?.create_model("mood", &once).await?.body;
    same("repeated", (made.revision, made.versions.len()), (again.revision, 0))?;
    same("first", upload(cluster, 0, "mood", "small.tar").await?, 1)?;
    same("second", upload(cluster, 2, "mood", "small-2.tar").await?, 2)?;
    // Nothing serves yet.
    let body = json!({"type": "scan", "documents": [{"id": "a", "content": "b"}], "model": "mood"});
    call(cluster, 1, &home.key, "POST", "/v1/jobs", Some(&body))
        .await?
        .problem(422, "validation")?;
    let shown = cluster.admin(1)?.model("mood").await?.body;
    same("task", shown.versions[0].task.as_str(), "classifier")?;
    same("labels", shown.versions[0].labels.len(), 3)?;
    same("alias", shown.alias, None)
}

async fn refused(cluster: &Cluster) -> Result<()> {
    let (tar, digest) = bundle("small.tar")?;
    let admin = cluster.admin_key()?;
    let send = async |model: &str, media: &str, digest: &str, body: Bytes| {
        let target = format!("/v1/models/{model}/versions?sha256={digest}");
        let request = Request::new("POST", &target).bearer(admin);
        request.header("Content-Type", media).body(body).send(&cluster.url(0)).await
    };
    const TAR: &str = "application/x-tar";
    send("nothing", TAR, &digest, tar.clone()).await?.problem(404, "not_found")?;
    send("mood", TAR, &digest, tar.clone()).await?.problem(409, "conflict")?;
    send("mood", "application/json", &digest, tar.clone())
        .await?
        .problem(415, "unsupported_media_type")?;
    let other = "0".repeat(64);
    send("mood", TAR, &other, tar.slice(..1024)).await?.problem(422, "validation")?;
    send("mood", TAR, "short", tar.slice(..10)).await?.problem(400, "malformed")?;
    let junk = Bytes::from_static(b"this is no tar, whatever its hash");
    let digest: String = Sha256::digest(&junk).iter().map(|byte| format!("{byte:02x}")).collect();
    send("mood", TAR, &digest, junk).await?.problem(422, "validation")?;
    let missing = json!({"version": 9});
    let alias = "/v1/models/mood/alias";
    operator(cluster, 0, "PUT", alias, Some(&missing)).await?.problem(422, "validation")?;
    let named = json!({"name": "docrisk"});
    operator(cluster, 0, "POST", "/v1/models", Some(&named)).await?.problem(409, "conflict")?;
    let rollback = "/v1/models/mood/rollback";
    operator(cluster, 0, "POST", rollback, None).await?.problem(409, "conflict")?;
    Ok(())
}

async fn served(cluster: &Cluster, home: &Account, other: &Account) -> Result<()> {
    serve(cluster, "mood", 1, None).await?;
    let documents = documents(300);
    let records = run(cluster, home, "mood", &documents).await?;
    for record in records.values() {
        same("status", record["status"].as_str(), Some("done"))?;
        ensure!(text(record, "model")?.starts_with("mood@1 sha256:"), "{record}");
        ensure!(text(record, "engine")?.ends_with(" fp32"), "{record}");
        same("labels", record["labels"].as_array().map(Vec::len), Some(3))?;
        ensure!(record.get("risk").is_none(), "{record}");
    }
    // One by one is the same to the bit as all at once, whatever node did it.
    for (id, content) in documents.iter().step_by(60) {
        let alone = [(id.clone(), content.clone())];
        let alone = run(cluster, other, "mood", &alone).await?;
        same("cached", alone[id]["cached"].as_bool(), Some(false))?;
        same(id, &alone[id]["labels"], &records[id]["labels"])?;
    }
    let unknown =
        json!({"type": "scan", "documents": [{"id": "a", "content": "b"}], "model": "no"});
    let refused = call(cluster, 1, &home.key, "POST", "/v1/jobs", Some(&unknown)).await?;
    refused.problem(422, "validation")?;
    let serving = "/v1/models/mood/versions/1";
    operator(cluster, 1, "DELETE", serving, None).await?.problem(409, "conflict")?;
    Ok(())
}

/// Switched and taken back while a job runs: nothing fails, and every result is that of the version that it
/// names.
async fn switched(cluster: &Cluster, home: &Account, other: &Account) -> Result<()> {
    let documents = documents(10_000);
    let first = run(cluster, home, "mood", &documents).await?;
    serve(cluster, "mood", 2, None).await?;
    let second = run(cluster, home, "mood", &documents).await?;
    ensure!(first["d7"]["labels"] != second["d7"]["labels"], "the versions are alike");
    let job = submit(cluster, 0, other, Some("mood"), &documents).await?;
    begun(cluster, other, &job).await?;
    let once = client::fresh_key();
    let back = cluster.admin(0)?.roll_back_model("mood", &once).await?.body;
    same("back", back.alias.map(|alias| alias.version), Some(1))?;
    // The answer again, and not another step.
    let again = cluster.admin(1)?.roll_back_model("mood", &once).await?.body;
    same("repeated", again.revision, back.revision)?;
    serve(cluster, "mood", 2, None).await?;
    cluster.admin(2)?.roll_back_model("mood", &client::fresh_key()).await?;
    let ended = wait(cluster, other, &job).await?;
    same("failed", ended["counts"]["failed"].as_u64(), Some(0))?;
    let mixed = results(cluster, other, &job).await?;
    same("records", mixed.len(), documents.len())?;
    let mut versions = BTreeMap::new();
    for (id, record) in &mixed {
        let model = text(record, "model")?;
        let wanted = if model.starts_with("mood@1 ") { &first[id] } else { &second[id] };
        same("model", &record["model"], &wanted["model"])?;
        same(id, &record["labels"], &wanted["labels"])?;
        *versions.entry(model).or_insert(0) += 1;
    }
    same("versions that made results", versions.len(), 2)
        .with_context(|| format!("{versions:?}"))?;
    cached(cluster, home, &documents, &first).await
}

/// What a version has made is known, and is told of no other: all of these have been scored by both.
async fn cached(
    cluster: &Cluster,
    home: &Account,
    documents: &[(String, String)],
    known: &BTreeMap<String, Value>,
) -> Result<()> {
    let again = run(cluster, home, "mood", documents).await?;
    let mut hits = 0;
    for (id, record) in &again {
        same(
            id,
            (&record["model"], &record["labels"]),
            (&known[id]["model"], &known[id]["labels"]),
        )?;
        hits += usize::from(record["cached"] == json!(true));
    }
    // A node that does not say in time what it knows is not waited for.
    ensure!(hits > documents.len() * 9 / 10, "{hits} of {} were cached", documents.len());
    Ok(())
}

/// Waits until a job has a result, of which most are yet to come.
async fn begun(cluster: &Cluster, home: &Account, job: &str) -> Result<()> {
    let (client, began) = (cluster.clients_of(&home.key)?, Instant::now());
    let id = job.rsplit('/').next().unwrap_or_default();
    loop {
        let counts = client.job(id).await?.body.counts;
        if counts.done > 0 {
            ensure!(
                counts.done < counts.total / 2,
                "too fast to be switched meanwhile: {counts:?}"
            );
            return Ok(());
        }
        ensure!(began.elapsed() < WITHIN, "{job} has not begun");
        tokio::time::sleep(POLL / 5).await;
    }
}

async fn shared_out(cluster: &Cluster, home: &Account) -> Result<()> {
    serve(cluster, "mood", 1, Some(Canary { version: 2, per_mille: 250 })).await?;
    let documents = documents(1_000);
    let once = run(cluster, home, "mood", &documents).await?;
    let twice = run(cluster, home, "mood", &documents).await?;
    let mut canary = 0;
    for (id, record) in &once {
        same("version of a document", &record["model"], &twice[id]["model"])?;
        canary += usize::from(text(record, "model")?.starts_with("mood@2 "));
    }
    ensure!((180..320).contains(&canary), "{canary} of 1000 documents");
    serve(cluster, "mood", 1, None).await?;
    operator(cluster, 0, "DELETE", "/v1/models/mood/versions/2", None).await?.ok(200)?;
    operator(cluster, 1, "DELETE", "/v1/models/mood/versions/2", None)
        .await?
        .problem(404, "not_found")?;
    Ok(())
}

async fn allowed(cluster: &Cluster) -> Result<()> {
    let plan = json!({"models": ["nothing"]});
    operator(cluster, 0, "PUT", "/v1/plans/narrow", Some(&plan)).await?.ok(200)?;
    let narrow = account(cluster, "narrow", json!({"plan": "narrow"})).await?;
    let body = json!({"type": "scan", "documents": [{"id": "a", "content": "b"}], "model": "mood"});
    let refused = call(cluster, 1, &narrow.key, "POST", "/v1/jobs", Some(&body)).await?;
    refused.problem(402, "plan_limit")?;
    // The operator gives it to this tenant alone, and as what it gets without naming one.
    let tenant = format!("/v1/tenants/{}", narrow.id);
    let model = json!({"model": "mood"});
    let changed = operator(cluster, 0, "PATCH", &tenant, Some(&model)).await?.ok(200)?;
    same("model", changed["model"].as_str(), Some("mood"))?;
    let documents = documents(3);
    let job = submit(cluster, 2, &narrow, None, &documents).await?;
    wait(cluster, &narrow, &job).await?;
    for record in results(cluster, &narrow, &job).await?.values() {
        ensure!(text(record, "model")?.starts_with("mood@1 "), "{record}");
    }
    let none = json!({"model": "none"});
    let unknown = operator(cluster, 0, "PATCH", &tenant, Some(&none)).await?;
    unknown.problem(422, "validation")?;
    Ok(())
}

/// 99 good documents and three that hang, panic and eat memory: these alone fail.
async fn held(cluster: &Cluster, home: &Account) -> Result<()> {
    cluster.admin(0)?.create_model("bad", &client::fresh_key()).await?;
    upload(cluster, 1, "bad", "bad.tar").await?;
    serve(cluster, "bad", 1, None).await?;
    let mut documents = documents(99);
    for (i, (content, _)) in BAD.into_iter().enumerate() {
        documents.insert(i * 40, (format!("bad{i}"), content.to_owned()));
    }
    let job = submit(cluster, 0, home, Some("bad"), &documents).await?;
    let ended = wait(cluster, home, &job).await?;
    let counts = &ended["counts"];
    same("done", (counts["done"].as_u64(), counts["failed"].as_u64()), (Some(99), Some(3)))?;
    let records = results(cluster, home, &job).await?;
    for (i, (_, reason)) in BAD.into_iter().enumerate() {
        let record = &records[&format!("bad{i}")];
        same("status", record["status"].as_str(), Some("failed"))?;
        ensure!(text(record, "error")?.starts_with(reason), "{record}");
    }
    for i in 0..3 {
        call(cluster, i, &home.key, "GET", "/readyz", None).await?.ok(200)?;
    }
    counted(cluster).await
}

/// What the nodes have counted of that version, together.
async fn counted(cluster: &Cluster) -> Result<()> {
    let (mut failed, mut lost) = (0, 0);
    for i in 0..3 {
        let metrics = cluster.client(i)?.metrics().await?.body;
        let of = |name: &str| -> Result<u64> {
            let line = metrics.lines().find(|line| line.starts_with(name));
            let figure = line.and_then(|line| line.rsplit_once(' ')).map(|(_, figure)| figure);
            figure.map_or(Ok(0), |figure| figure.parse().with_context(|| figure.to_owned()))
        };
        ensure!(of("skep_models_loaded ")? > 0 && of("skep_model_memory_bytes ")? > 0, "{metrics}");
        failed += of(r#"skep_model_documents_total{model="bad",outcome="failed",version="1"}"#)?;
        lost += of(r#"skep_model_processes_lost_total{model="bad",version="1"}"#)?;
    }
    // A task that was given to another node as well counts on both.
    ensure!(failed >= BAD.len() as u64, "{failed} documents failed");
    ensure!(lost > 0, "no process was lost to the one that hangs");
    Ok(())
}

/// A node that was killed has what serves when it is back, and a model answers meanwhile.
async fn survived(cluster: &mut Cluster, home: &Account) -> Result<()> {
    let documents = documents(2_000);
    let job = submit(cluster, 1, home, Some("mood"), &documents).await?;
    let owner = cluster.clients_of(&home.key)?.usage().await?.meta.owner.context("no owner")?;
    let owner = cluster.index_of(&owner).context("an unknown owner")?;
    cluster.kill(owner).await?;
    let ended = wait(cluster, home, &job).await?;
    same("done", ended["counts"]["done"].as_u64(), Some(2_000))?;
    // A version that comes while it is away.
    let other = (owner + 1) % 3;
    let number = upload(cluster, other, "mood", "small-2.tar").await?;
    let alias = Alias { version: number, canary: None };
    cluster.admin(other)?.set_model_alias("mood", alias, &client::fresh_key()).await?;
    cluster.restart(owner).await?;
    let job = submit(cluster, owner, home, Some("mood"), &documents).await?;
    let ended = wait(cluster, home, &job).await?;
    same("done", ended["counts"]["done"].as_u64(), Some(2_000))?;
    cluster.digests().await.map(drop)
}
