//! `skep limits`: the limits of a key and its tenant, and what they would say of a request.

use client::limits::{Explained, Limit};

use super::Context;
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What every limit would say of a request now; nothing is spent
    Explain {
        /// /v1/limits/check, /v1/scan, /v1/analyze or /v1/jobs
        route: String,
        /// Units of the check, or documents of the others
        #[arg(long, env = "SKEP_UNITS", value_name = "N", default_value_t = 1)]
        units: u64,
    },
}

pub(super) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    match args.command {
        None => print(&client.limits().await?.body.data, context.output),
        Some(Command::Explain { route, units }) => {
            let explained = client.explain_limits(&route, units).await?.body;
            print_explained(&explained, context.output)
        }
    }
}

fn print(limits: &[Limit], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(limits.iter().try_for_each(|limit| output.json(limit))?);
    }
    if limits.is_empty() {
        output.note("nothing is limited");
    }
    let rows = limits.iter().map(|limit| {
        vec![
            name(limit),
            limit.scope.clone(),
            most(limit),
            limit.used.to_string(),
            limit.reserved.to_string(),
            limit.remaining.to_string(),
            limit.reset_at.clone(),
        ]
    });
    let header = ["POLICY", "OF", "LIMIT", "USED", "RESERVED", "REMAINING", "RESETS"];
    Ok(output.table(&header, rows.collect())?)
}

fn print_explained(explained: &Explained, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(explained)?);
    }
    let rows = explained.rules.iter().map(|rule| {
        let allows = if rule.allows { "yes" } else { "no" };
        let limit = &rule.limit;
        let takes = rule.takes.to_string();
        vec![
            name(limit),
            limit.scope.clone(),
            most(limit),
            takes,
            allows.to_owned(),
            rule.why.clone(),
        ]
    });
    output.table(&["POLICY", "OF", "LIMIT", "TAKES", "ALLOWS", "WHY"], rows.collect())?;
    let Explained { route, units, allowed, .. } = explained;
    let verdict = if *allowed { "would be admitted" } else { "would be refused" };
    Ok(output.line(&format!("a request of {units} to {route} {verdict} now"))?)
}

fn name(limit: &Limit) -> String {
    let shadow = if limit.shadow { " (shadow)" } else { "" };
    format!("{}{shadow}", limit.policy)
}

/// The limit with what it is counted over.
fn most(limit: &Limit) -> String {
    let most = limit.limit;
    match (limit.policy.as_str(), limit.burst, limit.window_s) {
        (_, Some(burst), _) => format!("{most}/s, burst {burst}"),
        (_, None, Some(60)) => format!("{most}/minute"),
        (_, None, Some(86_400)) => format!("{most}/day"),
        (_, None, Some(window_s)) => format!("{most} in {window_s} s"),
        ("per_month", None, None) => format!("{most}/month"),
        ("budget", None, None) => format!("{most} cents/month"),
        ("concurrency", None, None) => format!("{most} at once"),
        (_, None, None) => most.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(policy: &str, burst: Option<u64>, window_s: Option<u64>) -> Limit {
        Limit {
            policy: policy.to_owned(),
            scope: "tenant".to_owned(),
            limit: 9,
            burst,
            window_s,
            used: 0,
            reserved: 0,
            remaining: 9,
            reset_at: String::new(),
            shadow: false,
        }
    }

    #[test]
    fn a_limit_says_what_it_is_counted_over() {
        let shown = [
            limit("rate", Some(18), None),
            limit("per_minute", None, Some(60)),
            limit("per_day", None, Some(86_400)),
            limit("per_month", None, None),
            limit("concurrency", None, None),
            limit("budget", None, None),
            limit("per_week", None, Some(604_800)),
            limit("new_one", None, None),
        ];
        let wanted = [
            "9/s, burst 18",
            "9/minute",
            "9/day",
            "9/month",
            "9 at once",
            "9 cents/month",
            "9 in 604800 s",
            "9",
        ];
        assert_eq!(shown.map(|limit| most(&limit)), wanted);
    }

    #[test]
    fn a_shadow_is_marked() {
        let shadow = Limit { shadow: true, ..limit("rate", None, None) };
        assert_eq!(name(&shadow), "rate (shadow)");
    }
}
