//! One process: the log, the peer port and the groups of a node, wired as `node/src/boot.rs` does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use futures::future::{BoxFuture, try_join_all};
use protocol::keys::{KeyOverrides, NewKey, Scopes};
use protocol::limits::Payer;
use protocol::nodes::{self, LifeId, Map, Registration, SHARDS, Secrets, Start};
use protocol::owner::Epoch;
use protocol::plans::{Override, Overrides, Shipped};
use protocol::versions::Wire;
use protocol::{
    ClusterId, Command, Digest, GroupId, KeyId, Name, NodeId, Proposal, Stamp, TenantId, Time,
    codec, tenants, usage,
};
use raft::network::trust::{Authority, Keys, NodeKey};
use raft::network::{Identity, Kind, Listener, Peer, Peers, Service, Services, Trust, ask_to_join};
use raft::node::{JoinAnswer, JoinRequest, RaftService, Storage, Welcome, token_digest};
use raft::wal::Wal;
use raft::{Group, Host, placement};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{Asked, NODES, READY_WITHIN, Said};
use crate::sample::{Sample, Seen};
use crate::table::line;

/// As many as a node gives to Raft.
const RAFT_THREADS: usize = 2;
/// The group that is measured.
const GROUP: GroupId = GroupId(1);
const POLL: Duration = Duration::from_millis(100);
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Certificates outlive a measurement.
const TERM: Duration = Duration::from_secs(24 * 3600);
const TENANT: TenantId = TenantId(0x0190_0000_0000_7000_8000_0000_0000_0001);
/// The key that the tenant is made with.
const PAYER: Payer = Payer { key: Some(KeyId(1)), slot: None };

/// What the process is.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    data: PathBuf,
    /// From 0, in the order of joining.
    #[arg(long)]
    number: u8,
    /// Peer address of the first process, and the hash of its authority.
    #[arg(long)]
    join: Option<String>,
}

/// Runs until stdin ends, which it does when the parent has ended.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let raft = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RAFT_THREADS)
        .enable_all()
        .build()?;
    let ran = run_on(raft.handle(), arguments).await;
    raft.shutdown_background();
    ran
}

async fn run_on(raft: &tokio::runtime::Handle, arguments: Arguments) -> Result<()> {
    let (wal, found) = Wal::open(&arguments.data)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let peer = listener.local_addr()?.to_string();
    let key = NodeKey::generate()?;
    let registration = registration(&peer, key.pin());
    let membership = Membership::find(&arguments, key, &registration).await?;

    let service = RaftService::default();
    let services = Services {
        raft: Arc::new(service.clone()),
        bulk: Arc::new(Nothing),
        actors: Arc::new(|_, _| {}),
        alive: Arc::new(|_| None),
    };
    let trust = Arc::clone(&membership.trust);
    let peers = Peers::new(Arc::clone(&trust), BTreeMap::new());
    raft.spawn(Listener::new(listener, trust, services).run());
    let storage = Storage::at(arguments.data.clone());
    let host = Host::open(wal, found.groups, peers, raft.clone(), storage, wall).await?;
    service.set(Arc::clone(&host));
    membership.take(&host, registration).await?;
    raft.spawn(raft::members::run(Arc::clone(&host), Alone, None));
    let authority = host.peers().trust().authority().digest();
    say(&Said::Listening { peer: format!("{peer}/{authority}") })?;

    let leads = wait_ready(&host).await?;
    say(&Said::Ready { leads })?;
    let group = host.group(GROUP).context("the group is not here")?;
    obey(&group).await
}

fn say(said: &Said) -> Result<()> {
    line(&serde_json::to_string(said)?);
    Ok(())
}

async fn obey(group: &Group) -> Result<()> {
    let next = || tokio::task::spawn_blocking(|| std::io::stdin().lines().next().transpose());
    while let Some(line) = next().await?? {
        let asked: Asked = serde_json::from_str(&line)?;
        say(&Said::Measured(measure(group, asked).await?))?;
    }
    Ok(())
}

/// A node that is alone, with the groups that are in its directory, or the first of a cluster.
pub(crate) async fn alone(storage: Storage) -> Result<Arc<Host>> {
    let (wal, found) = Wal::open(&storage.data)?;
    let key = NodeKey::generate()?;
    let registration = registration("127.0.0.1:0", key.pin());
    let arguments = Arguments { data: storage.data.clone(), number: 0, join: None };
    let membership = Membership::find(&arguments, key, &registration).await?;
    let peers = Peers::new(Arc::clone(&membership.trust), BTreeMap::new());
    let runtime = tokio::runtime::Handle::current();
    let is_new = found.groups.is_empty();
    let host = Host::open(wal, found.groups, peers, runtime, storage, wall).await?;
    if is_new {
        membership.take(&host, registration).await?;
    }
    Ok(host)
}

/// Wall time, as a node's actors stamp their commands with it.
pub(crate) fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(since.as_millis() as u64)
}

fn registration(peer: &str, pin: Digest) -> Registration {
    Registration {
        incarnation: 1,
        life: LifeId(rand::random()),
        pin,
        http: "http://127.0.0.1:0".to_owned(),
        peer: peer.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        wire: Wire::OURS,
        labels: BTreeMap::new(),
        weight: 1,
        key: [0; 32],
    }
}

/// Nodes are up for as long as they are measured, and have nothing but logs.
struct Alone;

impl raft::members::Sight for Alone {
    fn is_up(&self, _: NodeId) -> bool {
        true
    }

    fn has_all(&self, _: NodeId, _: GroupId, _: u64) -> bool {
        true
    }
}

/// Blobs are not stored here.
struct Nothing;

impl Service for Nothing {
    fn call(
        &self,
        _from: Peer,
        _kind: Kind,
        _group: GroupId,
        _body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("not here".to_owned()) })
    }
}

/// Who this process is in the cluster.
struct Membership {
    trust: Arc<Trust>,
    cookie: [u8; 32],
    /// What a joiner was told; `None` for the first.
    joined: Option<protocol::ReplicaId>,
}

impl Membership {
    async fn find(
        arguments: &Arguments,
        key: NodeKey,
        registration: &Registration,
    ) -> Result<Membership> {
        let life = registration.life;
        let trust = |cluster, node, authority| {
            let start = Start { incarnation: 1, life, before: Vec::new() };
            let keys = Keys { authority, key, term: TERM };
            Trust::new(Identity { cluster, node, start, wire: Wire::OURS }, keys, wall)
        };
        let Some(address) = &arguments.join else {
            let cluster = ClusterId(rand::random());
            let trust = trust(cluster, NodeId(1), Authority::found(cluster, wall())?)?;
            return Ok(Membership { trust, cookie: rand::random(), joined: None });
        };
        let (peer, authority) = address.split_once('/').context("no authority to join")?;
        let authority = Digest::parse(authority)?;
        let secret = secret(arguments.number);
        let request = JoinRequest { secret, registration: registration.clone() };
        let request = Bytes::from(codec::encode(&request)?);
        match codec::decode(&ask_to_join(peer, authority, request, JOIN_TIMEOUT).await?)? {
            JoinAnswer::Welcome(welcome) => {
                let Welcome { cluster, node, replica, authority, cookie, directory } = *welcome;
                let trust = trust(cluster, node, authority)?;
                trust.learn(directory);
                Ok(Membership { trust, cookie, joined: Some(replica) })
            }
            refused @ (JoinAnswer::Refused(_) | JoinAnswer::Unavailable) => {
                bail!("not taken into the cluster: {refused:?}")
            }
        }
    }

    /// Makes the cluster and a token for each of the others, or hosts the meta group.
    async fn take(self, host: &Arc<Host>, registration: Registration) -> Result<()> {
        if let Some(replica) = self.joined {
            host.host(GroupId::META, replica).await?;
            return Ok(());
        }
        let secrets = Secrets { pepper: rand::random(), cookie: self.cookie };
        host.bootstrap(secrets, registration).await?;
        for number in 1..NODES as u8 {
            let expires_at = wall().plus_ms(nodes::TOKEN_TTL_MAX_S * 1000);
            let token = token_digest(&secret(number));
            let command = nodes::Command::IssueToken { token, expires_at };
            host.propose_meta(command).await?.outcome?;
        }
        Ok(())
    }
}

/// The parent knows no secrets, and the cluster lives for a minute on loopback.
fn secret(number: u8) -> String {
    format!("bench-{number}")
}

/// Waits until nothing about the placement is left to be done; gives whether this process leads.
async fn wait_ready(host: &Host) -> Result<bool> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let map = host.map().borrow().clone();
        if map.is_some_and(|map| is_whole(host, &map)) {
            let leader = host.group(GROUP).and_then(|group| group.leader());
            return Ok(leader == Some(host.node()));
        }
        ensure!(Instant::now() < deadline, "the groups are not whole within {READY_WITHIN:?}");
        tokio::time::sleep(POLL).await;
    }
}

fn is_whole(host: &Host, map: &Map) -> bool {
    let whole = |number| {
        let id = GroupId(number);
        let (Some(group), Some(placement)) = (host.group(id), map.groups.get(&id)) else {
            return false;
        };
        let voters = group.members().iter().filter(|member| member.voter).count();
        let leader = group.leader();
        let owned = group.leadership().borrow().owned.is_some();
        let led = leader.is_some() && (leader != Some(host.node()) || owned);
        voters == NODES && led && (id.is_meta() || leader == Some(placement.preferred))
    };
    let up = map.nodes.keys().copied().collect();
    map.nodes.len() == NODES && placement::plan(map, &up).is_empty() && (0..=SHARDS).all(whole)
}

/// Writers in a closed loop; each proposal meters a scan.
async fn measure(group: &Group, asked: Asked) -> Result<Sample> {
    let epoch = group.leadership().borrow().owned.context("leadership was lost")?.epoch;
    make_tenant(group, epoch).await?;
    let begin = Instant::now();
    let until = begin + asked.time;
    let writers = (0..asked.writers).map(|_| tokio::spawn(write(group.clone(), epoch, until)));
    let mut seen = Seen::default();
    for wrote in try_join_all(writers.collect::<Vec<_>>()).await? {
        seen.add(wrote);
    }
    Ok(seen.sample(begin.elapsed()))
}

async fn write(group: Group, epoch: Epoch, until: Instant) -> Seen {
    let mut seen = Seen::default();
    loop {
        let since = Instant::now();
        if since >= until {
            return seen;
        }
        let scan = usage::Command::Scan {
            documents: 1,
            cached: usage::Cached::default(),
            tokens: 40,
            payer: PAYER,
        };
        let command = Command::Usage(TENANT, scan);
        let proposed = async {
            let proposal = Proposal::new(Stamp::at(wall()), command).encode()?;
            group.propose(epoch, proposal).await
        };
        match proposed.await {
            Ok(applied) => match applied.outcome {
                Ok(_) => seen.success(since.elapsed()),
                Err(refusal) => seen.error(|| refusal.to_string()),
            },
            Err(error) => {
                seen.error(|| error.to_string());
                // Without leadership there is no wait in the answer.
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

async fn make_tenant(group: &Group, epoch: Epoch) -> Result<()> {
    if group.view().tenants.get(TENANT).is_some() {
        return Ok(());
    }
    let proposal = Proposal::new(Stamp::at(wall()), new_tenant(TENANT));
    group.propose(epoch, proposal.encode()?).await?.outcome?;
    Ok(())
}

/// A tenant without limits, with its first key.
pub(crate) fn new_tenant(id: TenantId) -> Command {
    let unlimited = Override::Unlimited;
    let name = Name::parse("bench").unwrap_or_else(|_| unreachable!("a name"));
    let new = tenants::NewTenant {
        name: name.clone(),
        plan: Shipped::Enterprise.plan(),
        overrides: Overrides {
            rate: unlimited,
            burst: unlimited,
            key_rate: unlimited,
            key_burst: unlimited,
            per_month: unlimited,
            max_documents: unlimited,
            max_backlog: unlimited,
            ..Overrides::default()
        },
        domain: None,
        time_zone: None,
        region: None,
        key: NewKey {
            name,
            digest: Digest([0; 32]),
            prefix: "sk_live_…0000".to_owned(),
            scopes: Scopes::all(),
            overrides: KeyOverrides::default(),
            expires_at: None,
        },
    };
    Command::Tenant(id, tenants::Command::Create(Box::new(new)))
}
