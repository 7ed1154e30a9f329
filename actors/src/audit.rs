//! The node's side of the audit: refusals and reads on their way to the chains of their tenants, and
//! signatures under the heads of chains.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use protocol::audit::{CALLS_MAX, Call, Command, Head, Signature};
use protocol::peer::{Answer, Ask};
use protocol::{ClusterId, GroupId, NodeId, Refusal, TenantId, codec, nodes};
use raft::Host;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::figures::figures;
use crate::remote::{Envelope, PeerTransport, ReplyFrame};
use crate::router::Router;

/// Envelope kind: a [`Head`], answered with a [`Signature`].
pub(crate) const KIND_SIGN: u16 = 5;
/// How often refusals and reads are written. Shown within a second is promised.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// Calls of a tenant that get a record of their own between two flushes; more are counted.
const SINGLE_MAX: usize = 16;
/// Tenants that wait for a flush; calls of more are only counted in the figures.
const TENANTS_MAX: usize = 10_000;
/// Every so many flushes, those whose key nobody has are written: they cost them nothing, so they
/// shall cost us little.
const STRANGERS_EVERY: u32 = 20;
/// Addresses of strangers that get a record of their own between two such flushes.
const STRANGERS_MAX: usize = 8;
/// Tenants whose calls are on their way at a time. One whose owner does not answer keeps no other
/// from being written.
const FLYING_MAX: usize = 512;
/// Flushes of one tenant that may fail before its calls are given up.
const FAILURES_MAX: u32 = 40;
/// How long a replica may take to reach the entry that it is to sign.
const SIGN_WITHIN: Duration = Duration::from_secs(2);

/// Collects calls. Clones are the same.
#[derive(Clone)]
pub struct Auditor {
    inner: Arc<Inner>,
}

struct Inner {
    host: Arc<Host>,
    router: Router,
    reads_per_mille: u32,
    pending: Mutex<BTreeMap<TenantId, Pending>>,
    /// Who has calls on their way, so that a tenant's are written in order.
    flying: Mutex<BTreeSet<TenantId>>,
    /// A tenant's calls are on their way no more.
    landed: Notify,
    strangers: Mutex<Vec<Call>>,
}

#[derive(Default)]
struct Pending {
    calls: Vec<Call>,
    failures: u32,
}

impl std::fmt::Debug for Auditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auditor")
    }
}

impl Auditor {
    /// Starts an auditor that writes `reads_per_mille` of a thousand reads.
    #[must_use]
    pub fn start(host: Arc<Host>, router: Router, reads_per_mille: u32) -> Self {
        let inner = Inner {
            host,
            router,
            reads_per_mille,
            pending: Mutex::default(),
            flying: Mutex::default(),
            landed: Notify::new(),
            strangers: Mutex::default(),
        };
        let auditor = Self { inner: Arc::new(inner) };
        tokio::spawn(auditor.clone().run());
        auditor
    }

    /// Whether this read is one of those that are written.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        let share = self.inner.reads_per_mille;
        share > 0 && rand::random_range(0..1000) < share
    }

    /// Takes a call that was decided without an entry of its own.
    pub fn take(&self, tenant: TenantId, call: Call) {
        let mut pending = self.pending();
        if pending.len() >= TENANTS_MAX && !pending.contains_key(&tenant) {
            figures().audit_uncounted.inc();
            return;
        }
        let calls = &mut pending.entry(tenant).or_default().calls;
        add(calls, call);
    }

    /// Writes a call before it is answered; should nobody be there to take it, soon after.
    pub async fn tell(&self, tenant: TenantId, call: Call) {
        let calls = vec![call];
        self.flush(tenant, Pending { calls, failures: 0 }).await;
    }

    /// Takes a call with a key that nobody has, for the cluster's own audit.
    pub fn take_stranger(&self, call: Call) {
        let mut strangers = self.inner.strangers.lock().unwrap_or_else(|_| std::process::abort());
        let full = strangers.len() >= STRANGERS_MAX;
        let alike = |other: &&mut Call| full || other.note.address == call.note.address;
        match strangers.iter_mut().rev().find(alike) {
            Some(other) => other.count = other.count.saturating_add(1),
            None => strangers.push(call),
        }
    }

    /// Writes what waits and sees what is on its way home, for a node that stops.
    pub async fn drain(&self, within: Duration) {
        let drained = async {
            self.all_landed().await;
            self.admit_strangers();
            let waiting = std::mem::take(&mut *self.pending());
            let flushes = waiting.into_iter().map(|(tenant, pending)| self.flush(tenant, pending));
            futures::future::join_all(flushes).await;
        };
        let in_time = tokio::time::timeout(within, drained).await.is_ok();
        if !in_time || !self.pending().is_empty() {
            warn!("audited calls may be lost");
        }
    }

    async fn all_landed(&self) {
        loop {
            let landed = self.inner.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            if self.flying().is_empty() {
                return;
            }
            landed.await;
        }
    }

    fn admit_strangers(&self) {
        let mut strangers = self.inner.strangers.lock().unwrap_or_else(|_| std::process::abort());
        let strangers = std::mem::take(&mut *strangers);
        if strangers.is_empty() {
            return;
        }
        let mut pending = self.pending();
        let calls = &mut pending.entry(TenantId::CLUSTER).or_default().calls;
        for call in strangers {
            add(calls, call);
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, BTreeMap<TenantId, Pending>> {
        self.inner.pending.lock().unwrap_or_else(|_| std::process::abort())
    }

    async fn run(self) {
        let mut ticks = raft::ticks::ticks(FLUSH_EVERY);
        for number in 1_u32.. {
            ticks.tick().await;
            if number.is_multiple_of(STRANGERS_EVERY) {
                self.admit_strangers();
            }
            for (tenant, pending) in self.due() {
                let auditor = self.clone();
                tokio::spawn(async move {
                    auditor.flush(tenant, pending).await;
                    auditor.flying().remove(&tenant);
                    auditor.inner.landed.notify_waiters();
                });
            }
        }
    }

    /// What is to be written now.
    fn due(&self) -> Vec<(TenantId, Pending)> {
        let mut pending = self.pending();
        let mut flying = self.flying();
        let room = FLYING_MAX.saturating_sub(flying.len());
        let due: Vec<_> =
            pending.keys().filter(|tenant| !flying.contains(tenant)).take(room).copied().collect();
        flying.extend(&due);
        due.into_iter().filter_map(|tenant| pending.remove_entry(&tenant)).collect()
    }

    fn flying(&self) -> std::sync::MutexGuard<'_, BTreeSet<TenantId>> {
        self.inner.flying.lock().unwrap_or_else(|_| std::process::abort())
    }

    /// Writes the calls of a tenant. What may have been written already is written again when nobody
    /// could say: the id of a request tells that it is the same.
    async fn flush(&self, tenant: TenantId, pending: Pending) {
        let command = Command::Append(pending.calls.clone());
        let command = protocol::Command::Audit(tenant, command);
        match self.write(tenant, command).await {
            Ok(true) => figures().audit_calls.inc_by(pending.calls.len() as u64),
            Ok(false) => self.hand_over(pending),
            Err(why) => self.again(tenant, pending, &why),
        }
    }

    /// Whether the calls are in the tenant's chain; when they are not, it has none.
    async fn write(&self, tenant: TenantId, command: protocol::Command) -> Result<bool, String> {
        if tenant == TenantId::CLUSTER {
            let request = nodes::Request { command, once: None, note: None };
            let written = self.inner.host.propose_meta(request).await;
            let applied = written.map_err(|error| error.to_string())?;
            return applied.outcome.map(|_| true).map_err(|refusal| refusal.to_string());
        }
        let Some(group) = self.inner.router.group_of(tenant) else {
            return Err("no cluster map".to_owned());
        };
        match self.inner.router.ask(group, Ask::propose(Box::new(command))).await.answered {
            Ok(Answer::Applied(applied)) => match applied.outcome {
                Ok(_) => Ok(true),
                Err(Refusal::NoTenant) => Ok(false),
                Err(refusal) => Err(refusal.to_string()),
            },
            other => Err(format!("{other:?}")),
        }
    }

    /// Of a tenant that is not there, the cluster tells what an operator asked.
    fn hand_over(&self, pending: Pending) {
        let mut waiting = self.pending();
        let calls = &mut waiting.entry(TenantId::CLUSTER).or_default().calls;
        for call in pending.calls {
            add(calls, call);
        }
    }

    fn again(&self, tenant: TenantId, failed: Pending, why: &str) {
        debug!(why, "audit not written yet");
        if failed.failures >= FAILURES_MAX {
            warn!(calls = failed.calls.len(), "audited calls given up");
            figures().audit_uncounted.inc_by(failed.calls.len() as u64);
            return;
        }
        let mut pending = self.pending();
        let entry = pending.entry(tenant).or_default();
        entry.failures = failed.failures + 1;
        let newer = std::mem::replace(&mut entry.calls, failed.calls);
        for call in newer {
            add(&mut entry.calls, call);
        }
    }
}

/// A call gets a record of its own while there are few; in a flood it is counted on one like it.
fn add(calls: &mut Vec<Call>, call: Call) {
    let face = |call: &Call| (call.note.key, call.note.status, call.replayed);
    let alike = |other: &&mut Call| {
        face(other) == face(&call) && other.code == call.code && other.note.actor == call.note.actor
    };
    if calls.len() >= SINGLE_MAX
        && let Some(other) = calls.iter_mut().rev().find(alike)
    {
        other.count = other.count.saturating_add(call.count);
    } else if calls.len() < CALLS_MAX {
        calls.push(call);
    } else if let Some(last) = calls.last_mut() {
        last.count = last.count.saturating_add(call.count);
    }
}

/// Signs for this node.
#[derive(Clone)]
pub struct Signer {
    node: NodeId,
    cluster: ClusterId,
    key: Arc<SigningKey>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "signer of {}", self.node)
    }
}

impl Signer {
    /// A signer with the node's secret.
    #[must_use]
    pub fn new(node: NodeId, cluster: ClusterId, secret: &[u8; 32]) -> Self {
        Self { node, cluster, key: Arc::new(SigningKey::from_bytes(secret)) }
    }

    /// The public key of a secret.
    #[must_use]
    pub fn public(secret: &[u8; 32]) -> [u8; 32] {
        SigningKey::from_bytes(secret).verifying_key().to_bytes()
    }

    /// The signature of a secret under bytes.
    #[must_use]
    pub fn sign_bytes(secret: &[u8; 32], bytes: &[u8]) -> [u8; 64] {
        SigningKey::from_bytes(secret).sign(bytes).to_bytes()
    }

    /// Signs a head that this node's own replica has; none when it has another, or no replica.
    pub(crate) async fn sign(&self, host: &Host, group: GroupId, head: &Head) -> Option<Signature> {
        let replica = host.group(group)?;
        if !replica.wait_applied(head.applied, SIGN_WITHIN).await {
            return None;
        }
        let own = replica.view().audit.hash_at(head.tenant, head.seq)?;
        if own != head.head {
            return None;
        }
        let signed = protocol::wire::audit::signed(self.cluster, head.tenant, head.seq, &head.head);
        let public = self.key.verifying_key().to_bytes();
        figures().audit_signatures.inc();
        Some(Signature {
            node: self.node,
            key_id: key_id(&public),
            sig: self.key.sign(&signed).to_bytes().to_vec(),
        })
    }
}

/// The name of a public key: the first eight bytes of its SHA-256, as hex.
#[must_use]
pub fn key_id(public: &[u8; 32]) -> String {
    let digest = protocol::Digest(Sha256::digest(public).into()).to_string();
    digest[..16].to_owned()
}

/// Whether a signature of these bytes is by the holder of this key.
#[must_use]
pub fn is_signed(public: &[u8; 32], bytes: &[u8], sig: &[u8; 64]) -> bool {
    let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(public) else { return false };
    key.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(sig)).is_ok()
}

/// Asks another node for its signature.
pub(crate) async fn ask_to_sign(
    transport: &Arc<dyn PeerTransport>,
    node: NodeId,
    group: GroupId,
    head: &Head,
) -> Option<Signature> {
    let payload = codec::encode(head).ok()?;
    let mut envelope = Envelope::new(KIND_SIGN, head.seq, Bytes::from(payload));
    envelope.shard = group.0;
    envelope.deadline_remaining_ms = (SIGN_WITHIN.as_millis() + 500) as u32;
    match transport.call(node.0, envelope).await {
        Ok(ReplyFrame::Ok(answer)) => codec::decode::<Option<Signature>>(&answer).ok().flatten(),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use protocol::Digest;
    use protocol::audit::Note;

    use super::*;

    fn call(code: &str, status: u16) -> Call {
        let note = Note {
            request: "req_1".to_owned(),
            actor: "sk_live_…abcd".to_owned(),
            key: None,
            method: "POST".to_owned(),
            path: "/v1/scan".to_owned(),
            address: "127.0.0.1".to_owned(),
            body: Digest([0; 32]),
            status,
            ms: 1,
            once: false,
        };
        Call { note, code: code.to_owned(), replayed: false, count: 1 }
    }

    #[test]
    fn a_flood_becomes_counts_and_no_call_is_forgotten() {
        let mut calls = Vec::new();
        for number in 0..5_000 {
            let (code, status) =
                if number % 50 == 0 { ("not_found", 404) } else { ("rate_limited", 429) };
            add(&mut calls, call(code, status));
        }
        assert!(calls.len() <= SINGLE_MAX + 1);
        assert_eq!(calls.iter().map(|call| call.count).sum::<u32>(), 5_000);
    }

    #[test]
    fn a_signature_is_of_one_key_and_one_text() {
        let secret = [7; 32];
        let public = Signer::public(&secret);
        let signature = SigningKey::from_bytes(&secret).sign(b"head").to_bytes();
        assert!(is_signed(&public, b"head", &signature));
        assert!(!is_signed(&public, b"heae", &signature));
        assert!(!is_signed(&Signer::public(&[8; 32]), b"head", &signature));
    }
}
