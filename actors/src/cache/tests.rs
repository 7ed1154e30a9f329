use std::sync::atomic::{AtomicU64, Ordering};

use protocol::TenantId;
use protocol::jobs::Worker;
use tokio::sync::Notify;

use super::*;
use crate::inference::{self, ModelIdentity};
use crate::pepper::Pepper;
use crate::slots::Scanned;

const PACE: Duration = Duration::from_millis(1);

fn cache(memory_bytes: u64) -> Cache {
    start(memory_bytes, 0, PathBuf::new())
}

fn start(memory_bytes: u64, disk_bytes: u64, dir: PathBuf) -> Cache {
    let me = NodeId(1);
    let settings = Settings { memory_bytes, disk_bytes, ttl: Duration::from_secs(60), dir };
    Cache::start(me, settings, Workers::new(Worker { node: me, incarnation: 1 })).unwrap()
}

fn names(tenant: u128) -> Names {
    let identity = ModelIdentity {
        name: "m".to_owned(),
        version: "1".to_owned(),
        sha256: "00".to_owned(),
        engine: "rten".to_owned(),
        engine_version: "1".to_owned(),
        precision: "fp32".to_owned(),
    };
    Names::new(&Pepper::new(&[1; 32]), Whose::Own(TenantId(tenant)), &identity)
}

fn texts(all: &[&str]) -> Texts {
    all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>().into()
}

fn verdict(text: &str) -> Scanned {
    if text.starts_with("bad") {
        return Err("bad".to_owned());
    }
    let signals = inference::Signals {
        heuristic: 0.0,
        embedding: 0.0,
        unicode: 0.0,
        compression_bomb: 0.0,
        homoglyphs: 0.0,
    };
    Ok(inference::Verdict {
        risk: text.len() as u8,
        quarantine: false,
        action: inference::Action::Allow,
        reasons: Vec::new(),
        signals,
        confidence: 1.0,
        spans: Vec::new(),
        tokens: 0,
    })
}

/// What is told of each text: its risk, and whether it was cached; and how many were computed.
async fn score(cache: &Cache, tenant: u128, all: &[&str]) -> (Vec<(u8, bool)>, u64) {
    let computed = AtomicU64::new(0);
    let compute = |texts: Texts| {
        computed.fetch_add(texts.len() as u64, Ordering::Relaxed);
        async move { Ok::<_, ()>(texts.iter().map(verdict).collect()) }
    };
    let mut told = Tally::default();
    let tell = |tally| {
        told = tally;
        std::future::ready(())
    };
    let texts = texts(all);
    let (scored, ()) = cache.score(&names(tenant), &texts, PACE, compute, tell).await;
    let shown = |(number, scored): (usize, Scored)| {
        assert_eq!(told.cached.has(number), scored.cached);
        let risk = |entry: Entry| match entry.made {
            Made::Verdict(verdict) => verdict.risk,
            Made::Scores(_) => 255,
        };
        (scored.result.map_or(0, risk), scored.cached)
    };
    assert_eq!(told.words, texts.iter().map(documents::words).sum::<u64>());
    (scored.unwrap().into_iter().enumerate().map(shown).collect(), computed.into_inner())
}

#[tokio::test]
async fn a_text_is_computed_once_for_each_tenant() {
    let cache = cache(1 << 20);
    let first = score(&cache, 1, &["a", "b c"]).await;
    assert_eq!(first, (vec![(1, false), (3, false)], 2));
    let second = score(&cache, 1, &["b c", "dd", "a"]).await;
    assert_eq!(second, (vec![(3, true), (2, false), (1, true)], 1));
    let other = score(&cache, 2, &["a"]).await;
    assert_eq!(other, (vec![(1, false)], 1), "another tenant's");
    assert!(cache.bytes() > 0);
}

#[tokio::test]
async fn equal_texts_of_one_request_are_computed_once_and_a_failure_is_not_kept() {
    let cache = cache(1 << 20);
    let twice = score(&cache, 1, &["a", "a", "bad", "a"]).await;
    assert_eq!(twice, (vec![(1, false), (1, true), (0, false), (1, true)], 2));
    assert_eq!(score(&cache, 1, &["bad"]).await, (vec![(0, false)], 1));
    let bad = score(&cache, 1, &["bad 2", "bad 2"]).await;
    assert_eq!(bad, (vec![(0, false), (0, false)], 2), "nobody goes without an outcome");
}

#[tokio::test]
async fn what_is_made_sooner_than_written_is_in_memory_only() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(1 << 20, 1 << 30, dir.path().to_owned());
    let names = names(1);
    for (text, pace_us) in [("quick", 24), ("slow", 25)] {
        let compute =
            |texts: Texts| async move { Ok::<_, ()>(texts.iter().map(verdict).collect()) };
        let (texts, pace) = (texts(&[text]), Duration::from_micros(pace_us));
        cache.score(&names, &texts, pace, compute, |_| std::future::ready(())).await.0.unwrap();
    }
    let keys = ["quick", "slow"].map(|text| names.name(text).1);
    assert!(keys.iter().all(|key| cache.remembered(key).is_some()));
    // Asked after they were put: orders are taken in their order.
    let disk = cache.inner.disk.as_ref().unwrap();
    let kept = disk.get(keys.to_vec(), Duration::from_secs(30)).await;
    assert_eq!(kept.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn without_memory_nothing_is_cached() {
    let cache = cache(0);
    for _ in 0..2 {
        assert_eq!(score(&cache, 1, &["a", "a"]).await, (vec![(1, false), (1, false)], 2));
    }
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_computation() {
    let cache = cache(1 << 20);
    let (go, computed) = (Notify::new(), AtomicU64::new(0));
    let request = |order: [&'static str; 2]| {
        let (cache, go, computed) = (&cache, &go, &computed);
        async move {
            let compute = |texts: Texts| async move {
                go.notified().await;
                computed.fetch_add(texts.len() as u64, Ordering::Relaxed);
                go.notify_one();
                Ok::<_, ()>(texts.iter().map(verdict).collect())
            };
            let tell = |_| std::future::ready(());
            let pace = Duration::from_secs(5);
            cache.score(&names(1), &texts(&order), pace, compute, tell).await.0.unwrap()
        }
    };
    // In opposite orders, so that each would wait for the other if waiting held up computing.
    let both = join(request(["a", "bb"]), request(["bb", "a"]));
    let (_, (one, other)) = join(async { go.notify_one() }, both).await;
    assert_eq!(computed.load(Ordering::Relaxed), 2);
    let cached = |scored: &[Scored]| scored.iter().filter(|scored| scored.cached).count();
    assert_eq!(cached(&one) + cached(&other), 2);
}

#[tokio::test]
async fn who_waits_for_one_that_fails_computes_by_itself() {
    let cache = cache(1 << 20);
    let failing = |_: Texts| async { Err::<Vec<Scanned>, _>("overloaded") };
    let tell = |_| std::future::ready(());
    let (names, one) = (names(1), texts(&["a"]));
    let failing = cache.score(&names, &one, Duration::from_secs(5), failing, tell);
    let (failed, other) = join(failing, score(&cache, 1, &["a"])).await;
    assert_eq!(failed.0.unwrap_err(), "overloaded");
    assert_eq!(other, (vec![(1, false)], 1));
}
