//! A join token lets one node into one cluster, for its time, and says its secret to nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use protocol::nodes::JoinToken;
use protocol::{ClusterId, Digest, NodeId};
use raft::network::trust::{Authority, NodeKey};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tests::{Cluster, Options, free_ports};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::outsider::wall;
use super::{Ended, cluster_id, copy, peer, run, spawn};
use crate::stage::{on_three_nodes, same};

const WORDS: &str = "join token is not valid: false, used or expired";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_node_of_one_cluster_for_its_time() {
    on_three_nodes(Options::default(), async |cluster| {
        let address = peer(cluster, 1);
        let issue = async |ttl_s| {
            let issued = cluster.admin(0)?.create_join_token(ttl_s).await?;
            Ok::<_, anyhow::Error>(issued.body.token)
        };
        let short = issue(1).await?;
        let issued = Instant::now();
        let good = issue(60).await?;
        ensure!(issue(3601).await.is_err(), "a token for more than an hour was issued");
        let fourth = TempDir::new()?;
        joins(cluster, fourth.path(), &address, &good).await.context("the fourth node")?;

        while issued.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let parsed = JoinToken::parse(&good)?;
        let elsewhere = JoinToken { authority: Digest([9; 32]), ..parsed.clone() };
        let made_up = JoinToken::new(&[1; 32], parsed.authority);
        let false_ones = [
            ("used", good.clone()),
            ("expired", short),
            ("of another cluster", elsewhere.to_string()),
            ("made up", made_up.to_string()),
            ("no token", "skep_join_abc".to_owned()),
        ];
        for (what, token) in false_ones {
            let data = TempDir::new()?;
            let ended = joined(data.path(), &address, &token).await;
            let ended = ended.with_context(|| what.to_owned())?;
            ended.is_refusal(3, WORDS).with_context(|| what.to_owned())?;
            ensure!(!data.path().join("node.json").exists(), "{what}: it became a node");
            let log = std::fs::read_to_string(data.path().join("log/skep.log"))?;
            ensure!(!log.contains(&token), "{what}: the token is in the log");
        }
        fake_clusters_hear_nothing(&good).await.context("a fake cluster")?;
        foreign_directories(cluster).await.context("foreign directories")
    })
    .await;
}

async fn joined(data: &std::path::Path, address: &str, token: &str) -> Result<Ended> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), token)?;
    let file = file.path().to_str().context("a path")?;
    run(data, &["--join", address, "--token-file", file]).await
}

/// One more node; the token is nowhere to be seen meanwhile.
async fn joins(
    cluster: &Cluster,
    data: &std::path::Path,
    address: &str,
    token: &str,
) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), token)?;
    let path = file.path().to_str().context("a path")?;
    let child = spawn(data, free_ports(1)?[0], &["--join", address, "--token-file", path])?;
    let process = child.id().context("it ended at once")?;
    let began = Instant::now();
    while cluster.admin(0)?.cluster().await?.body.nodes.len() < 4 {
        ensure!(began.elapsed() < Duration::from_secs(30), "the node does not join");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for seen in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{process}/{seen}"))?;
        let secret = token.as_bytes();
        ensure!(!bytes.windows(secret.len()).any(|part| part == secret), "it is in {seen}");
    }
    Ok(())
}

/// Servers with authorities of their own are told nothing, whatever they claim to be.
async fn fake_clusters_hear_nothing(token: &str) -> Result<()> {
    for chain_of in [1, 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let acceptor = TlsAcceptor::from(fake(chain_of)?);
        let heard = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await?;
            let mut heard = Vec::new();
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                // It is to end, one way or another.
                let _ = stream.read_to_end(&mut heard).await;
            }
            Ok::<_, anyhow::Error>(heard)
        });
        let data = TempDir::new()?;
        joined(data.path(), &address, token).await?.is_refusal(3, WORDS)?;
        same("bytes that a fake cluster heard", heard.await??.len(), 0)?;
    }
    Ok(())
}

fn fake(chain_of: usize) -> Result<Arc<ServerConfig>> {
    let cluster = ClusterId(1);
    let authority = Authority::found(cluster, wall())?;
    let key = NodeKey::generate()?;
    let minute = Duration::from_secs(60);
    let certificate = authority.issue(cluster, NodeId(1), &key, wall(), minute)?;
    let mut chain = vec![certificate, CertificateDer::from(authority.certificate)];
    chain.truncate(chain_of);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_bytes()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"skep-join/1".to_vec()];
    Ok(Arc::new(config))
}

/// What must not start in the name of this cluster.
async fn foreign_directories(cluster: &mut Cluster) -> Result<()> {
    let id = cluster_id(cluster).await?;
    let wiped = TempDir::new()?;
    let ended = run(wiped.path(), &["--cluster", &id]).await.context("wiped")?;
    ended.is_refusal(5, "is empty and not a directory of clu_").context("wiped")?;

    let other = TempDir::new()?;
    let ports = free_ports(1)?[0];
    let mut founder = spawn(other.path(), ports, &[])?;
    let began = Instant::now();
    while !other.path().join("peers").exists() {
        ensure!(began.elapsed() < Duration::from_secs(20), "no second cluster");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    founder.kill().await?;
    let ended = run(other.path(), &["--cluster", &id]).await.context("another cluster's")?;
    ended.is_refusal(5, "is a directory of clu_").context("another cluster's")?;
    let token = cluster.admin(0)?.create_join_token(60).await?.body.token;
    let ended = joined(other.path(), &peer(cluster, 0), &token).await.context("to join")?;
    ended.is_refusal(5, "the token is of another").context("another cluster's, to join")?;

    let damaged = TempDir::new()?;
    copy(other.path(), damaged.path())?;
    std::fs::write(damaged.path().join("node.json"), "{\"format\": 2, \"clus")?;
    let ended = run(damaged.path(), &[]).await.context("damaged")?;
    ended.is_refusal(5, "node.json is damaged")?;
    let keyless = TempDir::new()?;
    copy(other.path(), keyless.path())?;
    std::fs::remove_file(keyless.path().join("tls/authority.key"))?;
    let ended = run(keyless.path(), &[]).await.context("keyless")?;
    ended.is_refusal(5, "has no tls/authority.key")
}
