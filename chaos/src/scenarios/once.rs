//! Requests with an Idempotency-Key whose owner is killed a moment after they were sent, and that are
//! repeated on another node while the first attempt may still be on its way: each has one effect, and
//! everybody who is answered is told of the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::jobs::NewJob;
use client::keys::NewKey;
use client::scan::Document;
use client::{Client, ClientError, Credential, Meta, Retry};
use futures::future::{join_all, try_join_all};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;

use super::{Guest, Run};
use crate::checks;
use crate::history::Tally;
use crate::live::{Live, READY_WITHIN};
use crate::workloads::is_unknown;

const NODES: usize = 3;
/// So many that every node owns the shards of some.
const TENANTS: usize = 16;
/// Requests under way at one kill.
pub(crate) const AT_ONCE: u32 = 25;
/// From the sending to the kill.
const KILL_AFTER_US: u64 = 20_000;
const DOCUMENTS: u64 = 2;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Senders of one request at the same time.
const CROWD: usize = 50;
const CROWDS: u32 = 20;

#[derive(Default)]
struct Told {
    rounds: u32,
    kills: u32,
    first_answered: u32,
    retried: u32,
    attempts: u32,
    /// Of the retried ones, those that had been carried out.
    replayed: u32,
    effects: usize,
}

/// A tenant, what it asked for, and a client of each node.
struct Asker {
    guest: Guest,
    nodes: Vec<Client>,
    /// Keys by name, as they were told.
    keys: BTreeMap<String, String>,
    jobs: BTreeSet<String>,
    tally: Tally,
}

#[derive(Debug, Clone)]
enum Wish {
    Key(String),
    Job(String),
}

/// One request, to be sent with the same key however often.
#[derive(Debug, Clone)]
struct Request {
    wish: Wish,
    once: String,
}

/// What a request came to.
struct Settled {
    id: String,
    meta: Meta,
    attempts: u32,
}

pub(crate) async fn run(run: &Run, rounds: u32, at_once: u32) -> Result<()> {
    let mut live = Live::start(NODES, &[]).await?;
    let done = Box::pin(play(run, &mut live, rounds, at_once)).await;
    live.end(done, run.keep, run.report).await
}

async fn play(run: &Run, live: &mut Live, rounds: u32, at_once: u32) -> Result<()> {
    let began = Instant::now();
    let mut dice = StdRng::seed_from_u64(run.seed);
    let hires = (0..TENANTS).map(|number| Asker::hire(live, number));
    let mut askers = try_join_all(hires).await?;
    let mut told = Told::default();
    while told.rounds < rounds {
        let count = at_once.clamp(1, rounds - told.rounds);
        kill(live, &mut askers, count, &mut dice, &mut told)
            .await
            .with_context(|| format!("kill {}", told.kills + 1))?;
    }
    told.effects = effects(live, &askers).await?;
    let Told { rounds, kills, first_answered, retried, attempts, replayed, effects } = told;
    run.report.summary(&format!(
        "once: {rounds} requests under {kills} kills in {} s: {first_answered} were answered at first and again the \
         same, {retried} were not and were repeated {attempts} times, {replayed} of them had been carried out; \
         {effects} effects, 0 duplicates",
        began.elapsed().as_secs(),
    ));
    let crowds = if rounds >= AT_ONCE { CROWDS } else { 2 };
    crowd(run, &mut askers, crowds).await?;
    self::effects(live, &askers).await?;
    for Asker { guest, tally, .. } in &askers {
        checks::usage(&guest.client(live)?, tally).await?;
    }
    let busiest = askers.iter().max_by_key(|asker| asker.tally.requests.len());
    let Asker { guest, tally, .. } = busiest.context("no tenant")?;
    let books = guest.settle(live, tally, run.seed).await?;
    run.report.summary(&format!(
        "once: usage of {TENANTS} tenants is what they were told; of the busiest {books}"
    ));
    live.ensure_equal().await
}

/// One kill under so many requests.
async fn kill(
    live: &mut Live,
    askers: &mut [Asker],
    count: u32,
    dice: &mut StdRng,
    told: &mut Told,
) -> Result<()> {
    let owners = try_join_all(askers.iter().map(|asker| asker.guest.owner(live))).await?;
    let victim = owners[dice.random_range(0..owners.len())];
    let of_victim: Vec<_> = (0..askers.len()).filter(|&asker| owners[asker] == victim).collect();
    let (killed, death) = watch::channel(false);
    let sent = (0..count).map(|_| {
        let asker = of_victim[dice.random_range(0..of_victim.len())];
        let request = Request::of(dice.random());
        let (nodes, first) = (askers[asker].nodes.clone(), dice.random_range(0..NODES));
        let task = twice(nodes, request.clone(), first, death.clone());
        (asker, request, tokio::spawn(task))
    });
    let sent: Vec<_> = sent.collect();
    tokio::time::sleep(Duration::from_micros(dice.random_range(0..KILL_AFTER_US))).await;
    live.cluster.kill(victim).await?;
    killed.send_replace(true);
    told.kills += 1;
    let mut ended = Vec::new();
    for (asker, request, task) in sent {
        ended.push((asker, request, task.await?));
    }
    live.cluster.start(victim)?;
    live.cluster.wait_ready(victim, READY_WITHIN).await?;
    for (asker, request, settled) in ended {
        let (first, last) = settled.with_context(|| format!("{request:?}"))?;
        told.rounds += 1;
        match first {
            Some(first) => {
                told.first_answered += 1;
                askers[asker].tally.requests.extend(first.meta.request_id);
                ensure!(
                    first.id == last.id,
                    "{request:?}: {} at first, then {}",
                    first.id,
                    last.id
                );
                // Either may have come first, but not both.
                let twice = !first.meta.replayed && !last.meta.replayed;
                ensure!(!twice, "{request:?}: done twice as {}", last.id);
            }
            None => {
                told.retried += 1;
                told.attempts += last.attempts;
                told.replayed += u32::from(last.meta.replayed);
            }
        }
        askers[asker].note(&request, &last)?;
    }
    Ok(())
}

/// Sent once, and from the kill on again and again elsewhere until it is answered.
async fn twice(
    nodes: Vec<Client>,
    request: Request,
    node: usize,
    mut death: watch::Receiver<bool>,
) -> Result<(Option<Settled>, Settled)> {
    let first = request.send(&nodes[node]);
    let again = async {
        // An error means that the scenario has ended.
        death.wait_for(|dead| *dead).await?;
        request.settle(&nodes, node + 1).await
    };
    let (first, again) = tokio::join!(first, again);
    let first = match first {
        Ok(settled) => Some(settled),
        Err(failure) => {
            is_unknown(&failure)?;
            None
        }
    };
    Ok((first, again?))
}

/// What is there, in all, is what was told and nothing else.
async fn effects(live: &Live, askers: &[Asker]) -> Result<usize> {
    let found = join_all(askers.iter().map(|asker| asker.effects(live))).await;
    found.into_iter().sum()
}

/// Many send the same request at the same time, on all nodes.
async fn crowd(run: &Run, askers: &mut [Asker], times: u32) -> Result<()> {
    let (mut at_once, mut later) = (0, 0);
    for time in 0..times {
        let asker = &mut askers[time as usize % TENANTS];
        let request = Request::of(time % 2 == 0);
        let senders = (0..CROWD).map(|sender| request.settle(&asker.nodes, sender));
        let told = try_join_all(senders).await?;
        let done: Vec<_> = told.iter().filter(|settled| !settled.meta.replayed).collect();
        let ids: BTreeSet<_> = told.iter().map(|settled| &settled.id).collect();
        ensure!(done.len() == 1 && ids.len() == 1, "{request:?}: {} did it as {ids:?}", done.len());
        at_once += told.iter().filter(|settled| settled.attempts == 1).count();
        later += told.iter().filter(|settled| settled.attempts > 1).count();
        asker.note(&request, done[0])?;
    }
    run.report.summary(&format!(
        "once: {times} times {CROWD} at once on {NODES} nodes with one key: {times} effects, {at_once} answered at \
         once and {later} when they asked again",
    ));
    Ok(())
}

impl Request {
    fn of(wants_key: bool) -> Request {
        let name = client::fresh_key();
        let wish = if wants_key { Wish::Key(name) } else { Wish::Job(name) };
        Request { wish, once: client::fresh_key() }
    }

    async fn send(&self, node: &Client) -> Result<Settled, ClientError> {
        let (id, meta) = match &self.wish {
            Wish::Key(name) => {
                let wanted = NewKey { name: name.clone(), ..NewKey::default() };
                let made = node.create_key(&wanted, &self.once).await?;
                // The secret has to be the same, too.
                let id = format!("{} {:?}", made.body.key_id, made.body.api_key);
                (id, made.meta)
            }
            Wish::Job(name) => {
                let document = |i| Document::new(format!("d{i}"), format!("Note {i} of {name}."));
                let job = NewJob::scan((0..DOCUMENTS).map(document).collect());
                let made = node.submit_job(&job, &self.once).await?;
                (made.body.id, made.meta)
            }
        };
        Ok(Settled { id, meta, attempts: 1 })
    }

    /// Asks one node after the other, beginning with `node`, until it is answered.
    async fn settle(&self, nodes: &[Client], mut node: usize) -> Result<Settled> {
        let began = Instant::now();
        let mut attempts = 1;
        loop {
            let failure = match self.send(&nodes[node % nodes.len()]).await {
                Ok(settled) => return Ok(Settled { attempts, ..settled }),
                Err(failure) => failure,
            };
            is_unknown(&failure)?;
            let waited = began.elapsed();
            ensure!(waited < SETTLED_WITHIN, "not settled after {waited:?}: {failure}");
            attempts += 1;
            node += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Asker {
    async fn hire(live: &Live, number: usize) -> Result<Asker> {
        let guest = Guest::hire(live, &format!("once {number}"), &[]).await?;
        let of_node = |url: String| {
            let client = Client::new(vec![url], Credential::key(&guest.key))?;
            Ok::<_, ClientError>(client.with_retry(Retry::NEVER).with_timeout(ATTEMPT_TIMEOUT))
        };
        let nodes = live.cluster.urls().into_iter().map(of_node).collect::<Result<_, _>>()?;
        let (keys, jobs, tally) = (BTreeMap::new(), BTreeSet::new(), Tally::default());
        Ok(Asker { guest, nodes, keys, jobs, tally })
    }

    /// Two requests are never told of the same thing.
    fn note(&mut self, request: &Request, settled: &Settled) -> Result<()> {
        let is_new = match &request.wish {
            Wish::Key(name) => {
                self.tally.requests.extend(settled.meta.request_id.clone());
                let id = settled.id.split(' ').next().unwrap_or_default().to_owned();
                self.keys.insert(name.clone(), id).is_none()
            }
            Wish::Job(_) => {
                self.tally.ack(DOCUMENTS, &settled.meta);
                self.jobs.insert(settled.id.clone())
            }
        };
        ensure!(is_new, "{request:?} was told of {}, which is another's", settled.id);
        Ok(())
    }

    /// The number of keys and jobs that are there, each told of once.
    async fn effects(&self, live: &Live) -> Result<usize> {
        let client = self.guest.client(live)?;
        let mut keys = Vec::new();
        for row in checks::pages(&client, "/v1/keys").await? {
            let name = row["name"].as_str().unwrap_or_default().to_owned();
            keys.push((name, row["key_id"].to_string()));
        }
        // The tenant's own.
        keys.retain(|(name, _)| name != "default");
        let twice = keys.len() - keys.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len();
        let keys: BTreeMap<_, _> = keys.into_iter().collect();
        ensure!(twice == 0, "{twice} requests made two keys");
        ensure!(keys == self.keys, "keys {keys:?} instead of {:?}", self.keys);
        let jobs = checks::whole_jobs(&client).await?;
        ensure!(jobs == self.jobs, "jobs {jobs:?} instead of {:?}", self.jobs);
        Ok(keys.len() + jobs.len())
    }
}
