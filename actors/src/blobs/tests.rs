use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use protocol::{Digest, TenantId};

use super::disk::Disk;
use super::pack;
use super::sha256;

const TENANT: TenantId = TenantId(9);
const NO_AGE: Duration = Duration::ZERO;

fn content(number: usize) -> Bytes {
    Bytes::from(format!("content {number}").repeat(number % 40))
}

async fn put(disk: &Disk, content: Bytes) -> Digest {
    let digest = sha256(&content);
    disk.write(TENANT, digest, content).await.unwrap();
    digest
}

async fn has_all(disk: &Disk, contents: impl IntoIterator<Item = Bytes>) -> bool {
    let read = contents.into_iter().map(|content| async move {
        let digest = sha256(&content);
        disk.has(TENANT, digest) && disk.read(TENANT, digest).await.unwrap() == Some(content)
    });
    join_all(read).await.into_iter().all(|has| has)
}

fn packs(dir: &Path) -> Vec<u32> {
    pack::numbers(dir).unwrap()
}

/// Changes a byte of the first pack that has the content.
fn rot(dir: &Path, content: &[u8]) {
    for number in packs(dir) {
        let path = pack::path(dir, number);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(content.len()).position(|window| window == content);
        if let Some(at) = at {
            bytes[at] ^= 1;
            return std::fs::write(&path, bytes).unwrap();
        }
    }
    panic!("no pack has it");
}

#[tokio::test]
async fn blobs_that_come_at_a_time_share_a_pack_and_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let all = || (0..500).map(content);
    for _ in 0..3 {
        let disk = Disk::open(dir.path()).unwrap();
        join_all(all().map(|content| put(&disk, content))).await;
        assert!(has_all(&disk, all()).await);
        assert!(!disk.has(TenantId(8), sha256(&content(1))), "of another tenant");
        drop(disk);
        assert_eq!(packs(dir.path()), [0], "what is here is not written again");
    }
}

#[tokio::test]
async fn a_blob_that_has_rotted_is_an_error_once_and_can_be_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    let (good, bad) = (content(3), content(5));
    put(&disk, good.clone()).await;
    let digest = put(&disk, bad.clone()).await;
    rot(dir.path(), &bad);
    let error = disk.read(TENANT, digest).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(disk.read(TENANT, digest).await.unwrap(), None);
    assert!(!disk.has(TENANT, digest));
    put(&disk, bad.clone()).await;
    assert!(has_all(&disk, [good.clone(), bad.clone()]).await);
    drop(disk);
    assert!(has_all(&Disk::open(dir.path()).unwrap(), [good, bad]).await, "the newer one counts");
}

#[tokio::test]
async fn a_sweep_keeps_what_is_named_and_young_and_wins_the_room_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path()).unwrap();
    for number in 0..30 {
        put(&disk, content(number)).await;
    }
    let named: BTreeSet<Digest> = [7, 8].map(|number| sha256(&content(number))).into();
    let young = disk.sweep(TENANT, named.clone(), Duration::from_secs(60)).await.unwrap();
    let foreign = disk.sweep(TenantId(8), BTreeSet::new(), NO_AGE).await.unwrap();
    assert_eq!((young, foreign), (0, 0));
    drop(disk);
    // Closed at the start, the pack can be emptied.
    let disk = Disk::open(dir.path()).unwrap();
    assert_eq!(disk.sweep(TENANT, named, NO_AGE).await.unwrap(), 28);
    assert!(has_all(&disk, [7, 8].map(content)).await);
    assert!(!disk.has(TENANT, sha256(&content(9))));
    assert_eq!(packs(dir.path()), [1]);
    drop(disk);
    let disk = Disk::open(dir.path()).unwrap();
    assert!(has_all(&disk, [7, 8].map(content)).await);
    assert_eq!(disk.sweep(TENANT, BTreeSet::new(), NO_AGE).await.unwrap(), 2);
    assert_eq!(packs(dir.path()), [0; 0]);
}

#[tokio::test]
async fn a_write_that_fails_says_so_and_the_next_one_is_in_another_pack() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = dir.path().join("blobs");
    let disk = Disk::open(&blobs).unwrap();
    let away = dir.path().join("away");
    std::fs::rename(&blobs, &away).unwrap();
    let (one, digest) = (content(1), sha256(&content(1)));
    disk.write(TENANT, digest, one.clone()).await.unwrap_err();
    assert!(!disk.has(TENANT, digest), "what failed is not believed");
    std::fs::rename(&away, &blobs).unwrap();
    put(&disk, one.clone()).await;
    assert!(has_all(&disk, [one]).await);
    assert_eq!(packs(&blobs), [1]);
}
