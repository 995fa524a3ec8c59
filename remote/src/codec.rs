//! Values to bytes and back, within bounds that hold for whatever bytes come. The one file that names bincode.

mod bounds;
mod reading;
mod writing;

use std::cell::RefCell;
use std::marker::PhantomData;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::limits::{MAX_BATCHES, MAX_MESSAGE};
use crate::text::shorten;
use crate::{detached, fence};
use bounds::Scales;
pub use bounds::{Bound, MAX_DEPTH};
use reading::Seed;
use writing::Weighed;

/// A value could not be encoded or decoded.
#[derive(Clone, thiserror::Error)]
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
    /// The value goes beyond what a receiver takes, whatever its size in bytes.
    #[error("a message {0}")]
    Beyond(Bound),
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

crate::text::debug_is_display!(CodecError);

/// Encodes a value.
///
/// # Errors
/// The value's `Serialize` failed, the result is larger than [`MAX_MESSAGE`], or the value is deeper or has more elements than
/// [`decode`] takes.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    weigh(value).map(|(bytes, _)| bytes)
}

/// [`encode`], for what a peer decodes as the same type: refused too if that would ask it for too much memory.
pub(crate) fn encode_message<T: Serialize + DeserializeOwned>(value: &T) -> Result<Bytes, CodecError> {
    let (bytes, sure) = weigh(value)?;
    if !sure {
        // What serde shows a sender is not enough to tell. Only this answer counts: what else may fail here needs a receiver.
        let decoded = detached::unnoticed(|| fence::catch(|| decode::<T>(&bytes).map(drop)));
        if let Ok(Err(CodecError::Beyond(bound))) = decoded {
            return Err(CodecError::Beyond(bound));
        }
    }
    Ok(bytes)
}

/// A value's bytes, and whether they are sure not to ask for too much memory.
fn weigh<T: Serialize>(value: &T) -> Result<(Bytes, bool), CodecError> {
    let scales = Scales::for_sending();
    let mut bytes = SCRATCH.try_with(RefCell::take).unwrap_or_default(); // a new one while the thread ends
    let weighed = Weighed::new(value, &scales);
    let written =
        bincode::serde::encode_into_std_write(weighed, &mut bytes, CONFIG).map_err(|error| match scales.refused() {
            Some(bound) => CodecError::Beyond(bound),
            None => CodecError::Encode(shorten(error.to_string())),
        });
    let result = match written {
        Err(error) => Err(error),
        Ok(size) if size > MAX_MESSAGE => Err(CodecError::TooLarge { size }),
        Ok(size) => scales.weighed(size).map_err(CodecError::Beyond),
    };
    if bytes.capacity() > KEPT {
        return Ok((bytes.into(), result?));
    }
    let encoded = Bytes::copy_from_slice(&bytes);
    bytes.clear();
    let _ = SCRATCH.try_with(|scratch| scratch.replace(bytes));
    Ok((encoded, result?))
}

/// What a thread keeps for the next value that it encodes, at most: a small one then takes room once.
const KEPT: usize = 4 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Decodes a value that must fill `bytes` exactly. Takes no more stack than [`MAX_DEPTH`] levels need, no more time than its
/// elements do, and makes room for no more than 32 times the bytes and a MiB.
///
/// # Errors
/// The bytes are too many, too few, not a value of this type, or one beyond these bounds.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_weighed(bytes).map(|(value, _)| value)
}

/// [`decode`], and how much memory the value has asked for, beyond that of its texts.
pub(crate) fn decode_weighed<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge { size: bytes.len() });
    }
    let scales = Scales::for_receiving(bytes.len());
    let decoded = bincode::serde::seed_decode_from_slice(Seed::<PhantomData<T>>::new(&scales), bytes, CONFIG);
    let (value, used) = decoded.map_err(|error| match scales.refused() {
        Some(bound) => CodecError::Beyond(bound),
        None => CodecError::Decode(shorten(error.to_string())),
    })?;
    match bytes.len() - used {
        0 => Ok((value, scales.claimed())),
        left => Err(CodecError::Trailing { left }),
    }
}

// The limit stops a length that a peer made up before anything is allocated for it.
const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_MESSAGE>> =
    bincode::config::standard().with_limit::<MAX_MESSAGE>();

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

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
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Beyond(Bound::Elements))));
        assert!(matches!(decode::<String>(&bytes), Err(CodecError::Decode(_))));
    }

    #[test]
    fn a_value_over_the_limit_is_refused() {
        let value = "x".repeat(MAX_MESSAGE + 1);
        assert!(matches!(encode(&value), Err(CodecError::TooLarge { .. })));
    }

    /// Nested like a message of a user's own may be.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Nest {
        name: Option<String>,
        inside: Vec<Self>,
    }

    /// In so many levels of its own: two of the codec's each, the last too.
    fn nest(levels: usize) -> Nest {
        let one = |inside| Nest { name: None, inside };
        (1..levels).fold(one(Vec::new()), |nest, _| one(vec![nest]))
    }

    /// The thread's stack is a quarter of what threads of the network and of actors have.
    fn on_a_small_stack(test: fn()) {
        std::thread::Builder::new().stack_size(512 << 10).spawn(test).unwrap().join().unwrap();
    }

    #[test]
    fn what_is_too_deep_is_refused_at_both_ends_whatever_the_stack() {
        on_a_small_stack(|| {
            let deepest = nest(MAX_DEPTH / 2);
            let bytes = encode(&deepest).unwrap();
            assert_eq!(decode::<Nest>(&bytes).unwrap(), deepest);
            assert!(matches!(encode(&nest(MAX_DEPTH / 2 + 1)), Err(CodecError::Beyond(Bound::Depth))));
            // What a sender of another build makes: no name, one inside, and so on.
            for levels in [MAX_DEPTH / 2 + 1, 100_000] {
                let bytes = [&[0, 1].repeat(levels - 1)[..], &[0, 0]].concat();
                assert!(matches!(decode::<Nest>(&bytes), Err(CodecError::Beyond(Bound::Depth))), "{levels}");
            }
            #[derive(Debug, Deserialize)]
            #[allow(dead_code)] // never made
            enum Chain {
                End,
                Pair((Box<Self>,)),
                Named { next: Option<Box<Self>> },
            }
            for link in [&[1u8][..], &[2, 1]] {
                assert!(matches!(decode::<Chain>(&link.repeat(100_000)), Err(CodecError::Beyond(Bound::Depth))));
            }
        });
    }

    #[test]
    fn elements_that_take_no_byte_are_counted() {
        let mut bytes = vec![253u8];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<()>>(&bytes), Err(CodecError::Beyond(Bound::Elements))));
        assert!(matches!(decode::<BTreeMap<(), ()>>(&bytes), Err(CodecError::Beyond(Bound::Elements))));
        // Both ends agree on how many are too many.
        for (count, fits) in [(65_536, true), (65_541, true), (65_542, false)] {
            let made = [&[252u8][..], &(count as u32).to_le_bytes()].concat();
            assert_eq!(encode(&vec![(); count]).is_ok(), fits, "{count}");
            assert_eq!(decode::<Vec<()>>(&made).is_ok(), fits, "{count}");
        }
    }

    type Wide = Option<[u64; 16]>;

    #[test]
    fn memory_is_claimed_in_proportion_to_bytes() {
        let nothing = |count: usize| [&[252u8][..], &(count as u32).to_le_bytes(), &vec![0; count]].concat();
        assert!(matches!(decode::<Vec<Wide>>(&nothing(2 << 20)), Err(CodecError::Beyond(Bound::Memory))));
        let boxed =
            [&nothing(0)[..1], &(1u32 << 16).to_le_bytes(), &[&[1][..], &[0; 16]].concat().repeat(1 << 16)].concat();
        assert!(matches!(decode::<Vec<Option<Box<[Wide; 16]>>>>(&boxed), Err(CodecError::Beyond(Bound::Memory))));
        let map = [&nothing(0)[..1], &(1u32 << 16).to_le_bytes(), &[0; 2 << 16]].concat();
        assert!(matches!(decode::<Vec<(u8, Wide)>>(&map), Err(CodecError::Beyond(Bound::Memory))));
        assert_eq!(decode::<Vec<Wide>>(&nothing(5000)).unwrap().len(), 5000);
        // Made up lengths make room for nothing, on any level.
        let lengths = [253, 255, 255, 255, 0, 0, 0, 0, 0].repeat(50);
        assert!(decode::<Nest>(&lengths).is_err() && decode::<String>(&lengths).is_err());
    }

    #[test]
    fn what_would_ask_its_receiver_for_too_much_is_refused_at_its_sender() {
        for count in [0, 5000, 7000, 8000, 9000, 10_000, 20_000, 200_000] {
            let wide: Vec<Wide> = vec![None; count];
            let fits = decode::<Vec<Wide>>(&encode(&wide).unwrap()).is_ok();
            assert_eq!(encode_message(&wide).is_ok(), fits, "{count}");
        }
        // What is worth its bytes passes, however it is made.
        let parts =
            |n: u32| (n, n.to_string(), Some(n), n.is_multiple_of(3).then_some([u64::from(n); 16]), Box::new(n));
        encode_message(&(0..10_000).map(parts).collect::<Vec<_>>()).unwrap();
        encode_message(&(0..10_000u32).map(|n| (n, Some(vec![n]))).collect::<BTreeMap<_, _>>()).unwrap();
        encode_message(&vec![Some(0u8); 1 << 16]).unwrap();
        encode_message(&vec![String::new(); 1 << 16]).unwrap();
        encode_message(&vec![Vec::<u128>::new(); 1 << 16]).unwrap();
        encode_message(&vec![None::<u64>; 1 << 16]).unwrap();
    }
}
