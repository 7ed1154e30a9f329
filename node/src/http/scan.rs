//! `/v1/scan` and `/v1/analyze`: documents scored while the caller waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use actors::cache::{Made, Names, Scored, Tally, Whose};
use actors::documents::Maker;
use actors::pepper::Pepper;
use actors::scans::Placed;
use actors::slots::{Scanned, SlotError};
use actors::texts::Texts;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use futures::StreamExt as _;
use protocol::usage::Command;
use protocol::wire::scan as wire;
use protocol::{NodeId, Reply};
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, Written};
use super::auth::{Caller, Idempotency, SCAN};
use super::error::{Code, Outcome, Problem};
use super::json::{FromShape, Item, Json, Object};
use super::once::Wish;
use super::query::NoQuery;

/// The nodes that scored the documents, in order of id.
const SKEP_SCORED: HeaderName = HeaderName::from_static("skep-scored-by");

/// Documents in one request.
pub const DOCUMENTS_MAX: usize = 1_000;
/// Characters (Unicode scalar values) of one document.
pub const CHARACTERS_MAX: usize = 20_000;
/// Bytes of one request.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Characters of a document's id.
const ID_CHARACTERS_MAX: usize = 200;
/// Documents given to a slot at a time.
const CHUNK_DOCUMENTS: usize = 16;
/// Chunks of one request that wait for slots, so that one request does not fill their queues.
const CHUNKS_AT_ONCE: usize = 8;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(scan)).routes(routes!(analyze))
}

/// A document of a request: id and content.
#[derive(Debug)]
pub struct Document {
    pub id: String,
    pub content: String,
}

impl Document {
    /// Reads one, with the metadata that may come along and is not used.
    pub fn read(item: Item<'_, '_>, with_metadata: bool) -> Option<Self> {
        item.object(|object| {
            let id = object.required("id", |id| id.text(1..=ID_CHARACTERS_MAX));
            let content =
                object.required("content", |text| text.excess_is_413().text(1..=CHARACTERS_MAX));
            if with_metadata {
                // The published client sends it; it is the caller's own and decides nothing.
                let _ = object.optional("metadata", |metadata| metadata.json());
            }
            Some(Self { id: id?, content: content? })
        })
    }
}

/// Notes every id that stands twice.
pub fn note_repeated(object: &Object<'_, '_>, list: &str, documents: &[Document]) {
    let mut seen = BTreeSet::new();
    for (index, document) in documents.iter().enumerate() {
        if !seen.insert(document.id.as_str()) {
            object.mistake(list, format_args!("item {index} repeats an id"));
        }
    }
}

/// Body of `POST /v1/scan`.
#[derive(Debug)]
struct Scan {
    docs: Vec<Document>,
    page: usize,
    page_size: usize,
}

impl FromShape for Scan {
    const BODY_BYTES_MAX: usize = BODY_BYTES_MAX;

    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let docs = object.required("docs", |docs| {
            docs.excess_is_413().list(1..=DOCUMENTS_MAX, |doc| Document::read(doc, true))
        });
        if let Some(docs) = &docs {
            note_repeated(object, "docs", docs);
        }
        let page = object.optional("page", |page| page.integer(1..=1_000_000usize));
        let size = object.optional("page_size", |size| size.integer(1..=1_000usize));
        Some(Self { docs: docs?, page: page.unwrap_or(1), page_size: size.unwrap_or(100) })
    }
}

/// Body of `POST /v1/analyze`.
#[derive(Debug)]
struct Analyze {
    texts: Vec<String>,
}

impl FromShape for Analyze {
    const BODY_BYTES_MAX: usize = BODY_BYTES_MAX;

    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let texts = object.required("texts", |texts| {
            texts
                .excess_is_413()
                .list(1..=DOCUMENTS_MAX, |text| text.excess_is_413().text(1..=CHARACTERS_MAX))
        });
        Some(Self { texts: texts? })
    }
}

/// Score documents for attacks
#[utoipa::path(post, path = "/v1/scan", tag = "scan",
    request_body = Object,
    responses((status = 200, description = "A verdict per document", body = wire::ScanAnswer)))]
async fn scan(
    State(app): State<App>,
    caller: Caller<SCAN>,
    _: NoQuery,
    once: Idempotency,
    body: Json<Scan>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    let Scan { docs, page, page_size } = body.value;
    let (ids, texts): (Vec<_>, Vec<_>) = docs.into_iter().map(|doc| (doc.id, doc.content)).unzip();
    let (written, Scores { verdicts, nodes }) =
        admit_and_scan(&app, &caller, &wish, body.marks.bytes, texts).await?;
    let summary = summary(&ids, &verdicts);
    let total_pages = verdicts.len().div_ceil(page_size).max(1);
    let result = |(doc_id, (verdict, provenance))| wire::ScanResult { doc_id, verdict, provenance };
    let results = ids.into_iter().zip(verdicts).map(result);
    let results = results.skip((page - 1).saturating_mul(page_size)).take(page_size).collect();
    let answer = wire::ScanAnswer { results, summary, page, page_size, total_pages };
    Ok(scored_by(&nodes, written.respond(StatusCode::OK, &answer)))
}

/// Score texts for attacks
#[utoipa::path(post, path = "/v1/analyze", tag = "scan",
    request_body = Object,
    responses((status = 200, description = "A verdict per text", body = wire::AnalyzeAnswer)))]
async fn analyze(
    State(app): State<App>,
    caller: Caller<SCAN>,
    _: NoQuery,
    once: Idempotency,
    body: Json<Analyze>,
) -> Result<Response, Problem> {
    let wish = caller.wish(&once, body.marks);
    let (written, Scores { verdicts, nodes }) =
        admit_and_scan(&app, &caller, &wish, body.marks.bytes, body.value.texts).await?;
    let result =
        |(text_id, (verdict, provenance))| wire::AnalyzeResult { text_id, verdict, provenance };
    let results = verdicts.into_iter().enumerate().map(result).collect();
    Ok(scored_by(&nodes, written.respond(StatusCode::OK, &wire::AnalyzeAnswer { results })))
}

type Shown = (Arc<wire::Verdict>, wire::Provenance);

/// One verdict per document, and the nodes that gave them.
struct Scores {
    verdicts: Vec<Shown>,
    nodes: BTreeSet<NodeId>,
}

/// Says which nodes scored the documents: where they were done soonest. Those that a cache had were
/// scored by nobody.
fn scored_by(nodes: &BTreeSet<NodeId>, mut response: Response) -> Response {
    if nodes.is_empty() {
        return response;
    }
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
        response.headers_mut().insert(SKEP_SCORED, names);
    }
    response
}

/// Commits the entry of the request while inference already runs; the answer waits for both.
async fn admit_and_scan(
    app: &App,
    caller: &Caller<SCAN>,
    wish: &Wish,
    bytes: u64,
    texts: Vec<String>,
) -> Result<(Written, Scores), Problem> {
    caller.check_size(texts.len(), bytes)?;
    if wish.key.is_none() {
        caller.check_dry(app)?;
    }
    let (payer, _held) = caller.payer(app);
    let slots = &app.system.slots;
    let texts = Texts::from(texts);
    let names =
        Names::new(&Pepper::new(&app.map()?.secrets.pepper), whose(caller), slots.identity());
    let tell = |Tally { cached, words }| {
        let documents = texts.len() as u32;
        let command = Command::Scan { documents, cached, tokens: words, payer };
        let command = protocol::Command::Usage(caller.tenant, command);
        app.propose(caller.tenant, command, wish, None, StatusCode::OK)
    };
    let nodes = Mutex::default();
    let compute = |texts: Texts| compute(app, texts, &nodes);
    let scored = app.system.cache.score(&names, &texts, slots.pace(), compute, tell);
    let (scored, admitted) = scored.await;
    let written = admitted?.written()?;
    let scores = scored.and_then(|scored| {
        let nodes = nodes.into_inner().unwrap_or_else(|_| std::process::abort());
        Ok(Scores { verdicts: shown(slots.maker(), scored, &written)?, nodes })
    });
    // It is committed and counted: whoever asks again with its Idempotency-Key pays no more.
    let scores = scores.map_err(|problem| problem.outcome(Outcome::Unknown))?;
    Ok((written, scores))
}

/// The results that a caller may be given. An operator has no plan that could share.
fn whose(caller: &Caller<SCAN>) -> Whose {
    let shares = caller.key.as_ref().is_some_and(|pass| pass.tenant.plan.shares_cache());
    Whose::of(caller.tenant, shares)
}

/// Scores texts that no cache has, and notes the nodes that did it.
async fn compute(
    app: &App,
    texts: Texts,
    nodes: &Mutex<BTreeSet<NodeId>>,
) -> Result<Vec<Scanned>, Problem> {
    let scans = &app.system.scans;
    let waiting = futures::stream::iter(texts.parts(CHUNK_DOCUMENTS).map(|part| scans.scan(part)));
    let placed: Vec<_> = waiting.buffered(CHUNKS_AT_ONCE).collect().await;
    let mut all = Vec::with_capacity(texts.len());
    for placed in placed {
        let Placed { scanned, node } = placed.map_err(|error| match error {
            SlotError::Overloaded => Problem::new(Code::Overloaded),
            SlotError::Ended | SlotError::NoModel(_) => Problem::new(Code::NotReady),
        })?;
        nodes.lock().unwrap_or_else(|_| std::process::abort()).insert(node);
        all.extend(scanned);
    }
    Ok(all)
}

/// The results as they are told: whoever asks again is told the same of the cache as the first time.
fn shown(maker: &Maker, scored: Vec<Scored>, written: &Written) -> Result<Vec<Shown>, Problem> {
    let Reply::Scanned(cached) = &written.reply else { return Err(Problem::new(Code::Internal)) };
    let one = |(number, scored): (usize, Scored)| {
        // A text that the model cannot score is a defect; it must not pass as harmless.
        let made = scored.result.map(|entry| entry.made);
        let Ok(Made::Verdict(verdict)) = made else { return Err(Problem::new(Code::Internal)) };
        Ok((verdict, maker.provenance(scored.sha256, cached.has(number))))
    };
    scored.into_iter().enumerate().map(one).collect()
}

fn summary(ids: &[String], verdicts: &[Shown]) -> wire::Summary {
    let risks = || verdicts.iter().map(|(verdict, _)| verdict.risk);
    let quarantined = verdicts.iter().filter(|(verdict, _)| verdict.quarantine).count();
    let mut hasher = Sha256::new();
    for (id, (_, provenance)) in ids.iter().zip(verdicts) {
        hasher.update((id.len() as u64).to_be_bytes());
        hasher.update(id);
        hasher.update(&provenance.sha256);
    }
    let digest = protocol::Digest(hasher.finalize().into()).to_string();
    wire::Summary {
        total_docs: verdicts.len(),
        quarantined_count: quarantined,
        allowed_count: verdicts.len() - quarantined,
        avg_risk: risks().map(f64::from).sum::<f64>() / verdicts.len().max(1) as f64,
        max_risk: risks().max().unwrap_or(0),
        batch_id: format!("batch_{}", &digest[..32]),
    }
}
