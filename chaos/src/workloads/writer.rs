//! One tenant's writer: one write after the other, each repeated with its Idempotency-Key until it is
//! settled.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use client::tenants::{Tenant, unlimited};
use client::{Answer, Call, Client, ClientError, Credential, Method, Outcome, Retry};
use node::cli::launch::Cluster;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::history::{Board, Ledger};

/// Between two writes: the cluster is to be busy, not overloaded.
const PACE: Duration = Duration::from_millis(60);
/// Between two attempts of one write.
const PAUSE: Duration = Duration::from_millis(20);
/// A node that needs longer for a write is given up, and another one asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Any write is settled within this, whatever was killed.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Keys that a tenant keeps; beyond it one is revoked first.
const KEYS_MAX: usize = 100;
const PLANS: [&str; 3] = ["starter", "professional", "enterprise"];

/// A tenant, its clients of every node, and what it was told that it has.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) id: String,
    pub(crate) ledger: Ledger,
    shard: u32,
    tenant: Vec<Client>,
    operator: Vec<Client>,
    dice: StdRng,
    made: u64,
}

/// What is to be written.
#[derive(Debug, Clone)]
enum Write {
    CreateKey(String),
    RevokeKey(u64),
    Plan(&'static str),
    Rename(String),
    Scan(u64),
    Submit(u64),
}

impl Writer {
    pub(crate) fn new(
        cluster: &Cluster,
        tenant: Tenant,
        shard: u32,
        dice: StdRng,
    ) -> Result<Writer> {
        let key = tenant.api_key.context("a new tenant came without a key")?;
        let patient =
            |client: Client| client.with_retry(Retry::NEVER).with_timeout(ATTEMPT_TIMEOUT);
        let (mut own, mut operator) = (Vec::new(), Vec::new());
        for url in cluster.urls() {
            own.push(patient(Client::new(vec![url], Credential::key(&key))?));
        }
        for i in 0..cluster.len() {
            operator.push(patient(cluster.admin_of(i)?));
        }
        let ledger = Ledger {
            plan: tenant.plan,
            name: tenant.name,
            keys: [(1, "default".to_owned())].into(),
            ..Ledger::default()
        };
        Ok(Writer { id: tenant.id, ledger, shard, tenant: own, operator, dice, made: 0 })
    }

    pub(crate) fn shard(&self) -> u32 {
        self.shard
    }

    /// A node that was removed is asked no more.
    pub(crate) fn leave_out(&mut self, node: usize) {
        self.tenant.remove(node);
        self.operator.remove(node);
    }

    /// A client of a random node with the tenant's key, with patience.
    pub(crate) fn reader(&mut self) -> Client {
        let node = self.dice.random_range(0..self.tenant.len());
        self.tenant[node].clone().with_retry(Retry::PATIENT)
    }

    /// The same for the operator.
    pub(crate) fn operator(&mut self) -> Client {
        let node = self.dice.random_range(0..self.operator.len());
        self.operator[node].clone().with_retry(Retry::PATIENT)
    }

    /// One random write, settled.
    pub(crate) async fn write(&mut self, board: &Board) -> Result<()> {
        let write = self.choose();
        let answer = self
            .settle(&write, board)
            .await
            .with_context(|| format!("tenant {} on shard {}: {write:?}", self.id, self.shard))?;
        self.note(write, &answer)?;
        tokio::time::sleep(PACE).await;
        Ok(())
    }

    fn choose(&mut self) -> Write {
        self.made += 1;
        let made = self.made;
        if self.ledger.keys.len() > KEYS_MAX {
            return self.revoke_any();
        }
        match self.dice.random_range(0..100) {
            0..50 => Write::CreateKey(format!("key {made}")),
            50..65 => self.revoke_any(),
            65..75 => Write::Plan(PLANS[self.dice.random_range(0..PLANS.len())]),
            75..88 => Write::Rename(format!("name {made}")),
            88..98 => Write::Scan(self.dice.random_range(1..=3)),
            _ => Write::Submit(self.dice.random_range(1..=5)),
        }
    }

    fn revoke_any(&mut self) -> Write {
        // Not the first, which is the writer's own.
        let others: Vec<u64> = self.ledger.keys.keys().copied().filter(|id| *id != 1).collect();
        if others.is_empty() {
            return Write::CreateKey(format!("key {}", self.made));
        }
        Write::RevokeKey(others[self.dice.random_range(0..others.len())])
    }

    /// Tries on one node after the other, always with the same key, until the answer is known.
    async fn settle(&mut self, write: &Write, board: &Board) -> Result<Answer<Value>> {
        let key = client::fresh_key();
        let first = Instant::now();
        let mut node = self.dice.random_range(0..self.tenant.len());
        loop {
            let began = Instant::now();
            let failure = match self.attempt(node, write, &key).await {
                Ok(answer) => {
                    board.acked(self.shard, began, answer.meta.replayed);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if is_unknown(&failure)? {
                board.unknown();
            } else {
                board.refused();
            }
            let waited = first.elapsed();
            ensure!(waited < SETTLED_WITHIN, "not settled after {waited:?}: {failure}");
            node = (node + 1) % self.tenant.len();
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(
        &self,
        node: usize,
        write: &Write,
        key: &str,
    ) -> Result<Answer<Value>, ClientError> {
        let call = self.call(write)?.idempotency_key(key);
        let client = if write.is_operators() { &self.operator[node] } else { &self.tenant[node] };
        client.json(call).await
    }

    fn call(&self, write: &Write) -> Result<Call, ClientError> {
        let tenant = |method| Call::new(method, "/v1/tenants").segment(&self.id);
        match write {
            Write::CreateKey(name) => Call::post("/v1/keys").json(&json!({ "name": name })),
            Write::RevokeKey(id) => Ok(Call::delete("/v1/keys").segment(id.to_string())),
            Write::Plan(plan) => tenant(Method::PUT)
                .segment("plan")
                .json(&json!({ "plan": plan, "overrides": unlimited() })),
            Write::Rename(name) => tenant(Method::PATCH).json(&json!({ "name": name })),
            Write::Scan(count) => {
                Call::post("/v1/scan").json(&json!({ "docs": self.documents(*count) }))
            }
            Write::Submit(count) => {
                let documents = self.documents(*count);
                Call::post("/v1/jobs").json(&json!({ "type": "scan", "documents": documents }))
            }
        }
    }

    /// Documents that no other write has.
    fn documents(&self, count: u64) -> Vec<Value> {
        let made = self.made;
        let content = |i| format!("Note {made}-{i} of {}: nothing new this week.", self.id);
        (0..count).map(|i| json!({ "id": format!("d{i}"), "content": content(i) })).collect()
    }

    fn note(&mut self, write: Write, answer: &Value) -> Result<()> {
        let ledger = &mut self.ledger;
        match write {
            Write::CreateKey(name) => {
                let id = answer["key_id"].as_u64().context("a new key came without an id")?;
                let before = ledger.keys.insert(id, name);
                ensure!(before.is_none() && !ledger.revoked.contains(&id), "key id {id} twice");
            }
            Write::RevokeKey(id) => {
                ledger.keys.remove(&id);
                ledger.revoked.insert(id);
            }
            Write::Plan(plan) => plan.clone_into(&mut ledger.plan),
            Write::Rename(name) => ledger.name = name,
            Write::Scan(count) => {
                ledger.calls += 1;
                ledger.documents += count;
            }
            Write::Submit(count) => {
                let id = answer["id"].as_str().context("a new job came without an id")?;
                ledger.calls += 1;
                ledger.documents += count;
                let before = ledger.jobs.insert(id.to_owned(), count);
                ensure!(before.is_none(), "job id {id} twice");
            }
        }
        Ok(())
    }
}

impl Write {
    fn is_operators(&self) -> bool {
        matches!(self, Write::Plan(_) | Write::Rename(_))
    }
}

/// Whether the write may stand. An answer that the fault does not explain is an error: every write
/// here is one that a healthy cluster takes.
pub(crate) fn is_unknown(failure: &ClientError) -> Result<bool> {
    match failure {
        ClientError::Transport { sent, .. } => Ok(*sent),
        ClientError::Problem(problem) => match (problem.status, problem.code.as_str()) {
            (503 | 504, _) => Ok(problem.outcome == Outcome::Unknown),
            (409, "idempotency_in_progress") => Ok(true),
            _ => bail!("refused: {problem}"),
        },
        ClientError::Decode { .. } | ClientError::TooLarge { .. } | ClientError::Setup(_) => {
            bail!("not understood: {failure}")
        }
    }
}
