//! What a backup consists of. Written last: without it there is no backup.
//!
//! On disk it is one JSON object of the manifest and its SHA-256. It is read only if writing it again
//! gives the very same bytes, so no flipped bit passes.

use std::fmt::Display;

use protocol::{BackupId, ClusterId, Digest, GroupId, NodeId};
use raft::backup::Summary;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::blobs::sha256;

/// The format that is written.
pub(super) const FORMAT: u32 = 1;
/// The longest manifest: some hundred bytes for each group.
pub(super) const BYTES_MAX: u64 = 4 << 20;

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it has format {got}, this release reads {FORMAT}")]
    Newer { got: u32 },
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    #[serde(with = "text")]
    pub backup: BackupId,
    #[serde(with = "text")]
    pub cluster: ClusterId,
    /// The node that made it.
    #[serde(with = "text")]
    pub node: NodeId,
    pub release: String,
    /// RFC 3339, by the wall clock of that node.
    pub started_at: String,
    pub finished_at: String,
    pub groups: Vec<Group>,
}

/// One group in it: the file `group-N`, and `blobs-N` with the names of its blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub group: u32,
    /// The entry of the group's log that the state is of.
    pub index: u64,
    pub term: u64,
    /// Of the state.
    #[serde(with = "text")]
    pub digest: Digest,
    pub rows: u64,
    /// Of the file.
    pub bytes: u64,
    #[serde(with = "text")]
    pub sha256: Digest,
    pub blobs: Blobs,
}

/// The blobs that the state of a group names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    pub count: u64,
    pub bytes: u64,
    /// Of the file with their names.
    #[serde(with = "text")]
    pub sha256: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    sha256: String,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

impl Manifest {
    /// The bytes of the file.
    pub fn seal(&self) -> Result<Vec<u8>, serde_json::Error> {
        let manifest = serde_json::to_string(self)?;
        let sum = sha256(manifest.as_bytes());
        Ok(format!("{{\"sha256\":\"{sum}\",\"manifest\":{manifest}}}\n").into_bytes())
    }

    /// Reads such bytes.
    pub fn open(bytes: &[u8]) -> Result<Self, ManifestError> {
        let damaged = |why: String| ManifestError::Damaged(why);
        let shape = |error: serde_json::Error| damaged(error.to_string());
        let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(shape)?;
        let text = sealed.manifest.get();
        if sha256(text.as_bytes()).to_string() != sealed.sha256 {
            return Err(damaged("its SHA-256 is another".to_owned()));
        }
        let Versioned { format } = serde_json::from_str(text).map_err(shape)?;
        if format != FORMAT {
            return Err(ManifestError::Newer { got: format });
        }
        let manifest: Self = serde_json::from_str(text).map_err(shape)?;
        if manifest.seal().map_err(shape)? != bytes {
            return Err(damaged("it is not as it was written".to_owned()));
        }
        Ok(manifest)
    }

    /// Bytes of all files and blobs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.bytes + group.blobs.bytes).sum()
    }

    /// Blobs of all groups.
    #[must_use]
    pub fn blobs(&self) -> u64 {
        self.groups.iter().map(|group| group.blobs.count).sum()
    }
}

impl Group {
    /// What a state that was read back is in the manifest.
    pub(super) fn new(group: GroupId, state: &Summary, blobs: Blobs) -> Self {
        let &Summary { index, term, digest, rows, bytes, sha256 } = state;
        Self { group: group.0, index, term, digest, rows, bytes, sha256, blobs }
    }

    /// What a state that is read back must be.
    pub(super) fn summary(&self) -> Summary {
        let &Self { index, term, digest, rows, bytes, sha256, .. } = self;
        Summary { index, term, digest, rows, bytes, sha256 }
    }
}

/// A value that has one text form.
trait Text: Sized {
    fn read(text: &str) -> Option<Self>;
}

impl Text for BackupId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Text for ClusterId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Text for NodeId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Text for Digest {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

mod text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Display, Text};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::read(&text).ok_or_else(|| D::Error::custom("not an identifier of the wanted kind"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let blobs = Blobs { count: 1, bytes: 10, sha256: Digest([7; 32]) };
        Manifest {
            format: FORMAT,
            backup: BackupId(1),
            cluster: ClusterId(2),
            node: NodeId(3),
            release: "0.0.0".to_owned(),
            started_at: "2026-11-21T10:00:00.000Z".to_owned(),
            finished_at: "2026-11-21T10:00:01.000Z".to_owned(),
            groups: vec![Group {
                group: 0,
                index: 40,
                term: 2,
                digest: Digest([5; 32]),
                rows: 12,
                bytes: 1_000,
                sha256: Digest([6; 32]),
                blobs,
            }],
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let sealed = manifest().seal().unwrap();
        assert_eq!(Manifest::open(&sealed).unwrap(), manifest());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::open(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(Manifest::open(&sealed[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_newer_format_says_so_whatever_else_is_in_it() {
        let text = r#"{"format":2,"something":"else"}"#;
        let sum = sha256(text.as_bytes());
        let sealed = format!("{{\"sha256\":\"{sum}\",\"manifest\":{text}}}\n");
        assert_eq!(Manifest::open(sealed.as_bytes()), Err(ManifestError::Newer { got: 2 }));
    }
}
