//! Version 1 of the body: bincode 2 with its standard configuration (variable-length integers,
//! little-endian), limited in size.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CodecError, FRAME_BYTES_MAX};

pub(super) fn encode_into<T: Serialize>(value: &T, frame: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, frame, bincode::config::standard())
        .map(drop)
        .map_err(|error| CodecError::Shape(error.to_string()))
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();
    let (value, read) = bincode::serde::decode_from_slice(body, config)
        .map_err(|error| CodecError::Shape(error.to_string()))?;
    if read != body.len() {
        return Err(CodecError::Shape(format!("{} bytes left over", body.len() - read)));
    }
    Ok(value)
}
