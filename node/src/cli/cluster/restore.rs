//! `skep cluster restore`.

use std::path::PathBuf;

use protocol::{BackupId, ClusterId};

use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::serve::pair;
use crate::config::{self, Sources};
use crate::restore::{self, RestoreError, Restored, Wanted};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The place of backups, as in the setting backup.to
    #[arg(long, env = "SKEP_FROM", value_name = "DIR|s3://BUCKET/PREFIX")]
    from: String,
    /// A file with settings, of which those of s3 are used
    #[arg(long, env = "SKEP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting, such as s3.endpoint=https://…
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    settings: Vec<(String, String)>,
    /// The backup; else the newest that is complete
    #[arg(long, env = "SKEP_BACKUP", value_name = "ID", value_parser = backup)]
    backup: Option<BackupId>,
    /// The cluster whose backup it is, where there are those of several
    #[arg(long, env = "SKEP_CLUSTER", value_name = "ID", value_parser = cluster)]
    cluster: Option<ClusterId>,
    /// Where the node is to keep everything: empty, or not there yet
    #[arg(long, env = "SKEP_DATA", value_name = "DIR")]
    data: PathBuf,
}

fn backup(text: &str) -> Result<BackupId, String> {
    BackupId::parse(text).map_err(|_| "the id of a backup is like bkp_…".to_owned())
}

fn cluster(text: &str) -> Result<ClusterId, String> {
    ClusterId::parse(text).map_err(|_| "the id of a cluster is like clu_…".to_owned())
}

pub(super) async fn run(args: Args, output: Output) -> Result<(), Failure> {
    let Args { from, config, settings, backup, cluster, data } = args;
    let environment = config::environment();
    let sources = Sources { file: config.as_deref(), environment, flags: settings };
    let from = config::place("--from", &from, &sources);
    let from = from.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let wanted = Wanted { from, backup, cluster };
    let restored = restore::restore(&wanted, &data).await.map_err(failure)?;
    if output.is_json() {
        return Ok(output.json(&restored)?);
    }
    let Restored { backup, from, cluster, node, groups, blobs, .. } = &restored;
    output.line(&format!("{backup} of {from} is {node} of the new cluster {cluster}"))?;
    let row = |group: &restore::Seated| {
        let (shard, index) = (group.shard.to_string(), group.index.to_string());
        vec![shard, index, group.rows.to_string(), group.digest.clone()]
    };
    output.table(&["SHARD", "AT ENTRY", "ROWS", "DIGEST"], groups.iter().map(row).collect())?;
    output.note(&format!("{blobs} blobs; start it with: skep serve --data {}", data.display()));
    Ok(())
}

fn failure(error: RestoreError) -> Failure {
    let exit = if error.is_refusal() { Exit::Refused } else { Exit::Failed };
    let prefix = if error.is_refusal() { "refused: " } else { "" };
    Failure::new(exit, format!("{prefix}{error}"))
}
