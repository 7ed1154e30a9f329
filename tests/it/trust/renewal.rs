//! Certificates are renewed while everything goes on, and a node may sleep longer than its own lives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::fresh_key;
use client::keys::NewKey;
use tests::raw::Request;
use tests::{Cluster, Options};

use crate::stage::on_three_nodes;

/// Three certificates of each node pass.
const TRAFFIC_FOR: Duration = Duration::from_secs(15);
const CERTIFICATE: &str = "node.certificate_s=6";
const CERTIFICATE_TERM: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_traffic_without_a_failed_request() {
    on_three_nodes(Options::default().set(CERTIFICATE), async |cluster| {
        traffic(cluster).await.context("traffic")?;
        cluster.kill(2).await?;
        let dead = Instant::now();
        while dead.elapsed() < CERTIFICATE_TERM + Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.restart(2).await.context("a node that slept longer than its certificate")?;
        cluster.digests().await.context("digests")?;
        Ok(())
    })
    .await;
}

async fn traffic(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let (mut reads, mut writes) = (0, 0);
    while begun.elapsed() < TRAFFIC_FOR {
        for i in 0..cluster.len() {
            let key = &cluster.tenant()?.api_key;
            Request::get("/v1/me").bearer(key).send(&cluster.url(i)).await?.ok(200)?;
            reads += 1;
            let new = NewKey { name: format!("key {writes}"), ..NewKey::default() };
            let client = cluster.client(i)?.with_retry(client::Retry::NEVER);
            if writes < 500 {
                client.create_key(&new, &fresh_key()).await.context("a write")?;
                writes += 1;
            }
            let left = left(cluster, i).await?;
            ensure!((1..=6).contains(&left), "node {i} shows a certificate for {left} s more");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(reads > 100 && writes > 100, "{reads} reads and {writes} writes");
    for i in 0..cluster.len() {
        let log = std::fs::read_to_string(cluster.data(i).join("log/skep.log"))?;
        let renewed = log.matches("certificate renewed").count();
        ensure!(renewed >= 3, "node {i} renewed {renewed} times");
        ensure!(!log.contains("peer down"), "node {i} lost a peer");
    }
    Ok(())
}

async fn left(cluster: &Cluster, i: usize) -> Result<u64> {
    let text = Request::get("/metrics").send(&cluster.url(i)).await?;
    let text = String::from_utf8(text.body)?;
    let name = "skep_certificate_expiry_seconds ";
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(value.context("no such metric")?.parse()?)
}
