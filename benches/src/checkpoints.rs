//! What the state of one group costs on disk: all of it at first, then what changed; and how long a
//! replica takes to have it back. One process, no peers: this is the disk and the tables, not the network.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::future::try_join_all;
use protocol::keys::{self, KeyOverrides, NewKey, Scopes};
use protocol::owner::Epoch;
use protocol::{Command, Digest, GroupId, Name, Proposal, Stamp, TenantId};
use raft::node::Storage;
use raft::{Figures, Group, Host};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::replicas::process;
use crate::sample::median;
use crate::table::{Table, line, preamble};

const GROUP: GroupId = GroupId(1);
/// Writers at a time, so that many entries share a sync.
const WRITERS: u64 = 512;
const RAFT_THREADS: usize = 2;
const POLL: Duration = Duration::from_millis(5);
/// A later checkpoint may cost this share of the first, per share of the rows that changed, and this
/// much whatever changed.
const SHARE_MAX: f64 = 0.02;

/// How much to write.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Tenants of the group
    #[arg(long, default_value_t = 10_000)]
    tenants: u64,
    /// Keys of each
    #[arg(long, default_value_t = 100)]
    keys: u64,
    /// Tenants that get one more key each time
    #[arg(long, default_value_t = 500)]
    changed: u64,
    /// Checkpoints after the first
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds between two checkpoints; the first must not come before all rows are there
    #[arg(long, default_value_t = 100)]
    every_s: u64,
}

pub(crate) fn run(plan: &Plan) -> Result<()> {
    preamble("checkpoints: one group, one replica; rows that changed, and what writing them takes");
    let directory = tempfile::Builder::new().prefix("skep-bench-state-").tempdir()?;
    let runtime = runtime()?;
    let all = runtime.block_on(write_all(plan, directory.path()))?;
    runtime.shutdown_timeout(Duration::from_secs(10));

    let runtime = runtime_again(directory.path(), &all)?;
    runtime.shutdown_timeout(Duration::from_secs(10));
    // The median: what else syncs the disk at the moment is in one of them, not in most.
    let later = median(all.later.iter().map(|figures| figures.took.as_secs_f64()).collect());
    let bytes = all.later.iter().map(|figures| figures.bytes).max().context("no later one")?;
    let (time, share) =
        (later / all.first.took.as_secs_f64(), bytes as f64 / all.first.bytes as f64);
    line(&format!(
        "{:.2} % of the first one's time at the median, at most {:.2} % of its bytes",
        time * 100.0,
        share * 100.0
    ));
    ensure!(time <= SHARE_MAX && share <= SHARE_MAX, "more than {SHARE_MAX} of the first one");
    Ok(())
}

fn runtime() -> Result<Runtime> {
    let built = Builder::new_multi_thread().worker_threads(RAFT_THREADS).enable_all().build();
    built.context("threads")
}

/// What was written.
struct Written {
    rows: u64,
    first: Figures,
    later: Vec<Figures>,
}

async fn write_all(plan: &Plan, data: &Path) -> Result<Written> {
    let host = open(data, plan.every_s).await?;
    let group = host.group(GROUP).context("the group is not here")?;
    let epoch = owned(&group).await?;
    let begin = Instant::now();
    for_all(&group, plan.tenants, |tenant| (epoch, vec![process::new_tenant(id(tenant))])).await?;
    let key = |tenant: u64, number: u64| new_key(id(tenant), tenant * 1_000_000 + number);
    let keys = plan.keys;
    // The tenant's own is the first.
    for_all(&group, plan.tenants, |tenant| {
        (epoch, (1..keys).map(|number| key(tenant, number)).collect())
    })
    .await?;
    let took = begin.elapsed().as_secs_f64();
    let made = plan.tenants * keys;
    line(&format!("{made} keys of {} tenants made in {took:.1} s", plan.tenants));
    let first = next(&group, None).await?;
    // It may have begun before they were all there.
    ensure!(first.rows >= made, "a checkpoint came before the rows: --every-s is too small");
    let mut table = Table::new(&["checkpoint", "rows", "MiB", "ms"]);
    tell(&mut table, "all", &first);
    let (mut last, mut later) = (first, Vec::new());
    for round in 0..plan.rounds as u64 {
        let step = (plan.tenants / plan.changed).max(1);
        for_all(&group, plan.changed, |at| (epoch, vec![key(at * step, keys + round)])).await?;
        last = next(&group, Some(last.index)).await?;
        tell(&mut table, "changed", &last);
        later.push(last);
    }
    table.print();
    Ok(Written { rows: first.rows, first, later })
}

fn tell(table: &mut Table, what: &str, figures: &Figures) {
    let mib = figures.bytes as f64 / f64::from(1 << 20);
    let ms = figures.took.as_secs_f64() * 1e3;
    table.row(vec![
        what.to_owned(),
        figures.rows.to_string(),
        format!("{mib:.2}"),
        format!("{ms:.1}"),
    ]);
}

/// Opens what was written, as a node that starts does.
fn runtime_again(data: &Path, all: &Written) -> Result<Runtime> {
    let runtime = runtime()?;
    let begin = Instant::now();
    let host = runtime.block_on(open(data, u64::from(u32::MAX)))?;
    let group = host.group(GROUP).context("the group is not here")?;
    runtime.block_on(owned(&group))?;
    let took = begin.elapsed().as_secs_f64();
    line(&format!("{} rows are back and owned again in {took:.2} s", all.rows));
    Ok(runtime)
}

async fn open(data: &Path, every_s: u64) -> Result<Arc<Host>> {
    let every = Duration::from_secs(every_s);
    let storage = Storage { every, log_bytes: u64::MAX, ..Storage::at(data.to_owned()) };
    process::alone(storage).await
}

async fn owned(group: &Group) -> Result<Epoch> {
    let mut leadership = group.leadership();
    let seen = leadership.wait_for(|leadership| leadership.owned.is_some()).await?;
    Ok(seen.owned.context("nobody owns it")?.epoch)
}

/// The checkpoint after the one of this entry.
async fn next(group: &Group, before: Option<u64>) -> Result<Figures> {
    loop {
        if let Some(figures) = group.checkpoint().filter(|figures| Some(figures.index) != before) {
            return Ok(figures);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Proposes what is to be done for each number below `count`, and sees that it was done.
async fn for_all(
    group: &Group,
    count: u64,
    of: impl Fn(u64) -> (Epoch, Vec<Command>),
) -> Result<()> {
    let lanes = (0..WRITERS.min(count)).map(|lane| {
        let work: Vec<_> = (lane..count).step_by(WRITERS as usize).map(&of).collect();
        let group = group.clone();
        tokio::spawn(async move {
            for (epoch, commands) in work {
                for command in commands {
                    let proposal = Proposal::new(Stamp::at(process::wall()), command);
                    group.propose(epoch, proposal.encode()?).await?.outcome?;
                }
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for lane in try_join_all(lanes.collect::<Vec<_>>()).await? {
        lane?;
    }
    Ok(())
}

fn id(tenant: u64) -> TenantId {
    TenantId(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(tenant))
}

fn new_key(tenant: TenantId, number: u64) -> Command {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&(number + 1).to_be_bytes());
    let new = NewKey {
        name: Name::parse("bench").unwrap_or_else(|_| unreachable!("a name")),
        digest: Digest(digest),
        prefix: "sk_live_…0000".to_owned(),
        scopes: Scopes::all(),
        overrides: KeyOverrides::default(),
        expires_at: None,
    };
    Command::Key(tenant, keys::Command::Create(new))
}
