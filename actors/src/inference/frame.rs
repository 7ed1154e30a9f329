//! What a node and the processes of its models say to each other, over one socket each: a length, then a
//! frame of the codec.

use std::io::{self, Read, Write};

use protocol::codec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::EngineChoice;

/// The first message to a process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Load {
    /// The unpacked bundle.
    pub(super) dir: String,
    pub(super) engine: EngineChoice,
    pub(super) library: Option<String>,
    /// Bytes that it may have beside what it has when it is ready.
    pub(super) batch_bytes: u64,
}

/// The answer to [`Load`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Loaded {
    Ready { engine: String, engine_version: String, bytes: u64 },
    Refused(String),
}

/// Vectors of as many texts as were sent, or why there are none.
pub(super) type Scores = Result<Vec<Vec<f32>>, String>;

pub(super) fn write<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let frame = codec::encode(value).map_err(io::Error::other)?;
    to.write_all(&(frame.len() as u32).to_le_bytes())?;
    to.write_all(&frame)
}

pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > codec::FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame that is too long"));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    codec::decode(&frame).map_err(io::Error::other)
}
