//! The file of a group: a magic number and the format; the head; parts with rows in order of their keys;
//! an empty part; the SHA-256 of all before. Head and parts are `length u32` (little-endian) and a
//! frame of the codec, which has a checksum.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use protocol::Digest;
use protocol::codec::{self, CodecError, FRAME_BYTES_MAX};
use protocol::nodes::Map;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Label, Summary};
use crate::checkpoint::{Head, Row};
use crate::machine::{Machine, Scalars};
use crate::node::cut::{Cut, CutError};
use crate::types::LogId;

const MAGIC: &[u8; 8] = b"skepback";
/// The format that is written.
pub const FORMAT: u32 = 1;
const SUM_BYTES: usize = 32;

/// Why bytes are not the state that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("it is not a state of a group")]
    Unknown,
    #[error("it has format {got}, this release reads {FORMAT}")]
    Newer { got: u32 },
    #[error("it is of group {} of {} of {}", .0.group, .0.backup, .0.cluster)]
    Foreign(Label),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error("the state does not encode: {0}")]
    Codec(#[from] CodecError),
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// Of the whole file.
    pub sha256: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) label: Label,
    pub(super) applied: LogId,
    pub(super) scalars: Scalars,
}

/// A file that is being written, piece by piece.
#[derive(Debug)]
pub struct Writing {
    label: Label,
    cut: Cut,
    pen: Pen,
    /// Key of the last row; `None` before the head.
    after: Option<Bytes>,
    written: Option<Written>,
}

impl Writing {
    /// The file of a cut.
    #[must_use]
    pub fn new(label: Label, cut: Cut) -> Self {
        Self { label, cut, pen: Pen::default(), after: None, written: None }
    }

    /// The next bytes; `None` when these were all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, WriteError> {
        if self.written.is_some() {
            return Ok(None);
        }
        let Some(after) = self.after.take() else {
            let Head { applied, scalars, .. } = self.cut.head.clone();
            self.after = Some(Bytes::new());
            return Ok(Some(self.pen.begin(&Header { label: self.label, applied, scalars })?));
        };
        let rows = self.cut.rows(after).await?;
        if let Some((last, _)) = rows.last() {
            self.after = Some(last.clone());
            return Ok(Some(self.pen.part(&rows)?));
        }
        let (end, written) = self.pen.end();
        self.written = Some(written);
        Ok(Some(end))
    }

    /// What was written, when it is all.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        self.written
    }
}

#[derive(Debug, Default)]
pub(super) struct Pen {
    hasher: Sha256,
    bytes: u64,
}

impl Pen {
    pub(super) fn begin(&mut self, header: &Header) -> Result<Bytes, CodecError> {
        let mut text = BytesMut::from(&MAGIC[..]);
        text.put_u32_le(FORMAT);
        frame(&mut text, header)?;
        Ok(self.note(text))
    }

    pub(super) fn part(&mut self, rows: &Vec<Row>) -> Result<Bytes, CodecError> {
        let mut text = BytesMut::new();
        frame(&mut text, rows)?;
        Ok(self.note(text))
    }

    pub(super) fn end(&mut self) -> (Bytes, Written) {
        let mut text = BytesMut::new();
        text.put_u32_le(0);
        self.hasher.update(&text);
        text.put_slice(&self.hasher.clone().finalize());
        self.hasher.update(&text[4..]);
        let bytes = self.bytes + text.len() as u64;
        let sha256 = Digest(self.hasher.clone().finalize().into());
        (text.freeze(), Written { bytes, sha256 })
    }

    fn note(&mut self, text: BytesMut) -> Bytes {
        self.hasher.update(&text);
        self.bytes += text.len() as u64;
        text.freeze()
    }
}

fn frame<T: Serialize>(text: &mut BytesMut, value: &T) -> Result<(), CodecError> {
    let frame = codec::encode(value)?;
    text.put_u32_le(frame.len() as u32);
    text.put_slice(&frame);
    Ok(())
}

/// A file that is being read, piece by piece.
#[derive(Debug)]
pub struct Reading {
    wanted: Label,
    buffer: BytesMut,
    hasher: Sha256,
    bytes: u64,
    stage: Stage,
    header: Option<Header>,
    machine: Machine,
    rows: u64,
    last: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Magic,
    Frames,
    Sum,
    Over,
}

impl Reading {
    /// A file that must be the one of this label.
    #[must_use]
    pub fn new(wanted: Label) -> Self {
        Self {
            wanted,
            buffer: BytesMut::new(),
            hasher: Sha256::new(),
            bytes: 0,
            stage: Stage::Magic,
            header: None,
            machine: Machine::new(wanted.group),
            rows: 0,
            last: Bytes::new(),
        }
    }

    /// Takes the next bytes. Computes: for blocking contexts.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.buffer.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        loop {
            let went_on = match self.stage {
                Stage::Magic => self.magic()?,
                Stage::Frames => self.frame()?,
                Stage::Sum => self.sum()?,
                Stage::Over if self.buffer.is_empty() => return Ok(()),
                Stage::Over => return Err(damaged("bytes follow its end")),
            };
            if !went_on {
                return Ok(());
            }
        }
    }

    fn magic(&mut self) -> Result<bool, FileError> {
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            return Err(FileError::Unknown);
        }
        if self.buffer.len() < MAGIC.len() + 4 {
            return Ok(false);
        }
        let mut text = self.split(MAGIC.len() + 4);
        text.advance(MAGIC.len());
        let got = text.get_u32_le();
        if got != FORMAT {
            return Err(FileError::Newer { got });
        }
        self.stage = Stage::Frames;
        Ok(true)
    }

    fn frame(&mut self) -> Result<bool, FileError> {
        let Some(length) = self.buffer.get(..4) else { return Ok(false) };
        let length = (&mut &length[..]).get_u32_le() as usize;
        if length > FRAME_BYTES_MAX {
            return Err(damaged("a part is too long"));
        }
        if self.buffer.len() < 4 + length {
            return Ok(false);
        }
        let text = self.split(4 + length);
        if length == 0 {
            self.stage = Stage::Sum;
            return Ok(true);
        }
        match &self.header {
            None => self.open(read(&text[4..])?)?,
            Some(_) => self.load(&read::<Vec<Row>>(&text[4..])?)?,
        }
        Ok(true)
    }

    fn open(&mut self, header: Header) -> Result<(), FileError> {
        if header.label != self.wanted {
            return Err(FileError::Foreign(header.label));
        }
        self.header = Some(header);
        Ok(())
    }

    fn load(&mut self, rows: &[Row]) -> Result<(), FileError> {
        for (name, value) in rows {
            let Some((&table, key)) = name.split_first() else {
                return Err(damaged("a row has no name"));
            };
            if *name <= self.last {
                return Err(damaged("rows are not in order"));
            }
            self.last = name.clone();
            self.machine.load(table, key, value).map_err(|error| damaged(&error.to_string()))?;
            self.rows += 1;
        }
        Ok(())
    }

    fn sum(&mut self) -> Result<bool, FileError> {
        if self.buffer.len() < SUM_BYTES {
            return Ok(false);
        }
        let wanted = self.hasher.clone().finalize();
        if self.split(SUM_BYTES)[..] != wanted[..] {
            return Err(damaged("its SHA-256 is another"));
        }
        self.stage = Stage::Over;
        Ok(true)
    }

    fn split(&mut self, bytes: usize) -> BytesMut {
        let text = self.buffer.split_to(bytes);
        self.hasher.update(&text);
        text
    }

    /// The state, when the file has ended. Computes: for blocking contexts.
    pub fn finish(mut self) -> Result<State, FileError> {
        let Some(header) = self.header.filter(|_| self.stage == Stage::Over) else {
            return Err(damaged("it is cut off"));
        };
        let Header { applied, scalars, .. } = header;
        if self.rows != scalars.rows() {
            return Err(damaged(&format!("{} of {} rows are there", self.rows, scalars.rows())));
        }
        let restored = self.machine.restore(scalars);
        restored.map_err(|error| damaged(&error.to_string()))?;
        let summary = Summary {
            index: applied.index,
            term: applied.committed_leader_id().term,
            digest: self.machine.digest(),
            rows: self.rows,
            bytes: self.bytes,
            sha256: Digest(self.hasher.finalize().into()),
        };
        Ok(State { label: self.wanted, applied, machine: self.machine, summary })
    }
}

fn read<T: serde::de::DeserializeOwned>(frame: &[u8]) -> Result<T, FileError> {
    codec::decode(frame).map_err(|error| damaged(&error.to_string()))
}

fn damaged(what: &str) -> FileError {
    FileError::Damaged(what.to_owned())
}

/// The state of a group, read back whole.
#[derive(Debug)]
pub struct State {
    pub(super) label: Label,
    pub(super) applied: LogId,
    pub(super) machine: Machine,
    summary: Summary,
}

impl State {
    /// What it is.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The state itself.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The cluster map, which the meta group has.
    #[must_use]
    pub fn map(&self) -> Option<&Map> {
        self.machine.nodes.map()
    }
}
