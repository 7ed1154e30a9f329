//! The `OpenAPI` 3.1 document, made from the handlers' own descriptions, so that it cannot drift.
//!
//! Every handler is described beside its code with `#[utoipa::path]` (see `health.rs`) and joins the
//! table through `routes!`; [`document`] completes what all of them have in common.

use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::{Router, routing};
use protocol::wire::error::Problem as Body;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Components, Content, Info, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response,
    ResponseBuilder,
};
use utoipa::{PartialSchema as _, ToResponse, ToSchema as _};

use super::error::PROBLEM_JSON;
use super::query::NoQuery;

/// Where the document is.
pub const PATH: &str = "/openapi.json";

/// For the annotations of handlers: `(status = 404, response = ProblemResponse)`.
#[derive(Debug)]
pub struct ProblemResponse;

impl<'r> ToResponse<'r> for ProblemResponse {
    fn response() -> (&'r str, RefOr<Response>) {
        let schema = RefOr::Ref(Ref::from_schema_name(Body::name()));
        let response = ResponseBuilder::new()
            .description("A problem; `code` says which")
            .content(PROBLEM_JSON, Content::new(Some(schema)))
            .build();
        ("Problem", response.into())
    }
}

/// The document to begin a route table with: `OpenApiRouter::with_openapi(openapi::base())`.
pub fn base() -> OpenApi {
    let mut info = Info::new("skep", env!("CARGO_PKG_VERSION"));
    info.description = Some("Document ML back end, replicated, in one binary.".to_owned());
    let mut components = Components::new();
    let mut schemas = Vec::new();
    Body::schemas(&mut schemas);
    schemas.push((Body::name().into_owned(), Body::schema()));
    components.schemas.extend(schemas);
    let (name, response) = ProblemResponse::response();
    components.responses.insert(name.to_owned(), response);
    let bearer = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key of a tenant (`sk_live_…`) or an operator (`sk_admin_…`)"))
        .build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let header = ApiKey::Header(ApiKeyValue::new("X-API-Key"));
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(header));
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// Whose writes cannot be repeated with a key.
const UNREPEATABLE: [&str; 1] = ["/admin/v1/init"];

/// Adds to every operation what every operation has, and checks nothing away: the shared answers
/// are added only where the handler does not describe that status itself.
pub fn document(mut openapi: OpenApi) -> OpenApi {
    for (path, item) in &mut openapi.paths.paths {
        if !UNREPEATABLE.contains(&path.as_str()) {
            let writes = [&mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            for operation in writes.into_iter().flatten() {
                operation.parameters.get_or_insert_default().push(idempotency_key().into());
            }
        }
        let operations =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            let shared = RefOr::Ref(Ref::from_response_name("Problem"));
            let responses = &mut operation.responses.responses;
            responses.entry("default".to_owned()).or_insert(shared);
        }
    }
    openapi
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Makes the call repeatable: the same key gives the first answer again"))
        .schema(Some(String::schema()))
        .build()
}

/// Serves the document; `text` is rendered once, at start.
pub fn router<S: Clone + Send + Sync + 'static>(
    openapi: &OpenApi,
) -> Result<Router<S>, serde_json::Error> {
    let text: bytes::Bytes = openapi.to_json()?.into();
    let headers: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];
    let serve = async move |_: NoQuery| (headers.clone(), text.clone());
    Ok(Router::new().route(PATH, routing::get(serve)))
}
