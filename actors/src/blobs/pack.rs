//! A pack: many blobs in one file, one after another, each behind a head that names it. A pack that is
//! full, or was left by a process that ended, is sealed: the heads once more at its end, so that a start
//! reads these and not the blobs.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::{Digest, TenantId};

use super::BLOB_BYTES_MAX;

/// Checksum, length and checksum of the content, tenant, SHA-256 of the content.
pub(super) const HEAD_BYTES: usize = 4 + 4 + 4 + 16 + 32;
/// Before the heads at the end.
const SEAL: &[u8; 8] = b"skepseal";
/// After them: how many, and a checksum over all of it.
const SEAL_END_BYTES: usize = 4 + 4;
const EXTENSION: &str = "pack";

/// What is said of a blob before its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) tenant: TenantId,
    pub(super) digest: Digest,
    pub(super) bytes: u32,
    /// CRC-32C: it tells rot in a tenth of the time that SHA-256 takes.
    pub(super) sum: u32,
}

impl Head {
    /// The head of a content with that SHA-256.
    pub(super) fn of(tenant: TenantId, digest: Digest, content: &[u8]) -> Self {
        let (bytes, sum) = (content.len() as u32, crc32c::crc32c(content));
        Self { tenant, digest, bytes, sum }
    }

    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        head[8..12].copy_from_slice(&self.sum.to_le_bytes());
        head[12..28].copy_from_slice(&self.tenant.0.to_be_bytes());
        head[28..].copy_from_slice(&self.digest.0);
        let sum = crc32c::crc32c(&head[4..]);
        head[..4].copy_from_slice(&sum.to_le_bytes());
        head
    }

    /// `None` of what is no head.
    fn decode(head: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (of_head, said) = head.split_first_chunk::<4>()?;
        let (bytes, rest) = said.split_first_chunk::<4>()?;
        let (sum, names) = rest.split_first_chunk::<4>()?;
        let (tenant, digest) = names.split_first_chunk::<16>()?;
        let [of_head, bytes, sum] = [of_head, bytes, sum].map(|word| u32::from_le_bytes(*word));
        let sound = crc32c::crc32c(said) == of_head && bytes as usize <= BLOB_BYTES_MAX;
        let tenant = TenantId(u128::from_be_bytes(*tenant));
        let digest = Digest(digest.try_into().ok()?);
        sound.then_some(Self { tenant, digest, bytes, sum })
    }
}

/// A blob in a pack, and where its content begins.
pub(super) type Found = (Head, u32);

/// The file of a pack.
pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:010}.{EXTENSION}"))
}

/// The packs of a directory, oldest first.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            numbers.extend(stem.and_then(|stem| stem.parse::<u32>().ok()));
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A new pack, which nobody else has begun.
pub(super) fn create(dir: &Path, number: u32) -> io::Result<File> {
    let made =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path(dir, number))?;
    File::open(dir)?.sync_all()?;
    Ok(made)
}

/// What is said after the last blob of a pack with these heads.
pub(super) fn seal(heads: impl ExactSizeIterator<Item = Head>) -> Vec<u8> {
    let count = heads.len() as u32;
    let mut seal = SEAL.to_vec();
    heads.for_each(|head| seal.extend_from_slice(&head.encode()));
    seal.extend_from_slice(&count.to_le_bytes());
    let sum = crc32c::crc32c(&seal);
    seal.extend_from_slice(&sum.to_le_bytes());
    seal
}

/// The blobs of a pack that no process writes to. One without a seal is read whole, and sealed if there is
/// nothing wrong with it; of one that has damage or a torn end, what proves itself is found, each time.
pub(super) fn open(path: &Path) -> io::Result<Vec<Found>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let bytes = file.metadata()?.len();
    if let Some(found) = sealed(&file, bytes)? {
        return Ok(found);
    }
    let (found, end) = scan(&file, bytes)?;
    if let Some(end) = end {
        // A seal that was being written goes.
        file.set_len(end)?;
        let mut file = &file;
        file.seek(SeekFrom::Start(end))?;
        file.write_all(&seal(found.iter().map(|(head, _)| *head)))?;
    }
    // The process may have ended before its sync: what is found counts as durable from here on.
    file.sync_all()?;
    Ok(found)
}

fn sealed(file: &File, bytes: u64) -> io::Result<Option<Vec<Found>>> {
    let Some(end) = bytes.checked_sub(SEAL_END_BYTES as u64) else { return Ok(None) };
    let mut last = [0; SEAL_END_BYTES];
    file.read_exact_at(&mut last, end)?;
    let count = u32::from_le_bytes([last[0], last[1], last[2], last[3]]);
    let heads_bytes = u64::from(count) * HEAD_BYTES as u64;
    let Some(start) = end.checked_sub(heads_bytes + SEAL.len() as u64) else { return Ok(None) };
    let mut seal = vec![0; (bytes - start) as usize];
    file.read_exact_at(&mut seal, start)?;
    let (said, sum) = seal.split_at(seal.len() - 4);
    if !said.starts_with(SEAL) || crc32c::crc32c(said).to_le_bytes() != *sum {
        return Ok(None);
    }
    let (mut found, mut at) = (Vec::with_capacity(count as usize), 0);
    for head in said[SEAL.len()..].as_chunks::<HEAD_BYTES>().0 {
        let Some(head) = Head::decode(head) else { return Ok(None) };
        at += HEAD_BYTES as u32;
        found.push((head, at));
        at += head.bytes;
    }
    Ok((u64::from(at) == start).then_some(found))
}

/// The blobs whose content has the sum that their heads say; and where the last one ends, if nothing but the
/// beginning of a seal follows and none was left out.
fn scan(file: &File, bytes: u64) -> io::Result<(Vec<Found>, Option<u64>)> {
    let mut file = BufReader::new(file);
    file.seek(SeekFrom::Start(0))?;
    let (mut found, mut at, mut sound) = (Vec::new(), 0_u64, true);
    let mut content = Vec::new();
    loop {
        let left = bytes - at;
        let mut start = [0; HEAD_BYTES];
        let start = &mut start[..left.min(HEAD_BYTES as u64) as usize];
        file.read_exact(start)?;
        let head = start.as_array().and_then(Head::decode);
        let Some(head) = head.filter(|head| HEAD_BYTES as u64 + u64::from(head.bytes) <= left)
        else {
            let sealing = SEAL.len().min(start.len());
            sound &= start[..sealing] == SEAL[..sealing];
            return Ok((found, sound.then_some(at)));
        };
        content.resize(head.bytes as usize, 0);
        file.read_exact(&mut content)?;
        let begins = at + HEAD_BYTES as u64;
        match u32::try_from(begins) {
            Ok(begins) if crc32c::crc32c(&content) == head.sum => found.push((head, begins)),
            Ok(_) | Err(_) => sound = false,
        }
        at = begins + u64::from(head.bytes);
    }
}

/// The content that a pack has at a place, if it has the sum; `None` where there is no such pack any more.
pub(super) fn read(path: &Path, at: u32, bytes: u32, sum: u32) -> io::Result<Option<Bytes>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = vec![0; bytes as usize];
    file.read_exact_at(&mut content, u64::from(at))?;
    if crc32c::crc32c(&content) != sum {
        let what = format!("{} has rotted at byte {at}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(content.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::sha256;

    const TENANT: TenantId = TenantId(7);

    fn record(content: &[u8]) -> Vec<u8> {
        let head = Head::of(TENANT, sha256(content), content);
        [&head.encode(), content].concat()
    }

    /// A pack of these bytes, opened; and how long it is then.
    fn opened(bytes: &[u8]) -> (Vec<Digest>, usize, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), 3);
        std::fs::write(&path, bytes).unwrap();
        let found = open(&path).unwrap();
        for (head, at) in &found {
            let content = read(&path, *at, head.bytes, head.sum).unwrap().unwrap();
            assert_eq!((head.tenant, sha256(&content)), (TENANT, head.digest));
        }
        let after = std::fs::read(&path).unwrap();
        assert_eq!(open(&path).unwrap(), found, "the same at the next start");
        assert_eq!(numbers(dir.path()).unwrap(), [3]);
        (found.iter().map(|(head, _)| head.digest).collect(), after.len(), after)
    }

    #[test]
    fn a_pack_that_was_left_is_sealed_at_the_next_start() {
        let contents: [&[u8]; 3] = [b"one", b"", b"three"];
        let records = contents.map(record).concat();
        let digests = contents.map(sha256);
        let (found, length, sealed) = opened(&records);
        assert_eq!(found, digests);
        assert!(length > records.len() && sealed.starts_with(&records));
        // Wherever the process ended while it sealed.
        for cut in [records.len() + 1, records.len() + 20, length - 1] {
            assert_eq!(opened(&sealed[..cut]), (digests.to_vec(), length, sealed.clone()), "{cut}");
        }
        assert_eq!(opened(&[]).0, []);
    }

    #[test]
    fn of_a_torn_or_damaged_pack_the_sound_blobs_are_found_and_it_is_left_as_it_is() {
        let contents: [&[u8]; 3] = [b"first", b"second", b"third"];
        let records = contents.map(record).concat();
        let (first, second) = (record(contents[0]).len(), record(contents[1]).len());
        let digests = contents.map(sha256);
        let check = |bytes: &[u8], expected: &[Digest]| {
            let (found, length, _) = opened(bytes);
            assert_eq!((&found[..], length), (expected, bytes.len()));
        };
        // Torn in a content, in a head, and where the file grew and the blob did not come.
        check(&records[..records.len() - 1], &digests[..2]);
        check(&records[..first + second + 9], &digests[..2]);
        check(&[&records[..first + second], &[0; 200]].concat(), &digests[..2]);
        // A content has rotted, then a head.
        let mut rotten = records;
        rotten[first + HEAD_BYTES] ^= 1;
        check(&rotten, &[digests[0], digests[2]]);
        rotten[first + 30] ^= 1;
        check(&rotten, &digests[..1]);
    }

    #[test]
    fn a_seal_that_has_rotted_is_made_anew_from_the_blobs() {
        let (_, length, sealed) = opened(&record(b"content"));
        for place in [length - 1, length - 20, length - SEAL_END_BYTES - HEAD_BYTES - 1] {
            let mut rotten = sealed.clone();
            rotten[place] ^= 1;
            let (found, ..) = opened(&rotten);
            assert_eq!(found, [sha256(b"content")], "{place}");
        }
    }
}
