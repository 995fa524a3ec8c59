//! Values to bytes and back. The one file that names bincode.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::parcel::MAX_BATCHES;

/// The largest encoded message, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;

/// A value could not be encoded or decoded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The encoded value is larger than [`MAX_MESSAGE`].
    #[error("message of {size} bytes is larger than the maximum of {MAX_MESSAGE}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// The batches beside a value are larger than [`MAX_BATCHES`](crate::MAX_BATCHES).
    #[error("batches of {size} bytes in one message, more than the maximum of {MAX_BATCHES}; send them in several")]
    BatchesTooLarge {
        /// Their size in bytes.
        size: usize,
    },
    /// More large batches than a message can have.
    #[error("more than {max} large batches in one message; send them in several")]
    TooManyBatches {
        /// The maximum.
        max: usize,
    },
    /// serde or the codec refused the value.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The bytes are not a value of this type.
    #[error("cannot decode: {0}")]
    Decode(String),
    /// Bytes are left over after the value.
    #[error("{left} bytes follow the value")]
    Trailing {
        /// How many.
        left: usize,
    },
}

/// Encodes a value.
///
/// # Errors
/// The value's `Serialize` failed, or the result is larger than [`MAX_MESSAGE`].
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, CONFIG).map_err(|error| CodecError::Encode(error.to_string()))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge { size: bytes.len() });
    }
    Ok(bytes.into())
}

/// Decodes a value that must fill `bytes` exactly.
///
/// # Errors
/// The bytes are too many, too few, or not a value of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge { size: bytes.len() });
    }
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|error| CodecError::Decode(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(CodecError::Trailing { left }),
    }
}

// The limit stops a length that a peer made up before anything is allocated for it.
const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_MESSAGE>> =
    bincode::config::standard().with_limit::<MAX_MESSAGE>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives() {
        let value = (7u32, "text".to_owned(), vec![1u64, 2, 3]);
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<(u32, String, Vec<u64>)>(&bytes).unwrap(), value);
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let mut bytes = encode(&5u8).unwrap().to_vec();
        bytes.push(0);
        assert!(matches!(decode::<u8>(&bytes), Err(CodecError::Trailing { left: 1 })));
    }

    #[test]
    fn a_made_up_length_is_refused_before_allocation() {
        // varint marker 253 = a u64 length follows
        let mut bytes = vec![253u8];
        bytes.extend_from_slice(&(1u64 << 50).to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Decode(_))));
    }

    #[test]
    fn a_value_over_the_limit_is_refused() {
        let value = vec![0u8; MAX_MESSAGE + 1];
        assert!(matches!(encode(&value), Err(CodecError::TooLarge { .. })));
    }
}
