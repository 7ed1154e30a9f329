//! Idempotency-Keys: what they are replicated as, whose they are, and the secret of a first answer.
//!
//! A tenant's key is kept in the tenant's shard, in the entry that it made happen once. An operator's
//! is one for the whole cluster, while what it makes happen may be in any shard: so the meta group is
//! told first which request it belongs to, and told again when nothing came of that.

use actors::AskError;
use aes_gcm_siv::aead::{Aead as _, KeyInit as _};
use aes_gcm_siv::{Aes256GcmSiv, Nonce};
use axum::http::StatusCode;
use protocol::audit::Note;
use protocol::idempotency::{Claim, Once};
use protocol::peer::Answer;
use protocol::versions::Wire;
use protocol::{Digest, Outcome, TenantId, nodes};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::app::{App, Told, refused, unanswered};
use super::auth::Idempotency;
use super::error::{self, Code, Problem};
use super::json::Marks;

/// Who an operator is in an audit, and whose Idempotency-Keys are kept apart.
pub const OPERATOR: &str = "operator";

/// A caller's wish that the request be done once.
#[derive(Debug, Clone)]
pub struct Wish {
    pub key: Option<String>,
    whose: Whose,
    fingerprint: Digest,
    /// What the audit is told.
    note: Note,
}

/// Whose keys are kept apart: each tenant's, and the operators'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Tenant(TenantId),
    /// With the tenant that was named beside the path, which is a part of the request.
    Operators(Option<TenantId>),
}

impl Wish {
    /// The wish of a request: method, path, query and parsed body decide whether it is the same.
    pub fn new(whose: Whose, once: &Idempotency, body: Marks, note: Note) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(once.line().as_bytes());
        if let Whose::Operators(Some(named)) = whose {
            hasher.update(named.0.to_be_bytes());
        }
        hasher.update(body.parsed.unwrap_or_default());
        let fingerprint = Digest(hasher.finalize().into());
        Self { key: once.key().map(str::to_owned), whose, fingerprint, note }
    }

    /// What the audit is told.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The same of an answer with this status.
    pub fn told(&self, success: StatusCode) -> Option<Box<Note>> {
        Some(Box::new(Note { status: success.as_u16(), ..self.note.clone() }))
    }

    fn scope(&self) -> String {
        match self.whose {
            Whose::Tenant(tenant) => tenant.to_string(),
            Whose::Operators(_) => OPERATOR.to_owned(),
        }
    }
}

impl App {
    /// What an Idempotency-Key is replicated as.
    pub fn once(&self, wish: &Wish, secret: Option<&str>) -> Result<Option<Once>, Problem> {
        let Some(key) = &wish.key else { return Ok(None) };
        let digest = self.digest("idempotency", &[wish.scope().as_bytes(), key.as_bytes()])?;
        let sealed = match secret {
            Some(secret) => Some(self.seal(wish, key, secret)?),
            None => None,
        };
        Ok(Some(Once { key: digest, fingerprint: wish.fingerprint, sealed }))
    }

    /// Before a shard is asked: an operator's key belongs to this request, or it is refused.
    pub async fn claim(&self, wish: &Wish, once: Option<&Once>) -> Result<Option<Claim>, Problem> {
        let once = once.filter(|_| matches!(wish.whose, Whose::Operators(_)));
        let Some(once) = once.filter(|_| self.map().is_ok_and(|map| map.wire >= Wire::CLAIMS))
        else {
            return Ok(None);
        };
        let claim = Claim { key: once.key, fingerprint: once.fingerprint };
        let applied = self.system.host.propose_meta(nodes::Command::Claim(claim)).await;
        let applied = applied.map_err(|error| unanswered(&AskError::from(error)))?;
        applied.outcome.map_err(refused)?;
        Ok(Some(claim))
    }

    /// After it answered: a key of which nothing is remembered is free again. If that cannot be told, it
    /// stays with its request, which may be repeated.
    pub async fn settle(&self, claim: Option<Claim>, told: &Result<Told, Problem>) {
        let Some(claim) = claim.filter(|_| is_forgotten(told)) else { return };
        let released = self.system.host.propose_meta(nodes::Command::Release(claim)).await;
        if let Err(error) = released {
            warn!(%error, "an Idempotency-Key stays with a request that was refused");
        }
    }

    fn cipher(&self, wish: &Wish, key: &str) -> Result<Aes256GcmSiv, Problem> {
        // Each Idempotency-Key has a cipher key of its own, so the nonce need not vary.
        let digest = self.digest("seal", &[wish.scope().as_bytes(), key.as_bytes()])?;
        Ok(Aes256GcmSiv::new(&digest.0.into()))
    }

    fn seal(&self, wish: &Wish, key: &str, secret: &str) -> Result<Vec<u8>, Problem> {
        let sealed = self.cipher(wish, key)?.encrypt(&Nonce::default(), secret.as_bytes());
        sealed.map_err(|_| Problem::new(Code::Internal))
    }

    /// The secret of the first answer, if this request repeats one.
    pub fn unseal(&self, wish: &Wish, sealed: &[u8]) -> Result<String, Problem> {
        let failed = || Problem::new(Code::Internal);
        let key = wish.key.as_deref().ok_or_else(failed)?;
        let opened = self.cipher(wish, key)?.decrypt(&Nonce::default(), sealed);
        String::from_utf8(opened.map_err(|_| failed())?).map_err(|_| failed())
    }
}

/// Whether the request left nothing behind under its key, for certain.
fn is_forgotten(told: &Result<Told, Problem>) -> bool {
    let outcome: &Outcome = match told {
        Err(problem) => return problem.known_outcome() == Some(error::Outcome::NotApplied),
        Ok(Told { answer: Answer::Refused(_), .. }) => return true,
        Ok(Told { answer: Answer::Applied(applied) | Answer::Counted(applied, _), .. }) => {
            &applied.outcome
        }
        Ok(_) => return false,
    };
    outcome.as_ref().is_err_and(|refusal| !refusal.is_remembered())
}
