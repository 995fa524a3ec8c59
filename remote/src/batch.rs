//! Arrow batches as fields of messages.

mod ipc;

use std::fmt;
use std::ops::Deref;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamEncoder;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::parcel;

/// An Arrow batch in a message, a reply or an item of a stream.
///
/// Within a process it is handed over as it is. To another process it goes as Arrow IPC: inside the message up to 64 KiB
/// of all its batches, and else by the data connection, while messages to other actors pass it. Sliced batches send
/// what their slices show, but string views the whole of their heaps.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch(RecordBatch);

impl Batch {
    /// The batch.
    pub fn into_inner(self) -> RecordBatch {
        self.0
    }
}

impl From<RecordBatch> for Batch {
    fn from(batch: RecordBatch) -> Self {
        Self(batch)
    }
}

impl Deref for Batch {
    type Target = RecordBatch;

    fn deref(&self) -> &RecordBatch {
        &self.0
    }
}

impl<A, M> MessageResponse<A, M> for Batch
where
    A: Actor,
    M: Message<Result = Self>,
{
    fn handle(self, _: &mut A::Context, asker: Option<OneshotSender<Self>>) {
        if let Some(asker) = asker {
            let _ = asker.send(self); // fails only if the asker has left
        }
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let slices = written(&self.0).map_err(S::Error::custom)?;
        match parcel::put(slices) {
            Ok(place) => Sent::Beside(place).serialize(to),
            Err(slices) => Sent::Inside(Raw(slices.concat())).serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = match Sent::deserialize(from)? {
            Sent::Inside(Raw(bytes)) => Bytes::from(bytes),
            Sent::Beside(place) => parcel::get(place).ok_or_else(|| D::Error::custom("a batch is missing"))?,
        };
        read(bytes).map(Self).map_err(|error| D::Error::custom(format_args!("bad Arrow IPC: {error}")))
    }
}

/// A batch in the bytes of its message.
#[derive(Serialize, Deserialize)]
enum Sent {
    Inside(Raw),
    Beside(u32),
}

/// Bytes that serde takes as one value.
struct Raw(Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Raw, E> {
                Ok(Raw(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Raw, E> {
                Ok(Raw(bytes))
            }
        }
        from.deserialize_byte_buf(Bytes)
    }
}

/// The batch as an IPC stream of its own buffers, not copied.
pub(crate) fn written(batch: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let mut encoder = StreamEncoder::try_new(batch.schema_ref())?;
    let mut buffers = encoder.encode(batch)?;
    buffers.extend(encoder.finish()?);
    Ok(buffers.into_iter().map(Bytes::from_owner).collect())
}

/// The one batch of an IPC stream, whose arrays share these bytes where they are aligned.
pub(crate) fn read(bytes: Bytes) -> Result<RecordBatch, ArrowError> {
    ipc::read(Buffer::from(bytes))
}
