//! Streams and events. Work waits in its stream until somebody waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use super::{Code, Driver, INVALID_HANDLE, INVALID_VALUE, NOT_READY, call, fail};

/// What a stream does when its turn comes.
type Work = Box<dyn FnOnce(&mut Driver) + Send>;

/// The number of a stream; 0 is the default one.
type StreamId = u64;

/// A point or a span of the time that events tell, in nanoseconds. It passes where work costs something, and nowhere else.
type Time = u64;

/// `CU_EVENT_DISABLE_TIMING`.
const UNTIMED: c_uint = 2;

enum Item {
    Work(Work, Time),
    /// The stream has come to where an event was recorded.
    Mark(u64),
    /// The stream waits for a mark of another one.
    Wait(u64),
}

#[derive(Default)]
struct Queue {
    /// What is to be done, and when the host said so.
    items: VecDeque<(Time, Item)>,
    /// When it has done what it did last.
    time: Time,
}

struct Event {
    /// The mark that it has recorded last; 0: none.
    mark: u64,
    timed: bool,
}

#[derive(Default)]
pub(crate) struct Streams {
    queues: BTreeMap<StreamId, Queue>,
    events: BTreeMap<u64, Event>,
    /// Marks that have not been reached, and the stream that each is in.
    marks: BTreeMap<u64, StreamId>,
    /// When the others were.
    reached: BTreeMap<u64, Time>,
    /// Until when the host has waited.
    host: Time,
    last: u64,
}

impl Streams {
    fn number(&mut self) -> u64 {
        self.last += 1;
        // The first ones are handles with a meaning of their own.
        self.last + 0x1000
    }

    fn queue(&mut self, stream: StreamId) -> &mut Queue {
        self.queues.entry(stream).or_default()
    }

    fn push(&mut self, stream: *mut c_void, item: Item) {
        let now = self.host;
        self.queue(id(stream)).items.push_back((now, item));
    }

    fn event(&self, event: *mut c_void) -> Result<&Event, Code> {
        self.events.get(&id(event)).ok_or(INVALID_VALUE)
    }

    /// When a mark was reached, or the beginning.
    fn time_of(&self, mark: u64) -> Time {
        self.reached.get(&mark).copied().unwrap_or_default()
    }
}

impl Driver {
    /// Puts work on a stream that takes so long.
    pub(crate) fn put(&mut self, stream: *mut c_void, takes: Time, work: impl FnOnce(&mut Self) + Send + 'static) {
        self.streams.push(stream, Item::Work(Box::new(work), takes));
    }

    /// Does the next thing of a stream; false if there is none.
    fn step(&mut self, stream: StreamId) -> bool {
        let queue = self.streams.queue(stream);
        let Some((since, item)) = queue.items.pop_front() else { return false };
        queue.time = queue.time.max(since);
        match item {
            // After an error the device does nothing any more.
            Item::Work(work, takes) if self.sticky == 0 => {
                work(self);
                self.streams.queue(stream).time += takes;
            }
            Item::Work(..) => (),
            Item::Mark(mark) => {
                let now = queue.time;
                self.streams.marks.remove(&mark);
                self.streams.reached.insert(mark, now);
            }
            Item::Wait(mark) => {
                self.until(mark);
                let then = self.streams.time_of(mark);
                let queue = self.streams.queue(stream);
                queue.time = queue.time.max(then);
            }
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

    /// Does all of a stream.
    pub(crate) fn finish(&mut self, stream: *mut c_void) {
        while self.step(id(stream)) {}
    }

    /// Has the host wait for a stream.
    pub(crate) fn drain(&mut self, stream: *mut c_void) {
        self.finish(stream);
        self.streams.host = self.streams.host.max(self.streams.queue(id(stream)).time);
    }

    pub(crate) fn drain_all(&mut self) {
        // The newest first: what only order of submission has kept right goes wrong.
        let streams: Vec<_> = self.streams.queues.keys().copied().rev().collect();
        for stream in streams {
            self.drain(handle(stream));
        }
    }

    /// Empties all streams.
    pub(crate) fn forget_all(&mut self) {
        self.streams.queues.values_mut().for_each(|queue| queue.items.clear());
        self.streams.marks.clear();
    }

    /// A call that orders something; false if a test has it left out.
    fn orders(&mut self) -> bool {
        self.counts.orders += 1;
        let left_out = self.leave_out & 1 == 1;
        self.leave_out >>= 1;
        !left_out
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
        driver.streams.queues.insert(id, Queue::default());
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
    call(|driver| {
        if driver.orders() {
            driver.drain(stream);
        }
        Ok(())
    })
}

/// For calls that wait for what they do.
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
        fail(&mut driver.failing_launches)?;
        // SAFETY: the caller says that it may be called so, once.
        driver.put(stream, 1000, move |_| unsafe { work(ptr::with_exposed_provenance_mut(with)) });
        Ok(())
    });
    put as c_int
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _: c_uint) -> Code {
    call(|driver| {
        let mark = driver.streams.event(event)?.mark;
        if driver.orders() && mark != 0 {
            driver.streams.push(stream, Item::Wait(mark));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, flags: c_uint) -> Code {
    call(|driver| {
        let id = driver.streams.number();
        driver.streams.events.insert(id, Event { mark: 0, timed: flags & UNTIMED == 0 });
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
        driver.streams.event(event)?;
        if driver.orders() {
            let mark = driver.streams.number();
            driver.streams.marks.insert(mark, id(stream));
            driver.streams.events.entry(id(event)).and_modify(|event| event.mark = mark);
            driver.streams.push(stream, Item::Mark(mark));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: *mut c_void) -> Code {
    call(|driver| {
        let mark = driver.streams.event(event)?.mark;
        if driver.streams.marks.contains_key(&mark) { Err(NOT_READY) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: *mut c_void) -> Code {
    call(|driver| {
        let mark = driver.streams.event(event)?.mark;
        if driver.orders() {
            driver.until(mark);
            driver.streams.host = driver.streams.host.max(driver.streams.time_of(mark));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: *mut c_void, end: *mut c_void) -> Code {
    call(|driver| {
        let streams = &driver.streams;
        let when = |event: *mut c_void| match streams.event(event)? {
            Event { timed: false, .. } | Event { mark: 0, .. } => Err(INVALID_HANDLE),
            Event { mark, .. } => streams.reached.get(mark).copied().ok_or(NOT_READY),
        };
        let (start, end) = (when(start)? as f64, when(end)? as f64);
        unsafe { milliseconds.write(((end - start) / 1e6) as f32) };
        Ok(())
    })
}
