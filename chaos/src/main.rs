//! Faults against real clusters: nodes are killed while writers write, and what was acknowledged is
//! looked for afterwards. A claim that does not hold ends the run with its logs kept.

mod audit;
mod checks;
mod history;
mod live;
mod report;
mod scenarios;
mod trace;
mod walls;
mod wires;
mod workloads;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};
use node::cli::signals::stop_requested;

use report::Report;
use scenarios::{
    Run, concurrency, crash_all, crash_one, events, fair, fsync_order, grow, job_owner, month,
    move_kills, once, rate, revoke, rolling, uneven,
};

/// The figures of the continuous build, which has minutes.
const SHORT: Rounds = Rounds {
    crash_one: 6,
    crash_all: 2,
    job_owner: 1,
    rate_s: 8,
    month_units: 1_000,
    revoke: 40,
    once: 10,
    concurrency_s: 6,
    events: 10,
    uneven_s: 20,
    fair: Fair { tasks: 4_000, secs: 20 },
    // Takes minutes, and its bounds are those of an optimised build.
    members: None,
};
/// Seconds of load after each change of the number of nodes.
const GROW_S: u64 = 60;
/// What fairness is shown with.
const FAIR: Fair = Fair { tasks: 100_000, secs: 60 };
/// Moves of a replica in which nodes die.
const MOVE_KILLS: u32 = 9;
/// The figures that a release is held to.
const FULL: Rounds = Rounds {
    crash_one: 100,
    crash_all: 20,
    job_owner: 20,
    rate_s: 60,
    month_units: 10_000,
    revoke: 2_000,
    once: 500,
    concurrency_s: 60,
    events: 100,
    uneven_s: 30,
    fair: FAIR,
    members: Some(Members { grow_s: GROW_S, move_kills: MOVE_KILLS }),
};

/// Kill nodes, then look for what was acknowledged
#[derive(Debug, Parser)]
#[command(name = "chaos", arg_required_else_help = true)]
struct Arguments {
    /// Decides victims, moments and writes; the same again with the same number
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Only summaries
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Keep the directory of the cluster also when every claim held
    #[arg(long, global = true)]
    keep: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Kill -9 of a random node during writes on all shards
    CrashOne {
        #[arg(long, default_value_t = FULL.crash_one)]
        rounds: u32,
    },
    /// Kill -9 of all nodes at once during writes on all shards
    CrashAll {
        #[arg(long, default_value_t = FULL.crash_all)]
        rounds: u32,
    },
    /// Kill -9 of the owner of a job of 1,000 documents
    JobOwner {
        #[arg(long, default_value_t = FULL.job_owner)]
        rounds: u32,
    },
    /// A rate is hammered on all nodes during a fault: in no interval is too much admitted
    Rate {
        /// Of which kind; all of them by default
        #[arg(long)]
        fault: Option<rate::Fault>,
        #[arg(long, default_value_t = FULL.rate_s)]
        secs: u64,
    },
    /// A month's units are spent by 50 clients under kills: spent once, never beyond the limit
    Month {
        #[arg(long, default_value_t = FULL.month_units)]
        units: u64,
    },
    /// Keys are revoked, tenants suspended and resumed: nothing acknowledged is seen otherwise
    Revoke {
        #[arg(long)]
        fault: Option<revoke::Fault>,
        #[arg(long, default_value_t = FULL.revoke)]
        rounds: u32,
    },
    /// Requests are repeated with their key after the kill of the owner: each has one effect
    Once {
        #[arg(long, default_value_t = FULL.once)]
        rounds: u32,
        /// Requests under way at one kill
        #[arg(long, default_value_t = once::AT_ONCE)]
        at_once: u32,
    },
    /// Scans by many clients under kills: never more at the same time than the tenant may
    Concurrency {
        #[arg(long, default_value_t = FULL.concurrency_s)]
        secs: u64,
    },
    /// Streams of events are cut and go on at other nodes, while jobs run and nodes die
    Events {
        #[arg(long, default_value_t = FULL.events)]
        cuts: u32,
    },
    /// A node ten times as slow gets work by its speed; one that hangs or dies takes none with it
    Uneven {
        #[arg(long, default_value_t = FULL.uneven_s)]
        secs: u64,
    },
    /// A tenant with one task a second beside another that has more queued than it can have done
    Fair {
        #[arg(long, default_value_t = FAIR.tasks)]
        tasks: u64,
        #[arg(long, default_value_t = FAIR.secs)]
        secs: u64,
    },
    /// 1, 3, 5 and again 3 nodes under a steady load of clients that retry once
    Grow {
        #[arg(long, default_value_t = GROW_S)]
        secs: u64,
    },
    /// A rolling restart of all nodes under the same load
    Rolling,
    /// Nodes die at every step of a replica's move
    MoveKills {
        #[arg(long, default_value_t = MOVE_KILLS)]
        rounds: u32,
    },
    /// Every acknowledgement follows a completed sync of its records, seen by strace
    FsyncOrder,
    /// All of them, briefly
    Short,
    /// All of them, with the figures that a release is held to
    Full,
}

struct Rounds {
    crash_one: u32,
    crash_all: u32,
    job_owner: u32,
    rate_s: u64,
    month_units: u64,
    revoke: u32,
    once: u32,
    concurrency_s: u64,
    events: u32,
    uneven_s: u64,
    fair: Fair,
    members: Option<Members>,
}

struct Fair {
    /// Of the busy tenant, queued.
    tasks: u64,
    /// As many jobs of the other one.
    secs: u64,
}

/// Rounds in which nodes come, rest and go.
struct Members {
    /// How long the load goes on after each change.
    grow_s: u64,
    move_kills: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = Report::new(arguments.quiet);
    let seed = arguments.seed.unwrap_or_else(rand::random);
    report.summary(&format!("seed {seed}"));
    let run = Run { seed, report, keep: arguments.keep };
    let told = tokio::select! {
        told = tell(&run, arguments.command) => told,
        // The processes that were started end as this goes.
        signal = stop_requested() => match signal {
            Ok(signal) => Err(anyhow!("ended by {signal}")),
            Err(error) => Err(error.into()),
        },
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report.summary(&format!("FAILED (seed {seed}): {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn tell(run: &Run, command: Command) -> Result<()> {
    match command {
        Command::CrashOne { rounds } => crash_one::run(run, rounds).await,
        Command::CrashAll { rounds } => crash_all::run(run, rounds).await,
        Command::JobOwner { rounds } => job_owner::run(run, rounds).await,
        Command::Rate { fault, secs } => rate::run(run, fault, secs).await,
        Command::Month { units } => month::run(run, units).await,
        Command::Revoke { fault, rounds } => revoke::run(run, fault, rounds).await,
        Command::Once { rounds, at_once } => once::run(run, rounds, at_once).await,
        Command::Concurrency { secs } => concurrency::run(run, secs).await,
        Command::Events { cuts } => events::run(run, cuts).await,
        Command::Uneven { secs } => uneven::run(run, secs).await,
        Command::Fair { tasks, secs } => fair::run(run, tasks, secs).await,
        Command::Grow { secs } => grow::run(run, secs).await,
        Command::Rolling => rolling::run(run).await,
        Command::MoveKills { rounds } => move_kills::run(run, rounds).await,
        Command::FsyncOrder => fsync_order::run(run).await,
        Command::Short => all(run, SHORT).await,
        Command::Full => all(run, FULL).await,
    }
}

async fn all(run: &Run, rounds: Rounds) -> Result<()> {
    crash_one::run(run, rounds.crash_one).await?;
    crash_all::run(run, rounds.crash_all).await?;
    job_owner::run(run, rounds.job_owner).await?;
    rate::run(run, None, rounds.rate_s).await?;
    month::run(run, rounds.month_units).await?;
    revoke::run(run, None, rounds.revoke).await?;
    once::run(run, rounds.once, once::AT_ONCE).await?;
    concurrency::run(run, rounds.concurrency_s).await?;
    events::run(run, rounds.events).await?;
    uneven::run(run, rounds.uneven_s).await?;
    fair::run(run, rounds.fair.tasks, rounds.fair.secs).await?;
    if let Some(Members { grow_s, move_kills }) = rounds.members {
        grow::run(run, grow_s).await?;
        rolling::run(run).await?;
        move_kills::run(run, move_kills).await?;
    }
    fsync_order::run(run).await
}
