//! `/v1/audit`, `/admin/v1/audit` and `/admin/v1/trust`: what was asked and answered, and whose word
//! stands for it.

use actors::audit::key_id;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use protocol::audit::{Head, Linked, Page as Links, Wanted};
use protocol::peer::{Answer, Ask};
use protocol::wire::{List, audit as wire};
use protocol::{Digest, GroupId, TenantId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::{App, Told, refused};
use super::auth::{AUDIT_READ, Caller, Operator};
use super::error::{Code, Problem};
use super::query::{NoQuery, Order, Page, Query};

const LIST: &str = "/v1/audit";
const CLUSTER_LIST: &str = "/admin/v1/audit";
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Records that are fetched at a time for an export.
const CHUNK: u32 = 200;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(export))
        .routes(routes!(cluster_list))
        .routes(routes!(cluster_export))
        .routes(routes!(trust))
}

/// What was asked and answered
#[utoipa::path(get, path = LIST, tag = "audit",
    params(("limit" = Option<u32>, Query, description = "1..=1000"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc or desc")),
    responses((status = 200, description = "A page", body = List<wire::Record>)))]
async fn list(
    State(app): State<App>,
    caller: Caller<AUDIT_READ>,
    Query(page): Query<Page>,
) -> Result<Response, Problem> {
    listed(&app, caller.tenant, LIST, &page).await
}

/// What operators changed of the cluster, what they were refused, and whose key nobody has
#[utoipa::path(get, path = CLUSTER_LIST, tag = "audit",
    params(("limit" = Option<u32>, Query, description = "1..=1000"),
        ("cursor" = Option<String>, Query, description = "From `next_cursor`"),
        ("order" = Option<String>, Query, description = "asc or desc")),
    responses((status = 200, description = "A page", body = List<wire::Record>)))]
async fn cluster_list(
    State(app): State<App>,
    _: Operator,
    Query(page): Query<Page>,
) -> Result<Response, Problem> {
    listed(&app, TenantId::CLUSTER, CLUSTER_LIST, &page).await
}

async fn listed(
    app: &App,
    tenant: TenantId,
    route: &str,
    page: &Page,
) -> Result<Response, Problem> {
    let scope = tenant.to_string();
    let cursors = app.cursors()?;
    let after = page.after(&cursors, &scope, route)?;
    let after = after.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    let ascending = page.order == Order::Ascending;
    let beyond = after.unwrap_or(if ascending { 0 } else { u64::MAX });
    let limit = page.limit as u32 + 1;
    links(app, Wanted { tenant, beyond, limit, ascending }).await?.render(|answer, _| {
        let Answer::Audit(Links { mut records, .. }) = answer else { return None };
        let more = records.len() > page.limit;
        records.truncate(page.limit);
        let next = records
            .last()
            .filter(|_| more)
            .map(|last| page.next(&cursors, &scope, route, &last.record.seq.to_be_bytes()));
        Some(List::new(records.iter().map(wire::Record::of).collect(), next))
    })
}

/// Records of a chain, from its owner; the cluster's own is on every node.
async fn links(app: &App, wanted: Wanted) -> Result<Told, Problem> {
    if wanted.tenant != TenantId::CLUSTER {
        return app.ask(wanted.tenant, Ask::Audit(wanted)).await;
    }
    app.sync_map().await?;
    let meta = app.system.host.group(GroupId::META).ok_or_else(|| Problem::new(Code::NotReady))?;
    let answer = Answer::Audit(meta.view().audit.page(&wanted, meta.applied()));
    Ok(Told { answer, group: GroupId::META, owner: meta.leader() })
}

async fn chunk(app: &App, tenant: TenantId, beyond: u64) -> Result<Links, Problem> {
    let wanted = Wanted { tenant, beyond, limit: CHUNK, ascending: true };
    let answer = links(app, wanted).await?.answer;
    if let Answer::Refused(refusal) = answer {
        return Err(refused(refusal));
    }
    let Answer::Audit(links) = answer else { return Err(Problem::new(Code::Internal)) };
    Ok(links)
}

/// All of it, one record per line, with a checkpoint that a quorum has signed
#[utoipa::path(get, path = "/v1/audit/export", tag = "audit",
    responses((status = 200, description = "NDJSON that ends with a checkpoint",
        body = String, content_type = "application/x-ndjson")))]
async fn export(
    State(app): State<App>,
    caller: Caller<AUDIT_READ>,
    _: NoQuery,
) -> Result<Response, Problem> {
    exported(app, caller.tenant).await
}

/// All of the cluster's own audit, in the same form
#[utoipa::path(get, path = "/admin/v1/audit/export", tag = "audit",
    responses((status = 200, description = "NDJSON that ends with a checkpoint",
        body = String, content_type = "application/x-ndjson")))]
async fn cluster_export(
    State(app): State<App>,
    _: Operator,
    _: NoQuery,
) -> Result<Response, Problem> {
    exported(app, TenantId::CLUSTER).await
}

async fn exported(app: App, tenant: TenantId) -> Result<Response, Problem> {
    let first = chunk(&app, tenant, 0).await?;
    let end = checkpoint(&app, tenant, &first).await?;
    let state = (app, first.records, 0, first.seq);
    let lines = futures::stream::unfold(Some(state), move |state| async move {
        let (app, records, sent, last) = state?;
        let records = match records.is_empty() && sent < last {
            false => records,
            true => match chunk(&app, tenant, sent).await {
                Ok(links) => links.records,
                // The export breaks off without its last line, which every reader notices.
                Err(_) => return Some((Err(std::io::Error::other("the owner is gone")), None)),
            },
        };
        let records = records.into_iter().filter(|linked| linked.record.seq <= last);
        let records: Vec<Linked> = records.collect();
        let sent = records.last()?.record.seq;
        let text = records.iter().map(|linked| line(&wire::Record::of(linked))).collect::<String>();
        Some((Ok(Bytes::from(text)), Some((app, Vec::new(), sent, last))))
    });
    let end = futures::stream::once(async move { Ok(Bytes::from(line(&end))) });
    // A broken stream ends the connection before the checkpoint is sent.
    let lines = lines.map(Some).chain(futures::stream::once(async { None }));
    let whole = lines.filter_map(|item| async move { item }).chain(end);
    let mut response = Body::from_stream(whole).into_response();
    response.headers_mut().insert(CONTENT_TYPE, NDJSON);
    Ok(response)
}

fn line<T: serde::Serialize>(row: &T) -> String {
    // Text and numbers: nothing here can fail to be JSON.
    serde_json::to_string(row).map(|text| text + "\n").unwrap_or_default()
}

/// The end of a chain with the signatures of a quorum of its replicas.
async fn checkpoint(
    app: &App,
    tenant: TenantId,
    links: &Links,
) -> Result<wire::Checkpoint, Problem> {
    let map = app.map()?;
    let group = match tenant {
        TenantId::CLUSTER => GroupId::META,
        tenant => map.shard_of(tenant),
    };
    let head = Head { tenant, seq: links.seq, head: links.head, applied: links.applied };
    let signatures = app.system.signatures(group, &head).await;
    let replicas = map.groups.get(&group).map_or(1, |placement| placement.voting.len());
    let wanted = replicas / 2 + 1;
    if signatures.len() < wanted {
        let detail = format!("{} of {wanted} nodes have signed", signatures.len());
        return Err(Problem::new(Code::NoQuorum).detail(detail));
    }
    let signature = |signature: protocol::audit::Signature| wire::Signature {
        node: signature.node.to_string(),
        key_id: signature.key_id,
        sig: signature.sig.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Ok(wire::Checkpoint {
        kind: wire::CHECKPOINT.to_owned(),
        cluster_id: map.cluster.to_string(),
        tenant_id: tenant.to_string(),
        seq: links.seq,
        head: links.head.to_string(),
        signatures: signatures.into_iter().map(signature).collect(),
    })
}

/// Whose signatures count
#[utoipa::path(get, path = "/admin/v1/trust", tag = "cluster",
    responses((status = 200, description = "The public keys of the nodes", body = wire::Trust)))]
async fn trust(State(app): State<App>, _: Operator, _: NoQuery) -> Result<Response, Problem> {
    app.sync_map().await?;
    let map = app.map()?;
    let replicas = map.nodes.len().min(protocol::nodes::REPLICAS);
    let of_map = map.groups.get(&GroupId::META).map_or(1, |placement| placement.voting.len());
    let nodes = map.nodes.values().map(|node| wire::TrustedKey {
        node: node.id.to_string(),
        key_id: key_id(&node.registration.key),
        algorithm: "ed25519".to_owned(),
        public_key: Digest(node.registration.key).to_string(),
    });
    let trust = wire::Trust {
        cluster_id: map.cluster.to_string(),
        quorum: replicas / 2 + 1,
        cluster_quorum: of_map / 2 + 1,
        nodes: nodes.collect(),
    };
    Ok(axum::Json(trust).into_response())
}
