//! `skep serve`: one node, in the foreground.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actors::System;
use actors::audit::Auditor;
use actors::figures::figures;
use actors::remote::ClusterTransport;
use protocol::{ClusterId, GroupId, NodeId};
use raft::network::Reason;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::failure::{Exit, Failure};
use super::signals;
use crate::boot::{self, BootError, Join, Plan};
use crate::config::{self, Config, LogFormat, Sources};
use crate::http::app::{App, Parts};
use crate::http::context::Edge;
use crate::http::jobs::Streams;
use crate::http::metrics::Metrics;
use crate::http::ready::NodeStatus;
use crate::http::state::ClusterState;
use crate::http::{self, serve};
use crate::life::Life;
use crate::telemetry;

/// How long a node that stops tries to write what its audit is to tell.
const AUDIT_DRAIN: Duration = Duration::from_secs(2);
/// How long the peers of a node whose Raft core has ended may take to say that it is not the node.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Flags of a node. Every setting can also be given as `--set section.key=value`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file with settings
    #[arg(long, env = "SKEP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps everything
    #[arg(long, env = "SKEP_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Where clients connect
    #[arg(long, env = "SKEP_HTTP", value_name = "ADDR")]
    http: Option<String>,
    /// Where other nodes connect
    #[arg(long, env = "SKEP_PEER", value_name = "ADDR")]
    peer: Option<String>,
    /// What clients are told
    #[arg(long, env = "SKEP_ADVERTISE_HTTP", value_name = "ADDR")]
    advertise_http: Option<String>,
    /// What other nodes are told
    #[arg(long, env = "SKEP_ADVERTISE_PEER", value_name = "ADDR")]
    advertise_peer: Option<String>,
    /// Peer address of any node of the cluster to join
    #[arg(long, env = "SKEP_JOIN", value_name = "PEER_ADDR", requires = "token_file")]
    join: Option<String>,
    /// A file with a join token, `-` for stdin
    #[arg(long, env = "SKEP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The directory must belong to this cluster: an empty one founds none
    #[arg(long, env = "SKEP_CLUSTER", value_name = "ID", value_parser = cluster)]
    cluster: Option<ClusterId>,
    /// Dial a peer here instead of where it says
    #[arg(long, value_name = "ID=HOST:PORT", value_parser = dial)]
    peer_dial: Vec<(NodeId, String)>,
    /// Any setting
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    settings: Vec<(String, String)>,
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn dial(text: &str) -> Result<(NodeId, String), String> {
    let (node, address) = text.split_once('=').ok_or("must be ID=HOST:PORT")?;
    let node = NodeId::parse(node).map_err(|_| "the id of a node is like n2")?;
    Ok((node, address.to_owned()))
}

fn cluster(text: &str) -> Result<ClusterId, String> {
    ClusterId::parse(text).map_err(|_| "the id of a cluster is like clu_…".to_owned())
}

/// Runs until SIGTERM or SIGINT, or until the node cannot go on.
pub async fn run(args: Args) -> Result<(), Failure> {
    let config = config_of(&args)?;
    let format = match config.log.format {
        LogFormat::Json => telemetry::Format::Json,
        LogFormat::Pretty => telemetry::Format::Pretty,
    };
    if let Ok(list) = std::env::var(raft::failpoint::VARIABLE) {
        raft::failpoint::arm(&list);
    }
    // Backups are written by a library that does not ask who may read them.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    make_dir(&args.data)?;
    let filter = telemetry::filter_from_environment(&config.log.filter);
    let guard = telemetry::start(&args.data, format, &filter);
    let guard = guard.map_err(|error| Failure::failed(error.to_string()))?;
    let join = join_of(&args)?;
    let dial: BTreeMap<NodeId, String> = args.peer_dial.into_iter().collect();
    let plan = Plan { config, data: args.data, join, cluster: args.cluster, dial };
    let data = plan.data.clone();
    let node = boot::start(plan).await.map_err(failure)?;
    let ended = serve_until_stopped(node, &data).await;
    drop(guard);
    match ended? {
        End::Signal => Ok(()),
        End::Removed => {
            say_removed();
            Ok(())
        }
        End::Restart => Err(run_again()),
    }
}

/// Why a node ends that could go on.
enum End {
    Signal,
    Restart,
    Removed,
}

#[expect(clippy::print_stderr, reason = "the last line of a node says why it ended")]
fn say_removed() {
    eprintln!("skep: this node was removed from the cluster");
}

/// The same command in the same process, whose number stays; returns only if that cannot be.
fn run_again() -> Failure {
    use std::os::unix::process::CommandExt as _;
    let mut arguments = std::env::args_os();
    let Some(program) = arguments.next() else { return Failure::failed("no command to run again") };
    // By its name, so that a binary that was replaced is the one that runs.
    let error = std::process::Command::new(&program).args(arguments).exec();
    Failure::failed(format!("{}: {error}", program.display()))
}

fn config_of(args: &Args) -> Result<Config, Failure> {
    let mut flags = args.settings.clone();
    let named = [
        ("node.http", &args.http),
        ("node.peer", &args.peer),
        ("node.advertise_http", &args.advertise_http),
        ("node.advertise_peer", &args.advertise_peer),
    ];
    for (key, value) in named {
        flags.extend(value.clone().map(|value| (key.to_owned(), value)));
    }
    let environment = config::environment();
    let sources = Sources { file: args.config.as_deref(), environment, flags };
    config::load(&sources).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

fn make_dir(data: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|error| Failure::failed(format!("{}: {error}", data.display())))
}

fn join_of(args: &Args) -> Result<Option<Join>, Failure> {
    let (Some(address), Some(file)) = (&args.join, &args.token_file) else { return Ok(None) };
    // One that joined before has spent its token, whose file may be gone; while it is there, it says
    // which cluster is meant.
    if args.data.join("node.json").exists() && !file.exists() {
        return Ok(None);
    }
    let token = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let token = token.map_err(|error| Failure::failed(format!("token file: {error}")))?;
    Ok(Some(Join { address: address.clone(), token: token.trim().to_owned() }))
}

fn failure(error: BootError) -> Failure {
    let exit = match &error {
        BootError::Refused(_) => Exit::Refused,
        BootError::BadToken => Exit::Authentication,
        BootError::NoCluster(_) => Exit::Unavailable,
        BootError::Damaged(_) | BootError::Io { .. } | BootError::Failed(_) => Exit::Failed,
    };
    let refused = matches!(error, BootError::Refused(_) | BootError::BadToken);
    let prefix = if refused { "refused: " } else { "" };
    Failure::new(exit, format!("{prefix}{error}"))
}

async fn serve_until_stopped(node: boot::Node, data: &Path) -> Result<End, Failure> {
    let boot::Node { config, system, transport, http: listener, .. } = &node;
    let metrics = metrics_of(system, transport);
    let metrics = metrics.map_err(|error| Failure::failed(error.to_string()))?;
    let status = NodeStatus::new(system.clone(), transport.clone());
    let reads = config.audit.reads_per_mille;
    let auditor = Auditor::start(Arc::clone(&system.host), system.router.clone(), reads);
    let edge =
        Edge { metrics: Arc::new(metrics), status: Arc::new(status), auditor: Some(auditor) };
    let (life, stop) = (Life::default(), CancellationToken::new());
    let app = App::from(Parts {
        system: system.clone(),
        edge: edge.clone(),
        transport: transport.clone(),
        life: life.clone(),
        streams: Streams::until(stop.clone()),
    });
    let router = http::routes(app).map_err(|error| Failure::failed(error.to_string()))?;
    let limits = serve::Limits {
        connections: config.http.connections_max as usize,
        drain_time: Duration::from_secs(u64::from(config.http.drain_s)),
        ..serve::Limits::default()
    };
    let auditor = edge.auditor.clone();
    let listener = listener_of(listener)?;
    let lane = Some(serve::lane::Lane::new(system.grants.clone(), edge.clone()));
    let server = tokio::spawn(serve::serve(listener, router, edge, limits, lane, stop.clone()));
    let trust = node.host.peers().trust();
    let outcome = tokio::select! {
        stopped = signals::stop_requested() => stopped.map(|_| End::Signal).map_err(Failure::from),
        () = life.restart_asked() => Ok(End::Restart),
        () = node.host.removed() => Ok(End::Removed),
        group = node.host.failed() => core_ended(&node, data, group).await,
        // Peers may know of a removal before this node's own map does.
        reason = trust.over() => not_the_node(&node, data, reason),
        () = system.failed() => Err(Failure::failed("the actors of a shard keep failing")),
        () = transport.ended() => Err(Failure::failed("the actors' transport ended")),
    };
    match &outcome {
        Ok(End::Removed) => info!("stopping: removed from the cluster"),
        Ok(End::Signal | End::Restart) => {
            info!("stopping");
            leave(system).await;
        }
        Err(failure) => error!(reason = failure.message, "stopping"),
    }
    stop.cancel();
    if server.await.is_err() {
        error!("the HTTP server ended badly");
    }
    if let Some(auditor) = auditor {
        auditor.drain(AUDIT_DRAIN).await;
    }
    transport.stop().await;
    outcome
}

/// While requests are still answered here: whoever leads next takes them from then on.
async fn leave(system: &System) {
    let left = system.leave().await;
    if left.is_empty() {
        info!("handed over");
    } else {
        // The last node of all has nobody to hand over to.
        info!(groups = left.len(), "stopping as leader");
    }
}

/// Why a Raft core has ended: a copy that took the place of this node has a log of its own, which a
/// core may meet before anybody says so.
async fn core_ended(
    node: &boot::Node,
    data: &Path,
    group: Option<GroupId>,
) -> Result<End, Failure> {
    match tokio::time::timeout(LAST_WORD, node.host.peers().trust().over()).await {
        Ok(reason) => not_the_node(node, data, reason),
        Err(_) => {
            let group = group.map_or_else(String::new, |group| format!(" of group {group}"));
            Err(Failure::failed(format!("the Raft core{group} ended")))
        }
    }
}

/// The cluster has said that this process is not the node, or not any more.
fn not_the_node(node: &boot::Node, data: &Path, reason: Reason) -> Result<End, Failure> {
    if reason == Reason::Removed && boot::was_member(&node.host) {
        // Whoever waits for an owner through this node waits in vain.
        node.host.mark_removed();
        return Ok(End::Removed);
    }
    let (data, node) = (data.display(), node.host.node());
    Err(Failure::new(Exit::Refused, format!("refused: {data} is {node}: {reason}")))
}

fn metrics_of(system: &System, transport: &ClusterTransport) -> Result<Metrics, prometheus::Error> {
    let metrics = Metrics::new()?;
    for collector in figures().collectors() {
        metrics.register(collector)?;
    }
    metrics.register(Box::new(ClusterState::new(system.clone(), transport.clone())?))?;
    Ok(metrics)
}

fn listener_of(listener: &tokio::net::TcpListener) -> Result<tokio::net::TcpListener, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("client port: {error}"));
    let socket = socket2::SockRef::from(listener).try_clone().map_err(failed)?;
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpListener::from_std(listener).map_err(failed)
}
