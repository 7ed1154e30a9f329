//! `skep cluster`: the cluster as one of its nodes sees it.

use client::cluster::{NodeChange, Plan};

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Output;

mod backup;
pub(super) mod problems;
mod restore;
mod rolling;
mod status;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What is wrong, then nodes and shards, their leaders, replicas and moves
    Status,
    /// Let a node lead nothing and give it nothing new; its replicas stay
    Drain {
        /// The node, such as n2
        #[arg(id = "which", value_name = "NODE")]
        node: String,
    },
    /// Take a drain back
    Undrain {
        /// The node, such as n2
        #[arg(id = "which", value_name = "NODE")]
        node: String,
    },
    /// Move everything away from a node, then take it out of the cluster; its process ends
    Remove {
        /// The node, such as n2
        #[arg(id = "which", value_name = "NODE")]
        node: String,
    },
    /// Let another node lead a shard
    Transfer {
        /// The shard; 0 is the meta group
        shard: String,
        /// The node that is to lead, such as n2
        #[arg(long, env = "SKEP_TO", value_name = "NODE")]
        to: String,
    },
    /// Even out replicas and leaders, whatever was transferred by hand
    Rebalance {
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Back up the whole cluster to the place that its nodes are set to
    Backup(backup::Args),
    /// The newest backups
    Backups,
    /// Make a data directory out of a backup: that of the first node of a new cluster. Offline.
    Restore(restore::Args),
    /// Stop nodes in order and start them again with their own commands
    Restart {
        /// One after the other, each when all are whole again
        #[arg(long, required = true)]
        rolling: bool,
    },
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    if let Command::Restore(args) = command {
        return restore::run(args, context.output).await;
    }
    let (client, output) = (context.client()?, context.output);
    match command {
        Command::Status => {
            let view = client.cluster().await?;
            output.detail(&format!("{:?}", view.meta));
            status::show(&view.body, output)
        }
        Command::Drain { node } => changed(&client.drain_node(&node).await?.body, output),
        Command::Undrain { node } => changed(&client.undrain_node(&node).await?.body, output),
        Command::Remove { node } => changed(&client.remove_node(&node).await?.body, output),
        Command::Transfer { shard, to } => {
            let transfer = client.transfer_shard(&shard, &to).await?.body;
            if output.is_json() {
                return Ok(output.json(&transfer)?);
            }
            Ok(output.line(&format!("shard {} goes to {}", transfer.shard, transfer.to))?)
        }
        Command::Rebalance { dry_run: true } => {
            planned(&client.plan_of_placement().await?.body, output)
        }
        Command::Rebalance { dry_run: false } => planned(&client.rebalance().await?.body, output),
        Command::Backup(args) => backup::begin(&args, &client, output).await,
        Command::Backups => backup::list(&client, output).await,
        Command::Restore(_) => unreachable!("it needs no cluster, and was done above"),
        Command::Restart { rolling: true } => rolling::run(context).await,
        Command::Restart { rolling: false } => {
            Err(Failure::new(Exit::Usage, "only a rolling restart keeps the cluster available"))
        }
    }
}

fn changed(change: &NodeChange, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(change)?);
    }
    Ok(output.line(&format!("{} is {}", change.id, change.state))?)
}

fn planned(plan: &Plan, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(plan)?);
    }
    if plan.changes.is_empty() {
        return Ok(output.line("nothing to do")?);
    }
    let row = |change: &client::cluster::PlannedChange| {
        vec![change.shard.clone().unwrap_or_default(), change.change.clone(), change.node.clone()]
    };
    Ok(output.table(&["SHARD", "CHANGE", "NODE"], plan.changes.iter().map(row).collect())?)
}
