//! Streams and events. Work waits in its stream until somebody waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use super::{Code, Driver, INVALID_VALUE, NOT_READY, call};

/// What a stream does when its turn comes.
pub(crate) type Work = Box<dyn FnOnce(&mut Driver) + Send>;

/// The number of a stream; 0 is the default one.
pub(crate) type StreamId = u64;

enum Item {
    Work(Work),
    /// The stream has come to where an event was recorded.
    Mark(u64),
    /// The stream waits for a mark of another one.
    Wait(u64),
}

pub(crate) struct Streams {
    queues: BTreeMap<StreamId, VecDeque<Item>>,
    /// The mark that each event has recorded last; 0: none.
    events: BTreeMap<u64, u64>,
    /// Marks that have not been reached, and the stream that each is in.
    marks: BTreeMap<u64, StreamId>,
    last: u64,
}

impl Streams {
    pub(crate) const NEW: Self =
        Self { queues: BTreeMap::new(), events: BTreeMap::new(), marks: BTreeMap::new(), last: 0 };

    fn number(&mut self) -> u64 {
        self.last += 1;
        // The first ones are handles with a meaning of their own.
        self.last + 0x1000
    }
}

impl Driver {
    pub(crate) fn put(&mut self, stream: *mut c_void, work: impl FnOnce(&mut Self) + Send + 'static) {
        self.queue(id(stream)).push_back(Item::Work(Box::new(work)));
    }

    fn queue(&mut self, stream: StreamId) -> &mut VecDeque<Item> {
        self.streams.queues.entry(stream).or_default()
    }

    /// Does the next thing of a stream; false if there is none.
    fn step(&mut self, stream: StreamId) -> bool {
        match self.queue(stream).pop_front() {
            None => return false,
            // After an error the device does nothing any more.
            Some(Item::Work(work)) if self.sticky == 0 => work(self),
            Some(Item::Work(_)) => (),
            Some(Item::Mark(mark)) => drop(self.streams.marks.remove(&mark)),
            Some(Item::Wait(mark)) => self.until(mark),
        }
        true
    }

    fn until(&mut self, mark: u64) {
        while let Some(stream) = self.streams.marks.get(&mark).copied() {
            if !self.step(stream) {
                return;
            }
        }
    }

    pub(crate) fn drain(&mut self, stream: *mut c_void) {
        while self.step(id(stream)) {}
    }

    pub(crate) fn drain_all(&mut self) {
        // The newest first: what only order of submission has kept right goes wrong.
        let streams: Vec<_> = self.streams.queues.keys().copied().rev().collect();
        for stream in streams {
            while self.step(stream) {}
        }
    }

    /// Empties all streams.
    pub(crate) fn forget_all(&mut self) {
        self.streams.queues.values_mut().for_each(VecDeque::clear);
        self.streams.marks.clear();
    }

    fn mark_of(&self, event: *mut c_void) -> Result<u64, Code> {
        self.streams.events.get(&id(event)).copied().ok_or(INVALID_VALUE)
    }
}

fn id(handle: *mut c_void) -> u64 {
    handle.addr() as u64
}

fn handle(id: u64) -> *mut c_void {
    ptr::without_provenance_mut(id as usize)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _: c_uint) -> Code {
    call(|driver| {
        let id = driver.streams.number();
        driver.streams.queues.insert(id, VecDeque::new());
        driver.counts.streams += 1;
        unsafe { stream.write(handle(id)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> Code {
    call(|driver| {
        driver.drain(stream);
        driver.streams.queues.remove(&id(stream)).ok_or(INVALID_VALUE)?;
        driver.counts.streams -= 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> Code {
    synchronize(stream)
}

pub(crate) fn synchronize(stream: *mut c_void) -> Code {
    call(|driver| {
        driver.drain(stream);
        Ok(())
    })
}

/// Has a stream call `work(with)` when it comes to it: for the other fakes.
#[unsafe(no_mangle)]
extern "C" fn fakeEnqueue(stream: *mut c_void, work: unsafe extern "C" fn(*mut c_void), with: *mut c_void) -> c_int {
    let with = with.expose_provenance();
    let put = call(|driver| {
        // SAFETY: the caller says that it may be called so, once.
        driver.put(stream, move |_| unsafe { work(ptr::with_exposed_provenance_mut(with)) });
        Ok(())
    });
    put as c_int
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _: c_uint) -> Code {
    call(|driver| {
        let mark = driver.mark_of(event)?;
        if mark != 0 {
            driver.queue(id(stream)).push_back(Item::Wait(mark));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _: c_uint) -> Code {
    call(|driver| {
        let id = driver.streams.number();
        driver.streams.events.insert(id, 0);
        driver.counts.events += 1;
        unsafe { event.write(handle(id)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Code {
    call(|driver| {
        driver.streams.events.remove(&id(event)).ok_or(INVALID_VALUE)?;
        driver.counts.events -= 1;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> Code {
    call(|driver| {
        driver.mark_of(event)?;
        let mark = driver.streams.number();
        driver.streams.marks.insert(mark, id(stream));
        driver.streams.events.insert(id(event), mark);
        driver.queue(id(stream)).push_back(Item::Mark(mark));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: *mut c_void) -> Code {
    call(|driver| {
        let mark = driver.mark_of(event)?;
        if driver.streams.marks.contains_key(&mark) { Err(NOT_READY) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: *mut c_void) -> Code {
    call(|driver| {
        let mark = driver.mark_of(event)?;
        driver.until(mark);
        Ok(())
    })
}

/// No time passes here.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, _: *mut c_void, _: *mut c_void) -> Code {
    unsafe { milliseconds.write(0.001) };
    0
}
