//! `skep doctor`: is this machine fit for a node, is its directory sound, is the cluster well. Looks
//! only: the one file that it writes, to measure the disk, is gone when it ends.

use std::path::PathBuf;

use serde::Serialize;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Output;
use crate::config::{self, Config, Sources};

mod clock;
mod cluster;
mod directory;
mod disk;
mod machine;

/// What is looked at besides the cluster behind `--node`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A node's data directory, or where it is going to be
    #[arg(long, env = "SKEP_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The settings of the node
    #[arg(long, env = "SKEP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where its clients are to connect
    #[arg(long, env = "SKEP_HTTP", value_name = "ADDR")]
    http: Option<String>,
    /// Where other nodes are to connect
    #[arg(long, env = "SKEP_PEER", value_name = "ADDR")]
    peer: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
    /// It could not be looked at.
    Skip,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        }
    }
}

/// One check: what was found, what it is held against, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    bound: String,
    /// Empty where there is nothing to do.
    advice: String,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        let (bound, advice) = (String::new(), String::new());
        Self { check, verdict, found: found.into(), bound, advice }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, found)
    }

    fn warn(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warn, found)
    }

    fn fail(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail, found)
    }

    fn skip(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skip, found)
    }

    fn bound(self, bound: impl Into<String>) -> Self {
        Self { bound: bound.into(), ..self }
    }

    /// Told only where something is to be done.
    fn advice(self, advice: impl Into<String>) -> Self {
        if self.verdict == Verdict::Ok { self } else { Self { advice: advice.into(), ..self } }
    }
}

/// The larger, the worse: `Fail` beyond one bound, `Warn` beyond the other.
fn grade<T: PartialOrd>(got: T, warn_above: T, fail_above: T) -> Verdict {
    if got > fail_above {
        Verdict::Fail
    } else if got > warn_above {
        Verdict::Warn
    } else {
        Verdict::Ok
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let config = config_of(&args)?;
    let mut findings = machine::check(&config);
    let clocks = clock::Clocks::start();
    if let Some(data) = &args.data {
        findings.extend(directory::check(data));
        findings.extend(disk::check(data).await);
    }
    findings.extend(clocks.check().await);
    findings.extend(machine::ports(&config, args.data.as_deref()).await);
    findings.extend(cluster::check(context).await);
    show(&findings, context.output)?;
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{failed} of {} checks failed", findings.len())))
}

fn config_of(args: &Args) -> Result<Config, Failure> {
    let named = [("node.http", &args.http), ("node.peer", &args.peer)];
    let flags = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
    let environment = config::environment();
    let sources = Sources { file: args.config.as_deref(), environment, flags: flags.collect() };
    config::load(&sources).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

fn show(findings: &[Finding], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&serde_json::json!({"checks": findings}))?);
    }
    let row = |finding: &Finding| {
        let Finding { check, verdict, found, bound, advice } = finding;
        let verdict = verdict.name().to_owned();
        vec![(*check).to_owned(), verdict, found.clone(), bound.clone(), advice.clone()]
    };
    let header = ["CHECK", "IS", "FOUND", "BOUND", "DO"];
    Ok(output.table(&header, findings.iter().map(row).collect())?)
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_held_against_two_bounds() {
        assert_eq!(
            [1, 2, 3, 4].map(|got| grade(got, 2, 3)),
            [Verdict::Ok, Verdict::Ok, Verdict::Warn, Verdict::Fail]
        );
        assert_eq!(Finding::ok("x", "y").advice("z").advice, "");
        assert_eq!(Finding::warn("x", "y").advice("z").advice, "z");
    }

    #[test]
    fn sizes_are_told_in_the_largest_unit_that_fits() {
        let told = [0, 1023, 1024, 3 << 20, 5 << 29].map(size);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "3.0 MiB", "2.5 GiB"]);
    }
}
