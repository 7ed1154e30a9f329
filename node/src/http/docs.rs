//! Pages for people, out of the binary and without a single reference to elsewhere: Swagger UI at
//! `/docs` and the meaning of each problem at `/problems/{code}`.

use axum::extract::Request;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::{Json, Router};
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem};
use utoipa::openapi::{OpenApi, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::error::{self, Code, Problem};
use super::openapi;
use super::query::{FromSegment, NoQuery, Segments};

/// Swagger UI styles itself inline and draws icons from data URLs; nothing comes from elsewhere.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      frame-ancestors 'none'; base-uri 'none'";

impl FromSegment for Code {
    fn from_segment(segment: &str) -> Option<Self> {
        Self::parse(segment)
    }
}

/// The described routes of this file.
pub fn routes<S: Clone + Send + Sync + 'static>() -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(problem))
}

/// What a problem means and what to do about it
#[utoipa::path(get, path = "/problems/{code}", tag = "operations",
    params(("code" = String, Path, description = "The `code` of a problem")),
    responses(
        (status = 200, description = "Status, title and advice", body = Object),
        (status = 404, response = openapi::ProblemResponse),
    ))]
async fn problem(
    code: Result<Segments<(Code,)>, Problem>,
    _: NoQuery,
) -> Result<Json<serde_json::Value>, Problem> {
    let Segments((code,)) = code?;
    Ok(Json(error::page(code)))
}

/// Finishes a route table: describes and adds the document and the pages that show it.
pub fn publish<S: Clone + Send + Sync + 'static>(
    table: OpenApiRouter<S>,
) -> Result<(Router<S>, OpenApi), serde_json::Error> {
    let (router, mut described) = table.split_for_parts();
    for (path, summary, kind) in [
        (openapi::PATH, "This document", "application/json"),
        ("/docs/", "This document as pages", "text/html"),
    ] {
        let answer = ResponseBuilder::new()
            .description(summary)
            .content(kind, utoipa::openapi::Content::default())
            .build();
        let operation = OperationBuilder::new()
            .tag("operations")
            .summary(Some(summary))
            .response("200", answer)
            .build();
        let item = PathItem::new(HttpMethod::Get, operation);
        described.paths.paths.insert(path.to_owned(), item);
    }
    let described = openapi::document(described);
    let router = router.merge(openapi::router(&described)?).merge(pages());
    Ok((router, described))
}

fn pages<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // The default validator is a badge from swagger.io.
    let config = Config::new([openapi::PATH]).validator_url("none").try_it_out_enabled(true);
    Router::from(SwaggerUi::new("/docs").config(config)).layer(from_fn(confined))
}

async fn confined(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    let nosniff = HeaderName::from_static("x-content-type-options");
    if headers.contains_key(CONTENT_TYPE) {
        headers.insert(nosniff, HeaderValue::from_static("nosniff"));
    }
    response
}
