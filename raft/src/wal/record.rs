//! One record of the log as bytes: `len u32, crc32c u32, kind u8 + 3 zeros, group u32, batch_start u32 + 4 zeros, term u64,
//! index u64, payload`, little endian, zero-padded to 8 bytes.
//!
//! Invariant: the checksum covers every byte but its own and begins with the segment's sequence and salt and with the
//! record's offset, so a record validates only at the very place it was written for. Nothing that a client puts into a
//! payload, and nothing left over from another segment, can pass for a record.

use bytes::Bytes;

/// Bytes before the payload.
pub(super) const HEAD_BYTES: usize = 40;

/// Largest payload of one record.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// One change to the log of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An entry is appended.
    Entry { term: u64, index: u64, payload: Bytes },
    /// The vote is replaced.
    Vote(Bytes),
    /// The committed position is replaced. Lazy: needs no sync of its own.
    Committed(Bytes),
    /// All entries with `index >= from` are gone.
    Truncate { from: u64 },
    /// All entries up to and including `index` are gone. Lazy: lost, it only brings back entries that nobody needs.
    Purge { term: u64, index: u64, payload: Bytes },
    /// This replica lives here.
    Host { replica: u64 },
    /// No replica with this id, or a lower one, may ever live here again.
    Tombstone { replica: u64 },
    /// The group is gone from this node, with everything that was said about it but the tombstone.
    Retire,
}

impl Record {
    /// Whether the record may wait for the next sync that happens anyway.
    pub(super) fn is_lazy(&self) -> bool {
        matches!(self, Self::Committed(_) | Self::Purge { .. })
    }

    pub(super) fn payload(&self) -> &[u8] {
        match self {
            Self::Entry { payload, .. } | Self::Purge { payload, .. } => payload,
            Self::Vote(payload) | Self::Committed(payload) => payload,
            Self::Truncate { .. } | Self::Host { .. } | Self::Tombstone { .. } | Self::Retire => {
                &[]
            }
        }
    }

    pub(super) fn head(&self, group: u32) -> Head {
        let (kind, term, index) = match *self {
            Self::Entry { term, index, .. } => (Kind::Entry, term, index),
            Self::Vote(_) => (Kind::Vote, 0, 0),
            Self::Committed(_) => (Kind::Committed, 0, 0),
            Self::Truncate { from } => (Kind::Truncate, 0, from),
            Self::Purge { term, index, .. } => (Kind::Purge, term, index),
            Self::Host { replica } => (Kind::Host, 0, replica),
            Self::Tombstone { replica } => (Kind::Tombstone, 0, replica),
            Self::Retire => (Kind::Retire, 0, 0),
        };
        Head { kind, group, term, index }
    }
}

/// What a record is. The numbers are on disk: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    Entry = 1,
    Vote = 2,
    Committed = 3,
    Truncate = 4,
    Purge = 5,
    Host = 6,
    Retire = 7,
    /// Of no group. `term` is where the previous segment ended, `index` the oldest segment that still counts.
    Mark = 8,
    Tombstone = 9,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Host,
            7 => Self::Retire,
            8 => Self::Mark,
            9 => Self::Tombstone,
            _ => return None,
        })
    }
}

/// The fixed part of a record, without what its place adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) group: u32,
    pub(super) term: u64,
    pub(super) index: u64,
}

/// A record found on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) head: Head,
    /// Everything before this offset of the segment was durable when the record was written.
    pub(super) batch_start: u32,
    pub(super) payload: &'a [u8],
}

/// Bytes that a record with this payload takes on disk.
pub(super) fn size(payload: usize) -> usize {
    (HEAD_BYTES + payload).next_multiple_of(8)
}

/// Appends the record that will stand at `offset` of the segment with this seed.
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    seed: u32,
    offset: u32,
    batch_start: u32,
    head: &Head,
    payload: &[u8],
) {
    let start = buffer.len();
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&[head.kind as u8, 0, 0, 0]);
    buffer.extend_from_slice(&head.group.to_le_bytes());
    buffer.extend_from_slice(&batch_start.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&head.term.to_le_bytes());
    buffer.extend_from_slice(&head.index.to_le_bytes());
    buffer.extend_from_slice(payload);
    buffer.resize(start + size(payload.len()), 0);
    let crc = checksum(seed, offset, &buffer[start..]);
    buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// The record at the beginning of `bytes`, which stand at `offset` of the segment; or why there is none.
pub(super) fn decode(bytes: &[u8], seed: u32, offset: u32) -> Result<Found<'_>, &'static str> {
    if bytes.len() < HEAD_BYTES {
        return Err("record head is cut off");
    }
    let length = u32_at(bytes, 0) as usize;
    if length > RECORD_BYTES_MAX || size(length) > bytes.len() {
        return Err("record is longer than what is left");
    }
    let Some(kind) = Kind::parse(bytes[8]) else {
        return Err("record kind is unknown");
    };
    let bytes = &bytes[..size(length)];
    if u32_at(bytes, 4) != checksum(seed, offset, bytes) {
        return Err("record checksum does not match");
    }
    Ok(Found {
        head: Head {
            kind,
            group: u32_at(bytes, 12),
            term: u64_at(bytes, 24),
            index: u64_at(bytes, 32),
        },
        batch_start: u32_at(bytes, 16),
        payload: &bytes[HEAD_BYTES..HEAD_BYTES + length],
    })
}

/// Where the batch of the would-be record at the beginning of `bytes` began; a cheap look before the checksum.
pub(super) fn batch_start(bytes: &[u8]) -> Option<u32> {
    (bytes.len() >= HEAD_BYTES).then(|| u32_at(bytes, 16))
}

fn checksum(seed: u32, offset: u32, record: &[u8]) -> u32 {
    let placed = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(placed, &record[..4]), &record[8..])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
