//! Bytes that are stored or sent between nodes: version, checksum, then the value.
//!
//! Layout: `version u8, crc32c u32 (little-endian, over version and body), body`. In every version the
//! first five bytes are these, so that damage is not taken for a newer release. This file and [`v1`]
//! are the only ones that name the serializer.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::versions::FRAME as VERSION;

mod v1;

/// The longest frame that is read or written. Content travels as blobs, so nothing is near it.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
const HEADER_BYTES: usize = 5;
/// Room for what stands before the parts of a list.
const LIST_HEAD_BYTES: usize = 64;

/// Bytes that are not a value of the wanted type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("frame of {bytes} bytes is shorter than its header")]
    Short { bytes: usize },
    #[error("frame of {bytes} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("frame has version {got}, this build reads {VERSION}")]
    Version { got: u8 },
    #[error("checksum does not match")]
    Checksum,
    #[error("not a value of this type: {0}")]
    Shape(String),
}

/// The frame of a value.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut frame = vec![0; HEADER_BYTES];
    v1::encode_into(value, &mut frame)?;
    sealed(frame)
}

/// Writes the header in front of a body.
fn sealed(mut frame: Vec<u8>) -> Result<Vec<u8>, CodecError> {
    frame[0] = VERSION;
    if frame.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLong { bytes: frame.len() });
    }
    let sum = checksum(&frame);
    frame[1..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    Ok(frame)
}

/// What a value is inside of a frame of something larger; see [`encode_list`].
pub fn encode_part<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut part = Vec::new();
    v1::encode_into(value, &mut part)?;
    Ok(part)
}

/// The frame of a struct of two fields, of which the second is a list of values that are encoded already.
pub fn encode_list<T: Serialize, P: AsRef<[u8]>>(
    first: &T,
    parts: &[P],
) -> Result<Vec<u8>, CodecError> {
    let bytes = parts.iter().map(|part| part.as_ref().len()).sum::<usize>();
    let mut frame = Vec::with_capacity(bytes + LIST_HEAD_BYTES);
    frame.resize(HEADER_BYTES, 0);
    v1::encode_into(&(first, parts.len() as u64), &mut frame)?;
    parts.iter().for_each(|part| frame.extend_from_slice(part.as_ref()));
    sealed(frame)
}

/// The value of a frame. Never allocates more than the frame's own length promises.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, CodecError> {
    decode_summed(frame, checksum)
}

/// Whether a frame is whole and of a version that this build reads.
pub fn understand(frame: &[u8]) -> Result<(), CodecError> {
    body(frame, checksum).map(drop)
}

fn decode_summed<T: DeserializeOwned>(
    frame: &[u8],
    sum: impl Fn(&[u8]) -> u32,
) -> Result<T, CodecError> {
    v1::decode(body(frame, sum)?)
}

fn body(frame: &[u8], sum: impl Fn(&[u8]) -> u32) -> Result<&[u8], CodecError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLong { bytes: frame.len() });
    }
    let Some((header, body)) = frame.split_at_checked(HEADER_BYTES) else {
        return Err(CodecError::Short { bytes: frame.len() });
    };
    if sum(frame).to_le_bytes() != header[1..] {
        return Err(CodecError::Checksum);
    }
    if header[0] != VERSION {
        return Err(CodecError::Version { got: header[0] });
    }
    Ok(body)
}

/// The bytes of a row's key. Numbers and arrays sort as their bytes do.
pub fn encode_key<K: Serialize>(key: &K) -> Result<Vec<u8>, CodecError> {
    v1::encode_key(key)
}

/// The key of such bytes.
pub fn decode_key<K: DeserializeOwned>(bytes: &[u8]) -> Result<K, CodecError> {
    v1::decode_key(bytes)
}

/// The frame of a stored row: its checksum covers the key as well, so no row passes for another.
pub fn encode_row<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, CodecError> {
    let mut frame = encode(value)?;
    let sum = crc32c::crc32c_append(checksum(&frame), key);
    frame[1..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    Ok(frame)
}

/// The value of a stored row.
pub fn decode_row<T: DeserializeOwned>(key: &[u8], frame: &[u8]) -> Result<T, CodecError> {
    decode_summed(frame, |frame| crc32c::crc32c_append(checksum(frame), key))
}

fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..1]), &frame[HEADER_BYTES..])
}

#[cfg(test)]
mod tests;
