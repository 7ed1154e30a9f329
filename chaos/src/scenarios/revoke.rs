//! What was acknowledged as revoked or suspended is refused everywhere at once, also by a node that
//! slept through it or was cut off from those who know.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use client::keys::NewKey;
use client::tenants::Deleted;
use client::{Call, Client, ClientError, Credential, Retry};
use futures::future::try_join_all;
use node::cli::launch::{Probe, until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Guest, Run};
use crate::live::Live;
use crate::wires::Cut;

const NODES: usize = 3;
/// What a node may know without asking ends after this.
const LEASE: Duration = Duration::from_secs(2);
/// For a machine that runs all nodes and their clients.
const SCHEDULING: Duration = Duration::from_millis(600);
/// A node that sleeps takes a lease each time, and one that is cut off an election: beyond so many times
/// more keys are revoked each time.
const FAULTS_MAX: u32 = 25;
const CUT_ROUNDS_ONE_OF: u32 = 20;
/// How often a node that is cut off is asked from the acknowledgement on, at least; and for how long.
const CUT_LOOKS: u32 = 40;
const CUT_LOOK_FOR: Duration = Duration::from_secs(1);
const CUT_TIMEOUT: Duration = Duration::from_secs(3);
/// Who waits for a new owner asks again this often.
const AGAIN: Retry = Retry {
    tries_max: 600,
    deadline: Duration::from_secs(15),
    pause: Duration::from_millis(25),
    pause_max: Duration::from_millis(25),
};
const HEALTHY_P99: Duration = Duration::from_millis(50);
/// A node that slept through an election may need one.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// What happens meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// Nothing
    None,
    /// SIGSTOP of a node that knows the key, until after the acknowledgement
    Stop,
    /// A node that knows the key is cut off from its peers until after the acknowledgement
    Cut,
}

pub(crate) async fn run(run: &Run, fault: Option<Fault>, rounds: u32) -> Result<()> {
    if fault != Some(Fault::Cut) {
        let live = Live::start(NODES, &[]).await?;
        let done = Box::pin(play(run, &live, fault, rounds)).await;
        live.end(done, run.keep, run.report).await?;
    }
    if fault.is_none_or(|fault| fault == Fault::Cut) {
        // Among all the others they are few.
        let rounds = if fault.is_some() { rounds } else { rounds / CUT_ROUNDS_ONE_OF };
        let live = Live::start_wired(NODES).await?;
        let done = Box::pin(cut_off(run, &live, rounds.max(1))).await;
        live.end(done, run.keep, run.report).await?;
    }
    Ok(())
}

async fn play(run: &Run, live: &Live, fault: Option<Fault>, rounds: u32) -> Result<()> {
    let guest = Guest::hire(live, "revoke", &[]).await?;
    if fault.is_none_or(|fault| fault == Fault::None) {
        healthy(run, live, &guest, rounds).await?;
    }
    if fault.is_none_or(|fault| fault == Fault::Stop) {
        frozen(run, live, &guest, rounds).await?;
    }
    live.ensure_equal().await
}

async fn healthy(run: &Run, live: &Live, guest: &Guest, rounds: u32) -> Result<()> {
    let mut dice = StdRng::seed_from_u64(run.seed);
    let mut times = Vec::new();
    for number in 1..=rounds {
        let through = dice.random_range(0..NODES);
        let took = round(live, guest, through).await;
        times.push(took.with_context(|| format!("round {number} of {rounds}"))?);
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    run.report.summary(&format!(
        "revoke: {rounds} rounds, 0 accepted after the acknowledgement on {NODES} nodes; it took p50 {:?}, p99 {:?}, \
         max {:?}",
        at(50),
        at(99),
        at(100),
    ));
    let warm = rounds >= 100;
    ensure!(!warm || at(99) <= HEALTHY_P99, "p99 of a revocation is {:?}", at(99));
    let mut suspensions = 0;
    while suspensions < rounds.div_ceil(20) {
        suspend(live, guest, suspensions as usize % NODES).await?;
        suspensions += 1;
    }
    run.report.summary(&format!(
        "suspend and resume: {suspensions} rounds, each in force on all nodes at once"
    ));
    Ok(())
}

async fn round(live: &Live, guest: &Guest, through: usize) -> Result<Duration> {
    let (id, key) = warm_key(live, guest).await?;
    let took = revoke(live, guest, through, id).await?;
    for node in 0..NODES {
        ensure_refused(live, node, &key).await?;
    }
    Ok(took)
}

/// A key that every node knows.
async fn warm_key(live: &Live, guest: &Guest) -> Result<(u64, String)> {
    let own = Client::new(live.cluster.urls(), Credential::key(&guest.key))?;
    let wanted = NewKey { name: "short lived".to_owned(), ..NewKey::default() };
    let made = own.create_key(&wanted, &client::fresh_key()).await?.body;
    let key = made.api_key.context("a new key came without its text")?;
    for node in 0..NODES {
        let checked = of_node(live, node, &key)?.check_limits(one(), None).await;
        checked.with_context(|| format!("node {node} with a new key"))?;
    }
    Ok((made.key_id, key))
}

fn one() -> client::limits::Check<'static> {
    client::limits::Check { units: 1, policy: None }
}

/// Keys that every node knows.
async fn warm_keys(live: &Live, guest: &Guest, count: u32) -> Result<Vec<(u64, String)>> {
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(warm_key(live, guest).await?);
    }
    Ok(keys)
}

/// How often a fault is played, and how many keys are revoked each time.
fn in_faults(rounds: u32) -> (u32, u32) {
    let faults = rounds.clamp(1, FAULTS_MAX);
    (faults, rounds.div_ceil(faults))
}

/// Revokes all of them at once; how long the slowest took.
async fn revoke_all(
    live: &Live,
    guest: &Guest,
    through: usize,
    keys: &[(u64, String)],
) -> Result<Duration> {
    let revoked = keys.iter().map(|(id, _)| revoke(live, guest, through, *id));
    Ok(longest(&try_join_all(revoked).await?))
}

async fn revoke(live: &Live, guest: &Guest, through: usize, id: u64) -> Result<Duration> {
    let client = of_node(live, through, &guest.key)?.with_retry(AGAIN);
    // With a key, because an owner that is cut off leaves the first attempt unknown.
    let call = Call::delete("/v1/keys").segment(id.to_string());
    let call = call.idempotency_key(client::fresh_key());
    let began = Instant::now();
    let _: client::Answer<Deleted> = client.json(call).await?;
    Ok(began.elapsed())
}

/// Refused with 401; a node that has no owner to ask may say so first, but never yes.
async fn ensure_refused(live: &Live, node: usize, key: &str) -> Result<()> {
    let client = of_node(live, node, key)?;
    until("the refusal of a revoked key", REFUSED_WITHIN, async || {
        Ok(match client.check_limits(one(), None).await {
            Err(ClientError::Problem(problem)) if problem.status == 401 => Probe::Done(Ok(())),
            Err(ClientError::Problem(problem)) if problem.status >= 500 => {
                Probe::NotYet(problem.detail)
            }
            other => Probe::Done(Err(anyhow!("node {node} took a revoked key: {other:?}"))),
        })
    })
    .await?
}

/// A node that knows the keys sleeps while they are revoked through another, and is asked as soon as it
/// wakes.
async fn frozen(run: &Run, live: &Live, guest: &Guest, rounds: u32) -> Result<()> {
    let (faults, count) = in_faults(rounds);
    let mut worst = Duration::ZERO;
    let mut dice = StdRng::seed_from_u64(run.seed);
    for number in 1..=faults {
        let owner = guest.owner(live).await?;
        // The owner itself would have to be replaced first; that is another scenario.
        let sleeper = (owner + dice.random_range(1..NODES)) % NODES;
        let through = (0..NODES).find(|&node| node != sleeper).context("no node left")?;
        let keys = warm_keys(live, guest, count).await?;
        live.cluster.freeze(sleeper);
        let took = revoke_all(live, guest, through, &keys).await;
        live.cluster.thaw(sleeper);
        let took = took.with_context(|| format!("round {number} of {faults}"))?;
        worst = worst.max(took);
        try_join_all(keys.iter().map(async |(_, key)| {
            ensure_refused(live, sleeper, key).await?;
            ensure_refused(live, through, key).await
        }))
        .await?;
    }
    run.report.summary(&format!(
        "revoke beside a node that sleeps: {} keys in {faults} rounds, 0 accepted after it woke; the longest \
         took {worst:?}",
        faults * count,
    ));
    ensure!(worst <= LEASE + SCHEDULING, "a revocation took {worst:?}");
    Ok(())
}

/// A node that knows the keys, the owner or another one, is cut off while they are revoked through
/// another, and is asked from the acknowledgement on.
async fn cut_off(run: &Run, live: &Live, rounds: u32) -> Result<()> {
    let guest = Guest::hire(live, "revoke", &[]).await?;
    let (faults, count) = in_faults(rounds);
    let mut dice = StdRng::seed_from_u64(run.seed);
    // Of holders, and of owners.
    let mut times = [Vec::new(), Vec::new()];
    let mut hung = 0;
    for number in 1..=faults {
        let owner = guest.owner(live).await?;
        let victim = dice.random_range(0..NODES);
        let kind = if dice.random() { Cut::Silent } else { Cut::Broken };
        let what =
            format!("round {number} of {faults}: {kind:?} cut of node {victim}, owner {owner}");
        let keys = warm_keys(live, &guest, count).await?;
        live.wires()?.cut(victim, kind);
        let took = revoke_all(live, &guest, (victim + 1) % NODES, &keys).await;
        let took = took.with_context(|| what.clone())?;
        hung += ensure_never(live, victim, &keys).await.with_context(|| what.clone())?;
        live.wires()?.heal(victim)?;
        for node in 0..NODES {
            let refused = keys.iter().map(|(_, key)| ensure_refused(live, node, key));
            try_join_all(refused).await.with_context(|| what.clone())?;
        }
        times[usize::from(victim == owner)].push(took);
        run.report.line(&format!("{what}: {count} keys revoked after {took:?}"));
    }
    run.report.summary(&format!(
        "revoke beside a node that is cut off: {} keys in {faults} rounds, {} of them with the owner, 0 of {} \
         requests there accepted from the acknowledgement on ({hung} not answered in {CUT_TIMEOUT:?}); the \
         longest took {:?} with another node and {:?} with the owner",
        faults * count,
        times[1].len(),
        faults * CUT_LOOKS.max(count),
        longest(&times[0]),
        longest(&times[1]),
    ));
    let worst = longest(&times.concat());
    ensure!(worst <= LEASE + SCHEDULING, "a revocation took {worst:?}");
    live.ensure_equal().await
}

fn longest(times: &[Duration]) -> Duration {
    times.iter().copied().max().unwrap_or_default()
}

/// Asks a node that is cut off again and again, with every key: it refuses, or finds nobody to ask. Gives
/// how many were not answered in time.
async fn ensure_never(live: &Live, node: usize, keys: &[(u64, String)]) -> Result<u32> {
    let looks = CUT_LOOKS.max(keys.len() as u32);
    let looked = (0..looks).zip(keys.iter().cycle()).map(async |(look, (_, key))| {
        tokio::time::sleep(CUT_LOOK_FOR * look / looks).await;
        let client = of_node(live, node, key)?.with_timeout(CUT_TIMEOUT);
        match client.check_limits(one(), None).await {
            Err(ClientError::Problem(problem)) if [401, 503].contains(&problem.status) => Ok(0),
            Err(ClientError::Transport { source, .. }) if source.is_timeout() => Ok(1),
            other => bail!("node {node} took a revoked key: {other:?}"),
        }
    });
    Ok(try_join_all(looked).await?.into_iter().sum())
}

async fn suspend(live: &Live, guest: &Guest, through: usize) -> Result<()> {
    for (verb, wanted) in [("suspend", 403), ("resume", 200)] {
        let call = Call::post("/v1/tenants").segment(&guest.id).segment(verb);
        let call = call.json(&serde_json::json!({}))?.idempotency_key(client::fresh_key());
        let _: client::Answer<serde_json::Value> =
            live.cluster.admin_of(through)?.with_retry(Retry::PATIENT).json(call).await?;
        for node in 0..NODES {
            let found = match of_node(live, node, &guest.key)?.check_limits(one(), None).await {
                Ok(_) => 200,
                Err(ClientError::Problem(problem)) => problem.status,
                Err(error) => return Err(error.into()),
            };
            ensure!(found == wanted, "node {node} answers {found} after {verb}");
        }
    }
    Ok(())
}

fn of_node(live: &Live, node: usize, key: &str) -> Result<Client> {
    let client = Client::new(vec![live.cluster.url(node)], Credential::key(key))?;
    Ok(client.with_retry(Retry::NEVER).with_timeout(ATTEMPT_TIMEOUT))
}
