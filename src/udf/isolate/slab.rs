//! Memory that parent and child share: batches and results go through it, written once by one of them and read in place, or
//! checked, by the other.
//!
//! A slab is one call's at a time. The parent writes the inputs to its begin; the child sees them where they are, and writes the
//! result behind them. Then the next call has it, so that its pages are there already and a GPU can copy from them; unless the
//! UDF has kept some of the inputs, whose memory it then is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::MmapRaw;
use polars::prelude::*;
use polars_arrow::io::ipc::read::read_file_metadata;
use polars_arrow::mmap::{mmap_dictionaries_unchecked, mmap_unchecked};
use polars_core::utils::accumulate_dataframes_vertical_unchecked;
use serde::{Deserialize, Serialize};

use super::wire::Place;
use crate::os;

/// Pages: what is written starts at one.
const PAGE: usize = 4 << 10;
/// A slab grows to a power of two, and beyond this to a multiple of it.
const STEP: usize = 64 << 20;
/// A replica keeps no more than this for its next calls.
const KEEP: usize = 256 << 20;

/// Memory, mapped into this process.
struct Slab {
    number: u32,
    file: File,
    start: *mut u8,
    /// The whole of it, as far as it is mapped. Others may write to it: only what nobody writes is looked at.
    whole: Bytes,
}

// SAFETY: `start` is that of a mapping, which any thread may use; writing through it takes the slab alone.
unsafe impl Send for Slab {}

struct Mapping(MmapRaw);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: it is mapped for as long as this is there, and the file does not get shorter. What is read through it
        // nobody writes: see `Slab::part`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

impl Slab {
    fn new(number: u32, file: File) -> io::Result<Self> {
        let mut slab = Self { number, file, start: std::ptr::null_mut(), whole: Bytes::new() };
        slab.map()?;
        Ok(slab)
    }

    /// Maps what there is now.
    fn map(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > 0 {
            let map = MmapRaw::map_raw(&self.file)?;
            self.start = map.as_mut_ptr();
            self.whole = Bytes::from_owner(Mapping(map));
        }
        Ok(())
    }

    /// Makes room up to there.
    fn grow(&mut self, end: usize) -> io::Result<()> {
        if end > self.whole.len() {
            let size = end.next_power_of_two().min(end.next_multiple_of(STEP)) as u64;
            if size > self.file.metadata()?.len() {
                self.file.set_len(size)?;
            }
            self.map()?;
        }
        Ok(())
    }

    /// What the other process says that it has written there. It does not write there again before this process has said
    /// that it has done with the call.
    ///
    /// # Errors
    /// There is no such part.
    fn part(&mut self, (at, bytes): Place) -> io::Result<Bytes> {
        let end = at.checked_add(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.whole.len() {
            self.map()?;
        }
        if end > self.whole.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.whole.slice(at..end))
    }

    fn write(&mut self, at: usize, frame: &DataFrame) -> PolarsResult<Place> {
        let mut writer = Writer { slab: self, end: at };
        IpcWriter::new(&mut writer).finish(&mut frame.clone())?;
        let bytes = writer.end - at;
        Ok((at, bytes))
    }
}

struct Writer<'a> {
    slab: &'a mut Slab,
    end: usize,
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.end + bytes.len();
        self.slab.grow(end)?;
        // SAFETY: there is as much room, and nobody looks at it before the call has come to where it is read.
        unsafe { self.slab.start.add(self.end).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.end = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The inputs of a call, in words.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Parcel {
    slab: u32,
    bytes: usize,
    /// The slab goes along.
    pub(super) fresh: bool,
    /// It, before it goes and once it has come.
    #[serde(skip)]
    pub(super) file: Option<File>,
}

/// The slabs that the parent has for a replica: as many as it has had calls at a time.
#[derive(Default)]
pub(super) struct Slabs {
    free: Arc<Mutex<Vec<Slab>>>,
    made: u32,
}

impl Slabs {
    /// Puts the inputs of a call into a slab.
    ///
    /// # Errors
    /// There is no memory for them; what cannot be written.
    pub(super) fn put(&mut self, inputs: &DataFrame) -> PolarsResult<(Lease, Parcel)> {
        let free = lock(&self.free).pop();
        let fresh = free.is_none();
        let slab = free.map_or_else(
            || {
                self.made += 1;
                Slab::new(self.made, os::shared_memory()?)
            },
            Ok,
        )?;
        let mut lease = Lease { slab: Some(slab), home: Arc::clone(&self.free), spent: false };
        let parcel = lease.write(inputs, fresh);
        if fresh && parcel.is_err() {
            // The child is not told of it.
            lease.spent = true;
        }
        Ok((lease, parcel?))
    }
}

/// The slab of a call, for the parent. It is the next call's when this is dropped, which is not before the child has answered,
/// or is gone.
pub(super) struct Lease {
    /// Taken when this is dropped.
    slab: Option<Slab>,
    home: Arc<Mutex<Vec<Slab>>>,
    /// No other call is to have it.
    spent: bool,
}

impl Lease {
    fn slab(&mut self) -> PolarsResult<&mut Slab> {
        Ok(self.slab.as_mut().ok_or_else(|| io::Error::other("its shared memory is gone"))?)
    }

    fn write(&mut self, inputs: &DataFrame, fresh: bool) -> PolarsResult<Parcel> {
        let slab = self.slab()?;
        let (_, bytes) = slab.write(0, inputs)?;
        let file = if fresh { Some(slab.file.try_clone()?) } else { None };
        Ok(Parcel { slab: slab.number, bytes, fresh, file })
    }

    /// The child has answered, and says whether it has done with the slab for good.
    pub(super) fn answered(&mut self, spent: bool) {
        self.spent = spent;
    }

    /// Reads a result and checks it: what comes from a process that may be broken is copied before it is looked at, and not
    /// trusted as inputs are.
    pub(super) fn read(&mut self, place: Place) -> PolarsResult<DataFrame> {
        IpcReader::new(Cursor::new(self.slab()?.part(place)?)).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.home).extend(self.slab.take().filter(|_| !self.spent));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The slabs of a replica that no call has, in its process.
#[derive(Default)]
pub(super) struct Known(HashMap<u32, Slab>);

impl Known {
    /// The slab of a call. Dropped without [`close`](Self::close), it is spent.
    ///
    /// # Errors
    /// It did not come, or cannot be mapped.
    pub(super) fn open(&mut self, parcel: Parcel) -> io::Result<Visit> {
        let Parcel { slab: number, bytes, file, .. } = parcel;
        let slab = file.map_or_else(
            || self.0.remove(&number).ok_or_else(|| io::Error::other("it is not there")),
            |file| Slab::new(number, file),
        );
        let mut slab = slab?;
        let inputs = Arc::new(slab.part((0, bytes))?);
        Ok(Visit { slab, inputs })
    }

    /// After a call; true: no other is to have its slab.
    pub(super) fn close(&mut self, visit: Visit) -> bool {
        let Visit { slab, mut inputs } = visit;
        let all = slab.whole.len() + self.0.values().map(|slab| slab.whole.len()).sum::<usize>();
        let spent = Arc::get_mut(&mut inputs).is_none() || all > KEEP;
        if !spent {
            self.0.insert(slab.number, slab);
        }
        spent
    }
}

/// A call's slab, in the replica's process.
pub(super) struct Visit {
    slab: Slab,
    /// What they are made of holds on to it.
    inputs: Arc<Bytes>,
}

impl Visit {
    /// The inputs, where they are.
    pub(super) fn inputs(&self) -> PolarsResult<DataFrame> {
        let metadata = read_file_metadata(&mut Cursor::new(&**self.inputs))?;
        // SAFETY: Polars has written this, in the parent, which does not write here again while the columns are there: `close`
        // says so.
        let dictionaries = unsafe { mmap_dictionaries_unchecked(&metadata, Arc::clone(&self.inputs)) }?;
        let chunk = |chunk| {
            // SAFETY: as above.
            unsafe { mmap_unchecked(&metadata, &dictionaries, Arc::clone(&self.inputs), chunk) }.map(DataFrame::from)
        };
        let chunks = (0..metadata.blocks.len()).map(chunk).collect::<PolarsResult<Vec<_>>>()?;
        if chunks.is_empty() {
            return Ok(DataFrame::empty_with_schema(&Schema::from_arrow_schema(&metadata.schema)));
        }
        Ok(accumulate_dataframes_vertical_unchecked(chunks))
    }

    /// The memory that the inputs are in, and those of later calls; `None` if these will be elsewhere.
    #[cfg(feature = "gpu")]
    pub(super) fn memory(&self) -> Option<Bytes> {
        (self.slab.whole.len() <= KEEP).then(|| self.slab.whole.clone())
    }

    /// Puts the result behind the inputs.
    pub(super) fn leave(&mut self, result: Column) -> PolarsResult<Place> {
        self.slab.write(self.inputs.len().next_multiple_of(PAGE), &result.into_frame())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parent and child, without a socket between them.
    #[derive(Default)]
    struct Both {
        parent: Slabs,
        child: Known,
    }

    impl Both {
        fn call(&mut self, inputs: &DataFrame, udf: impl FnOnce(DataFrame) -> Column) -> DataFrame {
            let (mut lease, parcel) = self.parent.put(inputs).unwrap();
            let mut visit = self.child.open(parcel).unwrap();
            let place = visit.leave(udf(visit.inputs().unwrap())).unwrap();
            let result = lease.read(place).unwrap();
            lease.answered(self.child.close(visit));
            result
        }
    }

    fn numbers(rows: i64) -> DataFrame {
        df!["n" => (0..rows).collect::<Vec<_>>(), "s" => (0..rows).map(|n| format!("{n}, longer than twelve bytes")).collect::<Vec<_>>()]
            .unwrap()
    }

    #[test]
    fn calls_that_follow_each_other_share_a_slab_however_large_they_are() {
        let mut both = Both::default();
        for rows in [10, 100_000, 0, 1000] {
            let frame = numbers(rows);
            let result = both.call(&frame, |inputs| {
                assert!(inputs.equals(&frame));
                inputs.column("s").unwrap().clone()
            });
            assert_eq!(
                result.columns()[0].as_materialized_series(),
                frame.column("s").unwrap().as_materialized_series()
            );
        }
        assert_eq!((both.parent.made, both.child.0.len()), (1, 1));
    }

    #[test]
    fn what_a_udf_keeps_of_its_inputs_stays_as_it_was() {
        let (mut both, mut kept) = (Both::default(), Vec::new());
        for rows in [1000, 2000, 3000] {
            both.call(&numbers(rows), |inputs| {
                kept.push(inputs.column("s").unwrap().slice(1, 10));
                inputs.column("n").unwrap().clone()
            });
        }
        assert_eq!((both.parent.made, both.child.0.len()), (3, 0));
        let want = numbers(11).column("s").unwrap().slice(1, 10);
        assert!(kept.iter().all(|kept| kept.as_materialized_series().equals(want.as_materialized_series())));
        kept.clear();
        both.call(&numbers(10), |inputs| inputs.columns()[0].clone());
        both.call(&numbers(10), |inputs| inputs.columns()[0].clone());
        assert_eq!((both.parent.made, both.child.0.len()), (4, 1));
    }

    #[test]
    fn dictionaries_and_chunks_and_nulls_arrive() {
        let mut frame = df!["x" => [Some(1.5), None], "b" => [true, false]].unwrap();
        frame.vstack_mut(&frame.clone()).unwrap();
        let states = FrozenCategories::new(["on", "off"]).unwrap();
        let states = DataType::from_frozen_categories(states);
        let column = Column::new("state".into(), ["on", "off", "on", "on"]).cast(&states).unwrap();
        frame.with_column(column).unwrap();
        let mut both = Both::default();
        let result = both.call(&frame, |inputs| {
            assert!(inputs.equals_missing(&frame), "{inputs}");
            inputs.column("state").unwrap().clone()
        });
        assert_eq!(result.columns()[0].dtype(), &states);
    }

    #[test]
    fn a_place_that_is_not_there_is_refused() {
        let mut both = Both::default();
        let (mut lease, _) = both.parent.put(&numbers(10)).unwrap();
        for place in [(0, usize::MAX), (usize::MAX, 2), (1 << 30, 8)] {
            assert!(lease.read(place).is_err());
        }
        assert!(lease.read((8, 100)).is_err(), "no file of Arrow's");
        both.call(&numbers(1), |inputs| inputs.columns()[0].clone());
        assert_eq!(both.parent.made, 2, "the first is not free");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_cannot_take_memory_away() {
        let slab = Slab::new(1, os::shared_memory().unwrap()).unwrap();
        slab.file.set_len(1 << 20).unwrap();
        assert!(slab.file.set_len(100).is_err());
    }
}
