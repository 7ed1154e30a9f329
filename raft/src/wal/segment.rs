//! One segment file: a 64-byte header, then records.
//!
//! Invariant: bytes below `prepared` are on disk with their file size, so writing there and syncing commits no metadata;
//! zeros are written at and above `prepared` only, data below it only, hence the two never meet.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    locked,
    record::{u32_at, u64_at},
};

/// Where the first record of a segment stands.
pub(super) const HEADER_BYTES: u64 = 64;
pub(super) use protocol::versions::LOG_SEGMENT as FORMAT_VERSION;
const MAGIC: &[u8; 8] = b"skepwal\n";
const ZEROS_BYTES: usize = 256 << 10;

/// What a segment says about itself: `magic, version u32, capacity u32, sequence u64, salt u64, 28 zeros, crc32c u32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) capacity: u32,
    pub(super) sequence: u64,
    salt: u64,
}

impl Header {
    fn new(sequence: u64, capacity: u32) -> Self {
        // Only has to be unknown to clients; the standard library's hash keys are.
        let salt = RandomState::new().build_hasher().finish();
        Self { version: FORMAT_VERSION, capacity, sequence, salt }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.capacity.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.resize(HEADER_BYTES as usize - 4, 0);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// The header at the beginning of a segment's bytes; the version is not judged here.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some(bytes) = bytes.get(..HEADER_BYTES as usize) else {
            return Err("segment header is cut off");
        };
        if &bytes[..8] != MAGIC {
            return Err("segment header has no magic");
        }
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err("segment header checksum does not match");
        }
        Ok(Self {
            version: u32_at(bytes, 8),
            capacity: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
        })
    }

    /// What every record checksum of the segment begins with.
    pub(super) fn seed(&self) -> u32 {
        let sequence = crc32c::crc32c(&self.sequence.to_le_bytes());
        crc32c::crc32c_append(sequence, &self.salt.to_le_bytes())
    }
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) capacity: u64,
    pub(super) seed: u32,
    pub(super) path: PathBuf,
    file: File,
    prepared: AtomicU64,
    preparing: Mutex<()>,
}

impl Segment {
    /// A new segment with its first `prepared` bytes ready, durable with its name.
    pub(super) fn create(
        dir: &Path,
        sequence: u64,
        capacity: u32,
        prepared: u64,
    ) -> io::Result<Self> {
        let path = path(dir, sequence);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        let header = Header::new(sequence, capacity);
        file.write_all_at(&header.encode(), 0)?;
        let segment = Self::adopt(path, file, header, HEADER_BYTES);
        segment.prepare(prepared)?;
        segment.file.sync_all()?;
        sync_dir(dir)?;
        Ok(segment)
    }

    /// A segment found on disk, `length` bytes long.
    pub(super) fn open(path: PathBuf, header: Header, length: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self::adopt(path, file, header, length))
    }

    fn adopt(path: PathBuf, file: File, header: Header, prepared: u64) -> Self {
        Self {
            sequence: header.sequence,
            capacity: u64::from(header.capacity),
            seed: header.seed(),
            path,
            file,
            prepared: AtomicU64::new(prepared),
            preparing: Mutex::new(()),
        }
    }

    pub(super) fn prepared(&self) -> u64 {
        self.prepared.load(Ordering::Acquire)
    }

    /// Makes at least `upto` bytes (at most the capacity) ready to be written.
    pub(super) fn prepare(&self, upto: u64) -> io::Result<()> {
        let upto = upto.min(self.capacity);
        if self.prepared() >= upto {
            return Ok(());
        }
        let _alone = locked(&self.preparing);
        let mut at = self.prepared();
        if at >= upto {
            return Ok(());
        }
        let zeros = vec![0; ZEROS_BYTES];
        while at < upto {
            let bytes = (upto - at).min(zeros.len() as u64);
            self.file.write_all_at(&zeros[..bytes as usize], at)?;
            at += bytes;
        }
        self.file.sync_data()?;
        self.prepared.store(at, Ordering::Release);
        Ok(())
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The file of a segment: its sequence in 16 hexadecimal digits.
pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.seg"))
}

/// The sequence in a segment's file name; `None` when the name is not one we would give.
pub(super) fn sequence(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    let sequence = u64::from_str_radix(stem, 16).ok()?;
    (format!("{sequence:016x}") == stem).then_some(sequence)
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
