//! The document that describes the API says what the nodes do, and the pages need nobody else.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::raw::Request;
use tests::{Cluster, Options};

use crate::stage::{on_three_nodes, same};

/// What the contract promises of this build; a route that goes missing is a broken promise.
const PROMISED: [&str; 72] = [
    "DELETE /v1/keys/{id}",
    "DELETE /v1/models/{name}/versions/{version}",
    "DELETE /v1/tenants/{id}",
    "GET /admin/v1/audit",
    "GET /admin/v1/audit/export",
    "GET /admin/v1/backups",
    "GET /admin/v1/backups/{id}",
    "GET /admin/v1/cluster",
    "GET /admin/v1/plan",
    "GET /admin/v1/shards/{id}/digest",
    "GET /admin/v1/trust",
    "GET /autoscale",
    "GET /docs/",
    "GET /health",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /problems/{code}",
    "GET /readyz",
    "GET /v1/audit",
    "GET /v1/audit/export",
    "GET /v1/jobs",
    "GET /v1/jobs/{id}",
    "GET /v1/jobs/{id}/events",
    "GET /v1/jobs/{id}/results",
    "GET /v1/keys",
    "GET /v1/keys/me",
    "GET /v1/keys/usage",
    "GET /v1/keys/{id}",
    "GET /v1/limits",
    "GET /v1/me",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /v1/plans",
    "GET /v1/plans/{name}",
    "GET /v1/queue",
    "GET /v1/tenants",
    "GET /v1/tenants/{id}",
    "GET /v1/usage",
    "GET /version",
    "PATCH /v1/tenants/{id}",
    "POST /admin/v1/backups",
    "POST /admin/v1/init",
    "POST /admin/v1/join-tokens",
    "POST /admin/v1/nodes/{id}/drain",
    "POST /admin/v1/nodes/{id}/remove",
    "POST /admin/v1/nodes/{id}/restart",
    "POST /admin/v1/nodes/{id}/undrain",
    "POST /admin/v1/rebalance",
    "POST /admin/v1/shards/{id}/digest",
    "POST /admin/v1/shards/{id}/transfer",
    "POST /v1/analyze",
    "POST /v1/jobs",
    "POST /v1/jobs/{id}/cancel",
    "POST /v1/jobs/{id}/pause",
    "POST /v1/jobs/{id}/resume",
    "POST /v1/jobs/{id}/retry",
    "POST /v1/keys",
    "POST /v1/keys/create",
    "POST /v1/keys/{id}/rotate",
    "POST /v1/limits/check",
    "POST /v1/limits/explain",
    "POST /v1/models",
    "POST /v1/models/{name}/rollback",
    "POST /v1/models/{name}/versions",
    "POST /v1/scan",
    "POST /v1/tenants",
    "POST /v1/tenants/{id}/resume",
    "POST /v1/tenants/{id}/suspend",
    "PUT /v1/models/{name}/alias",
    "PUT /v1/plans/{name}",
    "PUT /v1/tenants/{id}/plan",
];
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_every_route_and_every_route_listed_answers() {
    on_three_nodes(Options::default(), async |cluster| {
        let documents = document_of_all(cluster).await?;
        described(&documents)?;
        every_route_answers(cluster, &documents).await?;
        the_pages_need_nobody_else(cluster).await
    })
    .await;
}

async fn document_of_all(cluster: &Cluster) -> Result<Value> {
    let document = Request::get("/openapi.json").send(&cluster.url(0)).await?.ok(200)?;
    for i in 1..cluster.len() {
        let other = Request::get("/openapi.json").send(&cluster.url(i)).await?.ok(200)?;
        ensure!(other == document, "node {i} has another document");
    }
    Ok(document)
}

/// One route of the document.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) described: Value,
}

impl Operation {
    /// Names of its parameters of one kind: `query`, `header` or `path`.
    pub(crate) fn parameters(&self, kind: &str) -> Vec<&str> {
        let all = self.described["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of_kind = all.iter().filter(|parameter| parameter["in"] == kind);
        of_kind.filter_map(|parameter| parameter["name"].as_str()).collect()
    }
}

/// Every route in the document.
pub(crate) fn operations(document: &Value) -> Result<Vec<Operation>> {
    let paths = document["paths"].as_object().context("no paths")?;
    let mut found = Vec::new();
    for (path, item) in paths {
        for method in METHODS {
            if let Some(described) = item.get(method) {
                let (method, path) = (method.to_uppercase(), path.clone());
                found.push(Operation { method, path, described: described.clone() });
            }
        }
    }
    Ok(found)
}

fn described(document: &Value) -> Result<()> {
    let version = document["openapi"].as_str().unwrap_or_default();
    ensure!(version.starts_with("3.1."), "the document is of version {version:?}");
    let operations = operations(document)?;
    let name = |operation: &Operation| format!("{} {}", operation.method, operation.path);
    let listed: BTreeSet<String> = operations.iter().map(name).collect();
    let missing: Vec<_> = PROMISED.iter().filter(|route| !listed.contains(**route)).collect();
    ensure!(missing.is_empty(), "not in the document: {missing:?}");
    for operation in &operations {
        let (route, described) = (name(operation), &operation.described);
        ensure!(described["summary"].is_string(), "{route} has no summary");
        ensure!(described["tags"].get(0).is_some(), "{route} has no tag");
        let responses = described["responses"].as_object().context("no responses")?;
        let succeeds = responses.keys().any(|status| status.starts_with('2'));
        ensure!(succeeds, "{route} describes no success: {responses:?}");
        for (status, response) in responses {
            let told = response["description"].is_string() || response["$ref"].is_string();
            ensure!(told, "{route} does not describe its {status}");
        }
        let repeatable = operation.parameters("header").contains(&"Idempotency-Key");
        let writes = operation.method != "GET" && operation.path != "/admin/v1/init";
        same(&format!("{route}: Idempotency-Key"), repeatable, writes)?;
        let placeholders = operation.path.matches('{').count();
        same(
            &format!("{route}: path parameters"),
            operation.parameters("path").len(),
            placeholders,
        )?;
    }
    Ok(())
}

async fn every_route_answers(cluster: &Cluster, document: &Value) -> Result<()> {
    for operation in operations(document)? {
        let target = operation.path.replace("{code}", "not_found").replace("{id}", "1");
        let answer = Request::new(&operation.method, &target).send(&cluster.url(1)).await?;
        let route = format!("{} {}", operation.method, operation.path);
        ensure!(![404, 405].contains(&answer.status), "{route} answers {}", answer.status);
        // Without a credential nothing else may be learnt, and nothing be done.
        let open = answer.status == 200 && operation.method == "GET";
        let guarded = answer.status == 401 || operation.path == "/admin/v1/init";
        ensure!(open || guarded, "{route} answers {} without a key", answer.status);
        if open {
            let head = Request::new("HEAD", &target).send(&cluster.url(1)).await?;
            same(&format!("HEAD {target}"), (head.status, head.body.len()), (200, 0))?;
        }
        let allowed = Request::new("OPTIONS", &target).send(&cluster.url(1)).await?;
        same(&format!("OPTIONS {target}"), allowed.status, 204)?;
        let methods = allowed.header("allow").unwrap_or_default().to_owned();
        ensure!(methods.contains(&operation.method), "Allow of {target} is {methods:?}");
    }
    Ok(())
}

async fn the_pages_need_nobody_else(cluster: &Cluster) -> Result<()> {
    let url = cluster.url(2);
    let page = Request::get("/docs/").send(&url).await?;
    same("/docs/", page.status, 200)?;
    let html = page.text();
    let mut references = Vec::new();
    for attribute in ["src=\"", "href=\""] {
        let parts = html.split(attribute).skip(1);
        references.extend(parts.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    ensure!(references.len() >= 3, "a page without scripts and styles: {html}");
    for reference in &references {
        let local = !reference.contains("//");
        ensure!(local, "the page refers to {reference}");
        let target = format!("/docs/{}", reference.trim_start_matches("./"));
        let part = Request::get(&target).send(&url).await?;
        same(&target, part.status, 200)?;
        if reference.contains("initializer") {
            ensure!(!part.text().contains("http"), "{target} names a host: {}", part.text());
        }
    }
    let policy = page.header("content-security-policy").unwrap_or_default();
    ensure!(policy.contains("default-src 'self'"), "policy {policy:?}");
    Ok(())
}
