//! `skep cluster backup` and `backups`.

use std::time::{Duration, Instant};

use client::Client;
use client::backups::Backup;

use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Output;

/// How often a backup is looked at that is waited for.
const POLL_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Return when it is complete
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, env = "SKEP_WAIT_S", value_name = "SECONDS", default_value_t = 3600)]
    wait_s: u64,
}

pub(super) async fn begin(args: &Args, client: &Client, output: Output) -> Result<(), Failure> {
    let begun = client.begin_backup(&client::fresh_key()).await?;
    output.detail(&format!("{:?}", begun.meta));
    if !args.wait {
        if output.is_json() {
            return Ok(output.json(&begun.body)?);
        }
        return Ok(output.line(&begun.body.id)?);
    }
    let deadline = Instant::now() + Duration::from_secs(args.wait_s);
    loop {
        let backup = client.backup(&begun.body.id).await?.body;
        if backup.is_over() {
            return show(&backup, output);
        }
        if Instant::now() >= deadline {
            let what = format!("{} is not complete after {} s", backup.id, args.wait_s);
            return Err(Failure::new(Exit::Unavailable, what));
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

fn show(backup: &Backup, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        output.json(backup)?;
    } else {
        output.table(&HEADER, vec![row(backup)])?;
    }
    if backup.state == "complete" {
        return Ok(());
    }
    let reason = backup.reason.as_deref().unwrap_or_default();
    Err(Failure::failed(format!("{} is {}: {reason}", backup.id, backup.state)))
}

pub(super) async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let backups = client.backups().await?.body;
    if output.is_json() {
        return Ok(output.json(&backups)?);
    }
    Ok(output.table(&HEADER, backups.data.iter().map(row).collect())?)
}

const HEADER: [&str; 7] = ["BACKUP", "STATE", "STARTED", "BYTES", "BLOBS", "NODE", "REASON"];

fn row(backup: &Backup) -> Vec<String> {
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    vec![
        backup.id.clone(),
        backup.state.clone(),
        backup.started_at.clone(),
        number(backup.bytes),
        number(backup.blobs),
        backup.node.clone().unwrap_or_default(),
        backup.reason.clone().unwrap_or_default(),
    ]
}
