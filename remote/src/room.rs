//! Room for bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What room is counted in: a semaphore has no place for more bytes.
const UNIT: usize = 1 << 10;

/// Room for so many bytes, of which each thing takes its size. What is larger than all of it takes all of it.
#[derive(Debug)]
pub(crate) struct Room {
    free: Arc<Semaphore>,
    all: u32,
    least: u32,
}

impl Room {
    /// Room for `bytes` in things that count for `least` at least, which bounds their number too.
    pub(crate) fn new(bytes: usize, least: usize) -> Self {
        let all = bytes.div_ceil(UNIT).clamp(1, u32::MAX as usize) as u32;
        let least = least.div_ceil(UNIT).clamp(1, all as usize) as u32;
        Self { free: Arc::new(Semaphore::new(all as usize)), all, least }
    }

    /// Waits for room; `None` once it is closed.
    pub(crate) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_many_owned(self.units(bytes)).await.ok()
    }

    /// Takes room if there is any.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.units(bytes)).ok()
    }

    /// Takes as much as is wanting to room for so many bytes, if there is that.
    pub(crate) fn try_grow(&self, has: Option<OwnedSemaphorePermit>, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let Some(mut has) = has else {
            return self.try_take(bytes);
        };
        let more = (self.units(bytes) as usize).saturating_sub(has.num_permits());
        has.merge(Arc::clone(&self.free).try_acquire_many_owned(more as u32).ok()?);
        Some(has)
    }

    /// Waits until nothing is in it, or it is closed.
    pub(crate) async fn empty(&self) {
        let _ = self.free.acquire_many(self.all).await;
    }

    /// Gives no room any more.
    pub(crate) fn close(&self) {
        self.free.close();
    }

    fn units(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT).clamp(self.least as usize, self.all as usize) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_things_count_for_the_least_and_large_ones_for_all() {
        let room = Room::new(4 * UNIT, 2 * UNIT);
        let small = room.try_take(0).unwrap();
        let other = room.try_take(1).unwrap();
        assert!(room.try_take(1).is_none());
        drop(other);
        assert!(room.try_grow(Some(small), 5 * UNIT).is_some_and(|all| all.num_permits() == 4));
        let (small, other) = (room.try_take(0), room.try_take(0));
        assert!(room.try_grow(small, 3 * UNIT).is_none(), "it is lost with its try");
        assert!(room.try_grow(None, 3 * UNIT).is_none());
        drop(other);
        let large = room.try_take(usize::MAX).unwrap();
        assert!(room.try_take(1).is_none());
        drop(large);
        room.close();
        assert!(room.try_take(1).is_none());
    }
}
