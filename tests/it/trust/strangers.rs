//! Strangers get nothing, and nobody else notices them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use protocol::{ClusterId, NodeId};
use raft::network::{Class, Reason};
use tests::raw::Request;
use tests::{Cluster, Options, Probe, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::outsider::{RAFT, forged, knock, stolen_authority};
use super::{cluster_id, peer};
use crate::stage::{NODES, on_three_nodes};

/// What a TLS alert takes. It says that there was an error, and no more.
const ALERT_BYTES: usize = 7;
const EVEN_WITHIN: Duration = Duration::from_secs(30);
const GARBAGE: usize = 4_000;
const GARBAGE_PER_SECOND: usize = 1_000;
/// What a client may wait meanwhile, on two cores that also run the attack and three nodes.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_nothing_and_nobody_else_notices() {
    on_three_nodes(Options::default(), async |cluster| {
        let id = ClusterId::parse(&cluster_id(cluster).await?)?;
        let address = peer(cluster, 0);
        let told = plain(&address, b"GET / HTTP/1.1\r\nHost: skep\r\n\r\n").await?;
        ensure!(told.len() <= ALERT_BYTES, "a plain client was told {told:?}");
        for (what, shown) in [("no certificate", None), ("its own", Some((id, NodeId(2))))] {
            let told = knock(&address, RAFT, shown).await?;
            ensure!(told.is_empty(), "who shows {what} was told {told:?}");
        }
        thief(cluster, id, &address).await.context("the thief")?;
        garbage(cluster, &address).await.context("garbage")?;
        for reason in ["no_tls", "no_certificate", "authority", "pin", "unknown"] {
            ensure!(refused(cluster, reason).await? > 0, "no connection refused for {reason}");
        }
        let log = std::fs::read_to_string(cluster.data(0).join("log/skep.log"))?;
        let lines = log.lines().filter(|line| line.contains("peer connection refused")).count();
        ensure!((1..=5).contains(&lines), "{lines} lines about one source in a minute");
        Ok(())
    })
    .await;
}

/// The key of the authority alone makes nobody a node: neither one that there is nor a new one.
async fn thief(cluster: &Cluster, id: ClusterId, address: &str) -> Result<()> {
    let authority = stolen_authority(&cluster.data(1))?;
    for (node, wanted) in [(NodeId(2), Reason::Pin), (NodeId(9), Reason::Unknown)] {
        let dial = BTreeMap::from([(NodeId(1), address.to_owned())]);
        let peers = forged(id, node, authority.clone(), dial)?;
        for class in [Class::Control, Class::Log, Class::Bulk, Class::Actor] {
            let refused = peers.dial(NodeId(1), class).await.map(drop);
            let error = refused.err().context("a forged certificate was taken")?;
            ensure!(Reason::of(&error) == Some(wanted), "{node} {class:?}: {error}");
        }
    }
    Ok(())
}

async fn plain(address: &str, said: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(said).await?;
    let mut told = Vec::new();
    // A reset is as good an end as any.
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut told)).await?;
    Ok(told)
}

/// A flood of connections that say nonsense, or nothing; meanwhile every node answers as ever.
async fn garbage(cluster: &Cluster, address: &str) -> Result<()> {
    // While they are being evened out they change without any flood.
    let leaders = until("even leaders", EVEN_WITHIN, async || {
        Ok(match leaders(cluster).await {
            Ok(leaders) if are_even(&leaders) => Probe::Done(leaders),
            other => Probe::NotYet(format!("{other:?}")),
        })
    })
    .await?;
    let flood = tokio::spawn(flood(address.to_owned()));
    let mut slowest = Duration::ZERO;
    let mut answers = 0;
    while !flood.is_finished() {
        for i in 0..cluster.len() {
            let begun = Instant::now();
            let key = &cluster.tenant()?.api_key;
            Request::get("/v1/me").bearer(key).send(&cluster.url(i)).await?.ok(200)?;
            slowest = slowest.max(begun.elapsed());
            answers += 1;
        }
    }
    let opened = flood.await??;
    ensure!(opened == GARBAGE, "only {opened} connections were made");
    ensure!(slowest <= ANSWER_WITHIN, "an answer took {slowest:?} of {answers}");
    ensure!(self::leaders(cluster).await? == leaders, "groups changed their leaders");
    Ok(())
}

async fn leaders(cluster: &Cluster) -> Result<Vec<Option<String>>> {
    let view = cluster.admin(1)?.cluster().await?.body;
    Ok(view.shards.into_iter().map(|shard| shard.leader).collect())
}

/// The meta group is no shard: it may be one more.
fn are_even(leaders: &[Option<String>]) -> bool {
    let mut led: BTreeMap<&str, usize> = BTreeMap::new();
    leaders.iter().flatten().for_each(|node| *led.entry(node).or_default() += 1);
    let (least, most) = (led.values().min(), led.values().max());
    leaders.iter().all(Option::is_some)
        && led.len() == NODES
        && least.zip(most).is_some_and(|(least, most)| most - least <= 2)
}

async fn flood(address: String) -> Result<usize> {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut opened = 0;
    let mut silent = Vec::new();
    while opened < GARBAGE {
        ticks.tick().await;
        let due = (begun.elapsed().as_millis() as usize * GARBAGE_PER_SECOND / 1000) + 1;
        while opened < due.min(GARBAGE) {
            let mut stream = TcpStream::connect(&address).await?;
            if opened % 10 == 0 {
                silent.push(stream);
            } else {
                // It may be closed before all is said.
                let _ = stream.write_all(&[opened as u8; 64]).await;
            }
            opened += 1;
        }
    }
    Ok(opened)
}

/// How often node 0 has refused for that reason.
async fn refused(cluster: &Cluster, reason: &str) -> Result<u64> {
    let text = Request::get("/metrics").send(&cluster.url(0)).await?;
    let text = String::from_utf8(text.body)?;
    let name = format!("skep_peer_connections_refused_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(value.context("no such metric")?.parse()?)
}
