//! Every route in one table, and what each connection may cost.

use utoipa_axum::router::OpenApiRouter;

pub mod app;
pub mod audit;
pub mod auth;
pub mod backups;
pub mod body;
pub mod cluster;
pub mod context;
pub mod docs;
pub mod error;
pub mod headers;
pub mod health;
pub mod jobs;
pub mod json;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod models;
pub mod nodes;
pub mod once;
pub mod openapi;
pub mod plans;
pub mod query;
pub mod ready;
pub mod report;
pub mod scan;
pub mod serve;
pub mod state;
pub mod tenants;
pub mod usage;

#[cfg(test)]
mod tests;

use app::App;

/// The routes of a node. The document at `/openapi.json` is made from this table.
pub fn routes(app: App) -> Result<axum::Router, serde_json::Error> {
    let edge = app.edge.clone();
    let operations = OpenApiRouter::with_openapi(openapi::base())
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(docs::routes())
        .with_state(edge.clone());
    let table = operations
        .merge(tenants::routes())
        .merge(plans::routes())
        .merge(models::routes())
        .merge(keys::routes())
        .merge(limits::routes())
        .merge(scan::routes())
        .merge(jobs::routes())
        .merge(usage::routes())
        .merge(audit::routes())
        .merge(cluster::routes())
        .merge(nodes::routes())
        .merge(backups::routes());
    let (router, _) = docs::publish(table)?;
    Ok(context::complete(router.with_state(app), edge))
}
