//! The command line: one binary, subcommands. This file lists them; each does its work in its own.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use actors::inference::worker;
use clap::{ArgAction, Args, Parser, Subcommand};
use client::{Client, Credential};

pub mod config;
pub mod demo;
pub mod failure;
pub mod launch;
pub mod output;
pub mod serve;
pub mod signals;

mod audit;
mod cluster;
mod completions;
mod dev;
mod doctor;
mod init;
mod input;
mod job;
mod key;
mod limits;
mod model;
mod plan;
mod scan;
mod tenant;
mod terms;

use failure::{Exit, Failure};
use output::{Format, Output};

/// The node that commands talk to when none is named.
const NODE: &str = "http://127.0.0.1:7700";

/// A document firewall as one binary: tenants, jobs, inference, usage, replicated.
#[derive(Debug, Parser)]
#[command(name = "skep", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// How results are printed [default: a table on a terminal, else JSON]
    #[arg(short, long, global = true, env = "SKEP_OUTPUT", value_name = "FORMAT")]
    output: Option<Format>,
    /// A node to talk to, `http://127.0.0.1:7700` if none is named; several, separated by commas,
    /// are tried in turn
    #[arg(
        long,
        global = true,
        visible_alias = "url",
        env = "SKEP_NODE",
        value_name = "URL",
        value_delimiter = ','
    )]
    node: Vec<String>,
    /// A file that holds the key, `-` for stdin; without it the variable `SKEP_KEY` is used
    #[arg(long, global = true, env = "SKEP_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The tenant that an operator's key acts for
    #[arg(long, global = true, env = "SKEP_TENANT", value_name = "ID")]
    tenant: Option<String>,
    /// Print results only
    #[arg(short, long, global = true, env = "SKEP_QUIET")]
    quiet: bool,
    /// Say more on stderr
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a local cluster of real processes
    Dev(dev::Args),
    /// Run a node
    Serve(serve::Args),
    /// Make the first operator key, once, on the node's own machine
    Init,
    /// Scan files or stdin
    Scan(scan::Args),
    /// Submit jobs and read their results
    #[command(subcommand)]
    Job(job::Command),
    /// Manage tenants (operator)
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Manage keys
    #[command(subcommand)]
    Key(key::Command),
    /// Manage plans (operator)
    #[command(subcommand)]
    Plan(plan::Command),
    /// Show the limits of a key, and explain them
    Limits(limits::Args),
    /// Export and verify the audit of a tenant or of the cluster
    #[command(subcommand)]
    Audit(audit::Command),
    /// Look at the cluster and change it (operator)
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Say whether this machine, a data directory and the cluster are well
    Doctor(doctor::Args),
    /// Manage models (operator), and judge the built-in one
    #[command(subcommand)]
    Model(model::Command),
    /// Scripted proofs on a throw-away cluster
    #[command(subcommand)]
    Demo(demo::Command),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// The process of a model: nodes run it
    #[command(hide = true)]
    ModelWorker,
    /// Print a completion script
    Completions(completions::Args),
}

/// What every command that talks to a cluster needs.
pub(crate) struct Context {
    global: Global,
    output: Output,
}

/// Runs the command and reports how it ended.
pub async fn run(cli: Cli) -> ExitCode {
    let Global { output, quiet, verbose, .. } = cli.global;
    let output = Output::new(output, quiet, verbose > 0);
    let context = Context { global: cli.global, output };
    match dispatch(cli.command, &context).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Dev(args) => dev::run(args, context.output).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Init => init::run(context).await,
        Command::Scan(args) => scan::run(args, context).await,
        Command::Job(command) => job::run(command, context).await,
        Command::Tenant(command) => tenant::run(command, context).await,
        Command::Key(command) => key::run(command, context).await,
        Command::Plan(command) => plan::run(command, context).await,
        Command::Limits(args) => limits::run(args, context).await,
        Command::Audit(command) => audit::run(command, context).await,
        Command::Cluster(command) => cluster::run(command, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Model(command) => model::run(command, context).await,
        // This process has nothing else to do.
        Command::ModelWorker => worker::run().map_err(|error| Failure::failed(error.to_string())),
        Command::Demo(command) => demo::run(command, context.output).await,
        Command::Config(command) => config::run(command),
        Command::Completions(args) => completions::run(&args, context.output),
    }
}

impl Context {
    /// Whether somebody said which nodes to talk to.
    fn names_nodes(&self) -> bool {
        !self.global.node.is_empty()
    }

    fn nodes(&self) -> Vec<String> {
        if self.names_nodes() { self.global.node.clone() } else { vec![NODE.to_owned()] }
    }

    /// A client with the key of the caller.
    fn client(&self) -> Result<Client, Failure> {
        let key = self.key()?.ok_or_else(|| {
            Failure::new(Exit::Authentication, "no key is given")
                .with_hint("give a key with SKEP_KEY or --key-file")
        })?;
        let client = Client::new(self.nodes(), Credential::key(key))?;
        match &self.global.tenant {
            Some(tenant) => Ok(client.for_tenant(tenant)?),
            None => Ok(client),
        }
    }

    /// A client of one node with the key of the caller.
    fn client_of(&self, url: &str) -> Result<Client, Failure> {
        let key = self.key()?.map_or_else(Credential::none, Credential::key);
        Ok(Client::new(vec![url.to_owned()], key)?)
    }

    /// A client for the routes that take no key.
    fn anonymous(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.nodes(), Credential::none())?)
    }

    /// Never from the command line itself: every user of a machine can read that.
    fn key(&self) -> Result<Option<String>, Failure> {
        let text = match &self.global.key_file {
            Some(path) => Some(read_key(path)?),
            None => std::env::var("SKEP_KEY").ok(),
        };
        Ok(text.map(|text| text.trim().to_owned()).filter(|key| !key.is_empty()))
    }
}

fn read_key(path: &Path) -> Result<String, Failure> {
    let unreadable =
        |error| Failure::new(Exit::Authentication, format!("key file {}: {error}", path.display()));
    if path != Path::new("-") {
        return fs::read_to_string(path).map_err(unreadable);
    }
    let mut text = String::new();
    std::io::stdin().lock().take(1024).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}
