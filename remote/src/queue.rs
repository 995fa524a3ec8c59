//! What waits for a lane's writer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::frame::Header;

/// Frames that may wait for a lane's writer on places of its queue.
pub(crate) const QUEUE: usize = 1024;
/// Larger payloads are sent as they are instead of being copied behind their header.
pub(crate) const COPY: usize = 4 << 10;

/// What a frame keeps until it is written.
pub(crate) type Held = [Option<OwnedSemaphorePermit>; 2];

/// What a writer writes.
pub(crate) enum Out {
    Frame(Header, Bytes, Held),
    /// End the lane, and say so when the peer has everything.
    Finish(oneshot::Sender<()>),
}

/// Where frames wait for the writer of a lane, in their order. Each keeps a place until it is written: one of this
/// queue, or that of the call, the watch or the like which it ends. So what waits is bounded, and what must not be lost
/// never finds the queue full.
pub(crate) struct Queue {
    frames: mpsc::UnboundedSender<Out>,
    places: Arc<Semaphore>,
}

/// The writer's end of a queue.
pub(crate) type Waiting = mpsc::UnboundedReceiver<Out>;

impl Queue {
    pub(crate) fn new(places: usize) -> (Self, Waiting) {
        let (frames, waiting) = mpsc::unbounded_channel();
        (Self { frames, places: Arc::new(Semaphore::new(places)) }, waiting)
    }

    /// Waits for a place of this queue; `None` once it is closed.
    pub(crate) async fn place(&self) -> Option<Place<'_>> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(Place { queue: self, permit, room: None })
    }

    /// Takes a place of this queue if there is one.
    pub(crate) fn try_place(&self) -> Option<Place<'_>> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { queue: self, permit, room: None })
    }

    /// Queues a frame that keeps a place of something else. False if nobody writes any more.
    pub(crate) fn push(&self, header: Header, payload: Bytes, held: Held) -> bool {
        self.frames.send(Out::Frame(header, payload, held)).is_ok()
    }

    /// Ends the lane behind all that waits; what is returned says when the peer has everything, or the writer has gone.
    pub(crate) fn finish(&self) -> oneshot::Receiver<()> {
        let (done, finished) = oneshot::channel();
        let _ = self.frames.send(Out::Finish(done)); // fails only if nobody writes any more
        finished
    }

    /// Gives no places any more.
    pub(crate) fn close(&self) {
        self.places.close();
    }
}

/// A place for one frame.
pub(crate) struct Place<'a> {
    queue: &'a Queue,
    permit: OwnedSemaphorePermit,
    room: Option<OwnedSemaphorePermit>,
}

impl Place<'_> {
    /// This place, and room for the frame's bytes.
    pub(crate) fn with(self, room: Option<OwnedSemaphorePermit>) -> Self {
        Self { room, ..self }
    }

    pub(crate) fn send(self, header: Header, payload: Bytes) {
        self.queue.push(header, payload, [Some(self.permit), self.room]);
    }
}
