//! The routes as targets: who may call each, and how to call it so that nothing could happen even if
//! the bad part were overlooked.

use anyhow::{Result, bail};
use protocol::{JobId, TenantId};
use tests::raw::Request;

use crate::openapi::Operation;

/// Takes a tar, and what it is to be in the query.
const UPLOAD: &str = "/v1/models/{name}/versions";
/// What is for operators beside `/admin/v1`.
const OPERATORS: [&str; 3] = ["/v1/tenants", "/v1/plans", "/v1/models"];

/// A credential of each kind.
pub(super) struct Keys {
    pub(super) admin: String,
    /// Every scope.
    pub(super) tenant: String,
    pub(super) id: String,
    /// Only `scan`.
    pub(super) scanner: String,
    /// Only `usage:read`.
    pub(super) reader: String,
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// Anybody.
    Open,
    /// Anybody on this machine, once.
    Init,
    Operator,
    /// A tenant's key with this scope; any key where there is none.
    Tenant(Option<&'static str>),
}

/// A route with an id that does not exist.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) operation: Operation,
    pub(super) guard: Guard,
    pub(super) target: String,
    /// A key that may call it.
    key: Option<String>,
}

impl Route {
    pub(super) fn of(operation: Operation, keys: &Keys) -> Result<Route> {
        let guard = guard(&operation.method, &operation.path)?;
        let missing = match operation.path.split('/').nth(2) {
            Some("tenants") => TenantId(u128::MAX >> 3).to_string(),
            Some("jobs") => JobId(u128::MAX >> 3).to_string(),
            _ => "999999".to_owned(),
        };
        let query = match operation.path.as_str() {
            // A name that is none, so that no key is made even if all else is overlooked.
            "/v1/keys/create" => "?name=".to_owned(),
            UPLOAD => format!("?sha256={}", "0".repeat(64)),
            _ => String::new(),
        };
        // A name that no plan can have.
        let named = operation.path.replace("{id}", &missing).replace("{name}", "%20");
        let numbered = named.replace("{version}", "999999");
        let target = numbered.replace("{code}", "missing") + &query;
        let key = match guard {
            Guard::Open | Guard::Init => None,
            Guard::Operator => Some(keys.admin.clone()),
            Guard::Tenant(_) => Some(keys.tenant.clone()),
        };
        Ok(Route { operation, guard, target, key })
    }

    pub(super) fn name(&self) -> String {
        format!("{} {}", self.operation.method, self.operation.path)
    }

    /// The route without any credential, with a further query if it is not empty.
    pub(super) fn bare(&self, query: &str) -> Request {
        let joint = match (query.is_empty(), self.target.contains('?')) {
            (true, _) => "",
            (false, true) => "&",
            (false, false) => "?",
        };
        Request::new(&self.operation.method, &format!("{}{joint}{query}", self.target))
    }

    /// The same with a credential that may call it.
    pub(super) fn request(&self, query: &str) -> Request {
        let bare = self.bare(query);
        match &self.key {
            Some(key) => bare.bearer(key),
            None => bare,
        }
    }

    /// The same with a line that has nothing wrong, for what is looked at after it.
    pub(super) fn valid_line(&self) -> Request {
        let line = self.target.replace("?name=", "?name=x");
        let request = Request::new(&self.operation.method, &line);
        match &self.key {
            Some(key) => request.bearer(key),
            None => request,
        }
    }

    /// Whether a path is one of this route.
    pub(super) fn takes(&self, path: &str) -> bool {
        let (known, asked) = (self.operation.path.split('/'), path.split('/'));
        let alike = |(known, asked): (&str, &str)| {
            known == asked || (known.starts_with('{') && !asked.is_empty())
        };
        known.clone().count() == asked.clone().count() && known.zip(asked).all(alike)
    }

    pub(super) fn writes(&self) -> bool {
        self.operation.method != "GET"
    }

    /// Reads a JSON body.
    pub(super) fn takes_a_body(&self) -> bool {
        let method = self.operation.method.as_str();
        ["POST", "PUT", "PATCH"].contains(&method) && self.operation.path != UPLOAD
    }

    /// The swagger pages are files; they have no parameters to be mistaken in.
    pub(super) fn is_a_page(&self) -> bool {
        self.operation.path.starts_with("/docs")
    }

    pub(super) fn body_bytes_max(&self) -> usize {
        match self.operation.path.as_str() {
            "/v1/scan" | "/v1/analyze" | "/v1/jobs" => 64 << 20,
            _ => 1 << 20,
        }
    }
}

/// A route that is not in this list has no policy, and that is a failure.
fn guard(method: &str, path: &str) -> Result<Guard> {
    Ok(match (method, path) {
        ("POST", "/admin/v1/init") => Guard::Init,
        (_, path) if path.starts_with("/admin/v1/") => Guard::Operator,
        (_, path) if OPERATORS.iter().any(|own| path.starts_with(own)) => Guard::Operator,
        (_, path) if path.starts_with("/v1/audit") => Guard::Tenant(Some("audit:read")),
        (_, path) if path.starts_with("/v1/limits") => Guard::Tenant(None),
        (_, "/v1/me") => Guard::Tenant(None),
        (_, "/v1/usage" | "/v1/keys/usage") => Guard::Tenant(Some("usage:read")),
        ("GET", path) if path.starts_with("/v1/keys") => Guard::Tenant(Some("keys:read")),
        (_, path) if path.starts_with("/v1/keys") => Guard::Tenant(Some("keys:write")),
        (_, "/v1/queue") => Guard::Tenant(Some("jobs:read")),
        ("GET", path) if path.starts_with("/v1/jobs") => Guard::Tenant(Some("jobs:read")),
        (_, path) if path.starts_with("/v1/jobs") => Guard::Tenant(Some("jobs:write")),
        (_, "/v1/scan" | "/v1/analyze") => Guard::Tenant(Some("scan")),
        ("GET", path) if !path.starts_with("/v1/") => Guard::Open,
        _ => bail!("{method} {path} has no policy in bad_input/routes.rs"),
    })
}
