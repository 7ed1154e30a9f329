//! Who is calling, and may they: extractors that a handler names before everything else, so that the
//! credential is checked before query, headers and body are looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use actors::grants::{Held, NoPass, Pass};
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use protocol::audit::{Note, shown_path};
use protocol::keys::{Scope, is_admin_key};
use protocol::limits::Payer;
use protocol::peer;
use protocol::tenants::Status;
use protocol::{Digest, KeyId, TenantId, keys};

use super::app::App;
use super::context::{Context, Known};
use super::error::{Code, Problem};
use super::headers::{self, Credential, X_TENANT_ID};
use super::json::Marks;
use super::once::{OPERATOR, Whose, Wish};

/// Scopes as parameters of [`Caller`].
pub const SCAN: u8 = Scope::Scan as u8;
pub const JOBS_READ: u8 = Scope::JobsRead as u8;
pub const JOBS_WRITE: u8 = Scope::JobsWrite as u8;
pub const KEYS_READ: u8 = Scope::KeysRead as u8;
pub const KEYS_WRITE: u8 = Scope::KeysWrite as u8;
pub const USAGE_READ: u8 = Scope::UsageRead as u8;
pub const AUDIT_READ: u8 = Scope::AuditRead as u8;
/// Every key may.
pub const ANY: u8 = u8::MAX;
/// Every key of a tenant that may work.
pub const WORK: u8 = u8::MAX - 1;

/// A caller on a route of tenants whose key has the scope `S`; or an operator, who names the tenant.
#[derive(Debug)]
pub struct Caller<const S: u8> {
    pub tenant: TenantId,
    /// `None` is an operator.
    pub key: Option<Arc<Pass>>,
}

impl<const S: u8> Caller<S> {
    /// Who pays for the work. A slot is held for as long as the second of the pair lives.
    pub fn payer(&self, app: &App) -> (Payer, Option<Held>) {
        let Some(pass) = &self.key else { return (Payer::default(), None) };
        let held = app.system.grants.hold_slot(pass);
        let slot = held.as_ref().map(Held::slot);
        (Payer { key: Some(pass.key), slot }, held)
    }

    /// 413 for a request that is larger than the plan has it.
    pub fn check_size(&self, documents: usize, bytes: u64) -> Result<(), Problem> {
        let Some(pass) = &self.key else { return Ok(()) };
        let limits = pass.tenant.limits();
        for (most, got) in [(limits.max_documents, documents as u64), (limits.max_bytes, bytes)] {
            if let Some(most) = most.filter(|&most| got > most) {
                return Err(Problem::too_large(most, got));
            }
        }
        Ok(())
    }

    /// Refuses at once what the owner would refuse, by what it said last.
    pub fn check_dry(&self, app: &App) -> Result<(), Problem> {
        let dry = self.key.as_ref().and_then(|pass| app.system.grants.dry(pass));
        dry.map_or(Ok(()), |refusal| Err(super::app::refused(refusal)))
    }

    /// The scopes that this caller can give away.
    pub fn scopes(&self) -> keys::Scopes {
        self.key.as_ref().map_or_else(keys::Scopes::all, |caller| caller.scopes)
    }

    /// The caller's Idempotency-Key, scoped to the tenant; an operator's, to the cluster: what an operator
    /// was given, secrets included, is not for the tenant's keys.
    pub fn wish(&self, once: &Idempotency, body: Marks) -> Wish {
        let actor = self.key.as_ref().map_or(OPERATOR, |pass| pass.key_prefix.as_str());
        let note = once.note(actor, self.key.as_ref().map(|pass| pass.key), body);
        let whose = match &self.key {
            Some(_) => Whose::Tenant(self.tenant),
            None => Whose::Operators(Some(self.tenant)),
        };
        Wish::new(whose, once, body, note)
    }
}

impl<const S: u8> FromRequestParts<App> for Caller<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let credential = Credential::read(&parts.headers)?;
        let named = headers::tenant_id(&parts.headers);
        if is_operator(app, &credential).await? {
            let tenant =
                operators_tenant(named).inspect_err(|_| note(parts, TenantId::CLUSTER, None))?;
            note(parts, tenant, None);
            return Ok(Self { tenant, key: None });
        }
        let caller = authenticate(app, &credential).await?;
        note(parts, caller.tenant.id, Some(&caller));
        admit::<S>(&caller)?;
        if named?.is_some() {
            return Err(headers::mistake(&X_TENANT_ID, "is for operators only"));
        }
        Ok(Self { tenant: caller.tenant.id, key: Some(caller) })
    }
}

/// An operator, on a route that tenants do not have.
#[derive(Debug, Clone, Copy)]
pub struct Operator;

impl Operator {
    /// The operator's Idempotency-Key, scoped to the cluster.
    pub fn wish(self, once: &Idempotency, body: Marks) -> Wish {
        let note = once.note(OPERATOR, None, body);
        Wish::new(Whose::Operators(None), once, body, note)
    }
}

impl FromRequestParts<App> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let credential = Credential::read(&parts.headers)?;
        if is_operator(app, &credential).await? {
            note(parts, TenantId::CLUSTER, None);
            return Ok(Self);
        }
        let caller = authenticate(app, &credential).await?;
        note(parts, caller.tenant.id, Some(&caller));
        Err(Problem::scope_missing("operator"))
    }
}

/// The Idempotency-Key of a request and what it must be the same in.
#[derive(Debug, Clone)]
pub struct Idempotency {
    key: Option<String>,
    line: String,
    method: String,
    path: String,
    address: String,
    request: String,
    started: Instant,
}

impl Idempotency {
    /// The key, if one was sent.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Method, path and query.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// What the audit is told of this call before it is decided.
    fn note(&self, actor: &str, key: Option<KeyId>, body: Marks) -> Note {
        Note {
            request: self.request.clone(),
            actor: actor.to_owned(),
            key,
            method: self.method.clone(),
            path: self.path.clone(),
            address: self.address.clone(),
            body: Digest(body.sha256),
            status: 200,
            ms: u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX),
            once: self.key.is_some(),
        }
    }
}

impl FromRequestParts<App> for Idempotency {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let key = headers::idempotency_key(&parts.headers)?;
        let line = format!("{} {}", parts.method, parts.uri);
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let context = parts.extensions.get::<Context>();
        Ok(Self {
            key,
            line,
            method: parts.method.to_string(),
            path: shown_path(path),
            address: from.map_or_else(String::new, |from| from.0.ip().to_string()),
            request: context.map_or_else(String::new, |context| context.request_id.to_string()),
            started: context.map_or_else(Instant::now, |context| context.started),
        })
    }
}

/// A write that this build cannot repeat: an Idempotency-Key is refused, never accepted and ignored.
#[derive(Debug, Clone, Copy)]
pub struct Unrepeatable;

impl FromRequestParts<App> for Unrepeatable {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        match headers::idempotency_key(&parts.headers)? {
            None => Ok(Self),
            Some(_) => {
                let detail = "is not part of this build on this route";
                Err(headers::mistake(&headers::IDEMPOTENCY_KEY, detail))
            }
        }
    }
}

fn note(parts: &Parts, tenant: TenantId, pass: Option<&Pass>) {
    if let Some(context) = parts.extensions.get::<Context>() {
        let actor = pass.map_or_else(|| OPERATOR.to_owned(), |pass| pass.key_prefix.clone());
        context.set_caller(Known { tenant, actor, key: pass.map(|pass| pass.key) });
    }
}

/// Whether the credential is an operator's key. A key that this node does not know is looked for
/// again in a map that is certainly up to date.
async fn is_operator(app: &App, credential: &Credential) -> Result<bool, Problem> {
    if !is_admin_key(credential.expose()) {
        return Ok(false);
    }
    let digest = app.digest("operator", &[credential.expose().as_bytes()])?;
    if app.map()?.operators.contains_key(&digest) {
        return Ok(true);
    }
    app.sync_map().await?;
    if app.map()?.operators.contains_key(&digest) {
        return Ok(true);
    }
    Err(Problem::unauthenticated())
}

fn operators_tenant(named: Result<Option<&str>, Problem>) -> Result<TenantId, Problem> {
    let Some(text) = named? else {
        return Err(headers::mistake(&X_TENANT_ID, "an operator must name the tenant"));
    };
    TenantId::parse(text).map_err(|_| Problem::not_found())
}

async fn authenticate(app: &App, credential: &Credential) -> Result<Arc<Pass>, Problem> {
    let pass = app.system.grants.authenticate(credential.expose()).await;
    pass.map_err(|no| match no {
        NoPass::Unknown => Problem::unauthenticated(),
        NoPass::Unanswered(error) => super::app::unanswered(&error),
    })
}

/// The key of a caller again, after its owner has called back what was known of it.
pub async fn again(app: &App, headers: &HeaderMap) -> Result<Arc<Pass>, Problem> {
    let pass = authenticate(app, &Credential::read(headers)?).await?;
    admit::<WORK>(&pass)?;
    Ok(pass)
}

/// Whether a caller may still do what it was let in for.
pub async fn still<const S: u8>(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    admit::<S>(&*authenticate(app, &Credential::read(headers)?).await?)
}

/// State before scope. A suspended tenant still reads who it is and what it used.
fn admit<const S: u8>(caller: &peer::Caller) -> Result<(), Problem> {
    let reads_itself = S == ANY || S == USAGE_READ || S == AUDIT_READ;
    match caller.status {
        Status::Suspended if !reads_itself => return Err(Problem::new(Code::TenantSuspended)),
        Status::Expired if !reads_itself => return Err(Problem::new(Code::TrialExpired)),
        Status::Trial | Status::Active | Status::Suspended | Status::Expired => {}
    }
    let wanted = Scope::ALL.into_iter().find(|scope| *scope as u8 == S);
    match wanted.filter(|&scope| !caller.scopes.has(scope)) {
        Some(scope) => Err(Problem::scope_missing(scope.name())),
        None => Ok(()),
    }
}
