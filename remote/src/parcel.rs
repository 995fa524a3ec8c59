//! Values that travel with Arrow batches: small ones inside the bytes of their message, large ones beside it, by the
//! data connection.
//!
//! A message that has some beside it ends in a trailer: `u64 length * n, u32 n, u64 number`, little-endian. The number
//! is the ticket of one transfer of them all.

use std::cell::RefCell;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{CodecError, decode_weighed, encode_message};
use crate::fence;
use crate::frame::FrameError;
use crate::limits::{MAX_BATCHES, MAX_MESSAGE};
use crate::trace;

/// Bytes of batches that may go inside of a message.
#[cfg(feature = "arrow")]
const INSIDE: usize = 64 << 10;
/// Most batches beside one message.
const MAX_COUNT: usize = 4096;
/// Longest trailer.
const MAX_TRAILER: usize = 8 * MAX_COUNT + 12;

/// Largest payload of a frame.
pub(crate) const MAX_PAYLOAD: usize = MAX_MESSAGE + MAX_TRAILER + trace::BYTES;

/// An encoded value, to be sent.
#[derive(Default)]
pub(crate) struct Parcel {
    pub(crate) bytes: Bytes,
    pub(crate) beside: Beside,
}

/// The batches beside a value, as their buffers are.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) slices: Vec<Bytes>,
    lengths: Vec<u64>,
}

/// A value that has come, with what was beside it.
pub(crate) struct Opened {
    pub(crate) bytes: Bytes,
    pub(crate) beside: Vec<Bytes>,
}

impl Parcel {
    /// Encodes a value and takes its large batches out.
    pub(crate) fn pack<T: Serialize + DeserializeOwned>(value: &T) -> Result<Self, CodecError> {
        let (bytes, Packing { beside, .. }) = with(&PACKING, Packing::default(), || encode_message(value));
        let parcel = Self { bytes: bytes?, beside };
        match parcel.beside.len() {
            size if size > MAX_BATCHES => Err(CodecError::BatchesTooLarge { size }),
            _ if parcel.beside.lengths.len() > MAX_COUNT => Err(CodecError::TooManyBatches { max: MAX_COUNT }),
            _ => Ok(parcel),
        }
    }
}

impl Beside {
    pub(crate) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.slices.iter().map(Bytes::len).sum()
    }

    /// The bytes of a message with the trailer that stands for this.
    pub(crate) fn trail(&self, bytes: Bytes, number: u64) -> Bytes {
        let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        for length in &self.lengths {
            bytes.put_u64_le(*length);
        }
        bytes.put_u32_le(self.lengths.len() as u32); // bounded by `pack`
        bytes.put_u64_le(number);
        bytes.freeze()
    }
}

/// What a trailer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) number: u64,
    pub(crate) lengths: Vec<u64>,
    pub(crate) total: usize,
}

impl Manifest {
    /// Takes the trailer off a payload.
    pub(crate) fn take(payload: &mut Bytes) -> Result<Self, FrameError> {
        let number = u64::from_le_bytes(take_last(payload)?);
        let count = u32::from_le_bytes(take_last(payload)?) as usize;
        if count > MAX_COUNT {
            return Err(FrameError::TooMany { count, max: MAX_COUNT });
        }
        let start = payload.len().checked_sub(count.saturating_mul(8)).ok_or(FrameError::Cut)?;
        let tail = payload.split_off(start);
        let (lengths, _) = tail.as_chunks::<8>();
        let lengths: Vec<u64> = lengths.iter().map(|length| u64::from_le_bytes(*length)).collect();
        let total = lengths.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
        match usize::try_from(total) {
            Ok(total) if total <= MAX_BATCHES => Ok(Self { number, lengths, total }),
            _ => Err(FrameError::TooLarge { len: u32::MAX, max: MAX_BATCHES as u32 }),
        }
    }

    /// Divides what a transfer has brought; `None` if it is not what was announced.
    pub(crate) fn divide(&self, mut all: Bytes) -> Option<Vec<Bytes>> {
        if all.len() != self.total {
            return None;
        }
        Some(self.lengths.iter().map(|length| all.split_to(*length as usize)).collect())
    }
}

fn take_last<const N: usize>(payload: &mut Bytes) -> Result<[u8; N], FrameError> {
    let last = *payload.last_chunk::<N>().ok_or(FrameError::Cut)?;
    payload.truncate(payload.len() - N);
    Ok(last)
}

impl Opened {
    /// A value without anything beside it.
    pub(crate) fn plain(bytes: Bytes) -> Self {
        Self { bytes, beside: Vec::new() }
    }

    /// Bytes of it and beside it.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.beside.iter().map(Bytes::len).sum::<usize>()
    }

    /// Decodes the value, and tells how much memory it takes; a `Deserialize` that panics is an error too.
    pub(crate) fn unpack<T: DeserializeOwned>(self) -> Result<(T, usize), String> {
        let size = self.len();
        let Self { bytes, beside } = self;
        let (value, _) = with(&UNPACKING, beside, || fence::catch(|| decode_weighed(&bytes)));
        let (value, memory) = value?.map_err(|error: CodecError| error.to_string())?;
        Ok((value, size.max(memory)))
    }
}

/// Gives the batches that are being encoded on this thread a place: beside the message, or none if they are to go inside.
#[cfg(feature = "arrow")]
pub(crate) fn put(slices: Vec<Bytes>) -> Result<u32, Vec<Bytes>> {
    PACKING.with_borrow_mut(|packing| {
        let Some(Packing { inside, beside }) = packing else {
            return Err(slices); // encoded by somebody else
        };
        let length: usize = slices.iter().map(Bytes::len).sum();
        if *inside + length <= INSIDE {
            *inside += length;
            return Err(slices);
        }
        beside.slices.extend(slices);
        beside.lengths.push(length as u64);
        Ok(beside.lengths.len() as u32 - 1)
    })
}

/// The batch of this place beside the message that is being decoded on this thread.
#[cfg(feature = "arrow")]
pub(crate) fn get(place: u32) -> Option<Bytes> {
    UNPACKING.with_borrow(|beside| beside.as_ref()?.get(place as usize).cloned())
}

#[derive(Default)]
struct Packing {
    #[cfg_attr(not(feature = "arrow"), allow(dead_code))]
    inside: usize,
    beside: Beside,
}

type Slot<T> = std::thread::LocalKey<RefCell<Option<T>>>;

thread_local! {
    static PACKING: RefCell<Option<Packing>> = const { RefCell::new(None) };
    static UNPACKING: RefCell<Option<Vec<Bytes>>> = const { RefCell::new(None) };
}

/// Runs `f` with a value in a slot of this thread, and takes it out again.
fn with<T: Default, R>(slot: &'static Slot<T>, value: T, f: impl FnOnce() -> R) -> (R, T) {
    /// Puts back what was there before, also in a panic.
    struct Back<T: 'static>(&'static Slot<T>, Option<T>);
    impl<T> Drop for Back<T> {
        fn drop(&mut self) {
            let before = self.1.take();
            self.0.with_borrow_mut(|slot| *slot = before);
        }
    }
    let _back = Back(slot, slot.replace(Some(value)));
    let result = f();
    (result, slot.take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_keeps_its_bytes_and_a_broken_one_is_refused() {
        let beside = Beside { slices: vec![Bytes::from_static(b"abcde")], lengths: vec![2, 3] };
        let bytes = beside.trail(Bytes::from_static(b"x"), 9);
        const GOLDEN: &[u8] = b"x\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\x09\0\0\0\0\0\0\0";
        assert_eq!(&bytes[..], GOLDEN);
        let mut payload = bytes.clone();
        let manifest = Manifest::take(&mut payload).unwrap();
        assert_eq!(manifest, Manifest { number: 9, lengths: vec![2, 3], total: 5 });
        assert_eq!(&payload[..], b"x");
        assert_eq!(manifest.divide(Bytes::from_static(b"abcde")).unwrap(), [&b"ab"[..], b"cde"]);
        assert!(manifest.divide(Bytes::from_static(b"abcd")).is_none());
        for cut in 2..=bytes.len() {
            assert!(Manifest::take(&mut bytes.slice(cut..)).is_err(), "{cut}");
        }
        // As many lengths as there may be, and one more: they cost memory, also those of nothing.
        for (count, fits) in [(MAX_COUNT, true), (MAX_COUNT + 1, false)] {
            let mut many = Beside { slices: Vec::new(), lengths: vec![0; count] }.trail(Bytes::new(), 1);
            assert_eq!(Manifest::take(&mut many).is_ok(), fits, "{count}");
        }
        let huge = Beside { slices: Vec::new(), lengths: vec![u64::MAX, u64::MAX] }.trail(Bytes::new(), 1);
        assert!(matches!(Manifest::take(&mut huge.clone()), Err(FrameError::TooLarge { .. })));
    }
}
