//! Version 1 of the body: bincode 2 with its standard configuration (variable-length integers,
//! little-endian), limited in size. Keys of rows have big-endian integers of fixed length, so that
//! bytes sort as numbers do.

use bincode::config::{BigEndian, Config, Configuration, Fixint};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CodecError, FRAME_BYTES_MAX};

/// The longest key of a row.
const KEY_BYTES_MAX: usize = 1024;

pub(super) fn encode_into<T: Serialize>(value: &T, frame: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, frame, bincode::config::standard())
        .map(drop)
        .map_err(|error| CodecError::Shape(error.to_string()))
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    read(body, bincode::config::standard().with_limit::<FRAME_BYTES_MAX>())
}

pub(super) fn encode_key<K: Serialize>(key: &K) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(key, of_keys())
        .map_err(|error| CodecError::Shape(error.to_string()))
}

pub(super) fn decode_key<K: DeserializeOwned>(bytes: &[u8]) -> Result<K, CodecError> {
    read(bytes, of_keys().with_limit::<KEY_BYTES_MAX>())
}

fn of_keys() -> Configuration<BigEndian, Fixint> {
    bincode::config::standard().with_big_endian().with_fixed_int_encoding()
}

fn read<T: DeserializeOwned>(bytes: &[u8], config: impl Config) -> Result<T, CodecError> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| CodecError::Shape(error.to_string()))?;
    if read != bytes.len() {
        return Err(CodecError::Shape(format!("{} bytes left over", bytes.len() - read)));
    }
    Ok(value)
}
