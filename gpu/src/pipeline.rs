//! Batches through a device: some rows go up while kernels run on others and the result of a third lot comes down.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use cudarc::driver::{CudaStream, result};

use crate::column::{HostColumn, Input, Output, Packing, aligned, append_bits, bit_bytes, check};
use crate::error::Doing;
use crate::memory::{Event, Memory, Use};
use crate::pinned::{PinnedBytes, Way};
use crate::{Device, GpuError};

/// Where the result of a batch goes, on the host.
#[derive(Debug)]
pub struct HostResult<'a> {
    /// So many bytes for each row.
    pub data: &'a mut [u8],
    /// Bytes of a row.
    pub each: usize,
    /// A bit for each row, all zero at first, for kernels that make rows null.
    pub validity: Option<&'a mut [u8]>,
}

/// What a batch has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Pieces that it went through the device in.
    pub pieces: u64,
    /// How often there was not enough memory.
    pub out_of_memory: u64,
    /// Bytes copied to the device.
    pub bytes_up: u64,
    /// And from it.
    pub bytes_down: u64,
    /// Those of them that the host copied too, into or out of memory that is pinned.
    pub bytes_staged: u64,
    /// What took how long, if the pipeline [tells times](Pipeline::timed).
    pub times: Option<Times>,
}

/// What took how long on the device, by its own clock. Copies up, kernels and copies down overlap where `all` is less than
/// their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Times {
    /// Copying to the device.
    pub up: Duration,
    /// Kernels.
    pub kernels: Duration,
    /// Copying from the device.
    pub down: Duration,
    /// From the begin of the first copy to the end of the last one.
    pub all: Duration,
}

/// Takes batches through a device, in pieces that overlap.
///
/// Three pieces are under way at most, each in a slot of its own: pinned memory to go up from, memory on the device, pinned
/// memory to come down to. Between streams, and before the host touches a slot, stand events of our own. What lies in pinned
/// memory ([`Device::pin`], [`Device::pinned`]) and is large goes up from where it is, and so do results come down.
pub struct Pipeline {
    // Dropped before the device. Nothing is under way in them but while a batch is.
    slots: [Option<Slot>; SLOTS],
    device: Device,
    /// Rows of a piece at most, since memory ran out; `None`: as many as is fast.
    most: Option<Most>,
    clock: Option<Clock>,
}

/// Events that tell when things have begun.
struct Clock {
    batch: Event,
    /// Of each slot: up, kernels, down.
    begins: [[Event; 3]; SLOTS],
}

/// After memory ran out, pieces are smaller, and grow again as they succeed.
#[derive(Debug, Clone, Copy)]
struct Most {
    rows: usize,
    /// Pieces that succeeded since the last change.
    successes: u32,
}

const SLOTS: usize = 3;
/// Bytes of a piece, inputs and result: copies of less are slower for each byte, and more make the first one late.
const PIECE: Range<usize> = 4 << 20..16 << 20;
/// So many pieces have to succeed before they grow by a quarter.
const PATIENCE: u32 = 8;
/// A slot keeps what so many pieces would need, of those that there are now.
const KEPT: usize = 4;
/// Bytes of a buffer, in a piece, from which on it has a copy of its own: a call takes 5 to 10 us, in which a thread packs
/// about so many.
const DIRECT: usize = 64 << 10;

struct Slot {
    up: PinnedBytes,
    device_in: Memory,
    device_out: Memory,
    /// Of `device_in` and `device_out`.
    bytes: [usize; 2],
    down: PinnedBytes,
    uploaded: Event,
    computed: Event,
    downloaded: Event,
}

/// A piece that is under way.
struct Piece {
    slot: usize,
    rows: Range<usize>,
    /// Its result comes down to where it belongs.
    direct: bool,
}

/// Why a piece is not on its way.
enum Refused<E> {
    Gpu(GpuError),
    /// By whoever launches kernels.
    Launch(E),
}

impl<E> From<GpuError> for Refused<E> {
    fn from(error: GpuError) -> Self {
        Self::Gpu(error)
    }
}

impl<E: From<GpuError>> Refused<E> {
    /// By the GPU, where nobody else has a word for it.
    fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Gpu(error) if error.is_out_of_memory())
    }

    fn into_error(self) -> E {
        match self {
            Self::Gpu(error) => error.into(),
            Self::Launch(error) => error,
        }
    }
}

/// Waits for the device when it goes: whatever ends a run, nothing reads or writes memory of the caller after it.
struct UntilOver<'a>(&'a Device);

impl Drop for UntilOver<'_> {
    fn drop(&mut self) {
        crate::device::log("wait for what was under way", self.0.synchronize());
    }
}

impl Pipeline {
    /// A pipeline on this device. It allocates when it is used.
    pub fn new(device: &Device) -> Self {
        Self { slots: [const { None }; SLOTS], device: device.clone(), most: None, clock: None }
    }

    /// One whose reports say what took how long, for measurements: its events cost a little more.
    ///
    /// # Errors
    /// The driver is older than that of CUDA 12.8, or refuses.
    pub fn timed(device: &Device) -> Result<Self, GpuError> {
        if device.driver() < 12080 {
            return Err(GpuError::invalid("times of events need a driver for CUDA 12.8 or newer"));
        }
        let event = || Event::new(device, Use::Time);
        let begins = || Ok::<_, GpuError>([event()?, event()?, event()?]);
        let clock = Clock { batch: event()?, begins: [begins()?, begins()?, begins()?] };
        let mut timed = Self::new(device);
        timed.clock = Some(clock);
        Ok(timed)
    }

    /// Takes a batch through the device. `launch` is called for each piece, with its inputs and where its result goes; it
    /// launches kernels and does not wait for them. It must not have other effects: where memory runs out, a piece goes
    /// through it again, or in halves. With `row_wise` false there is one piece.
    ///
    /// When it returns, with whatever, or unwinds, the device is done with the columns and the result.
    ///
    /// # Errors
    /// What `launch` says; a kernel failed; there is not enough memory for one row, or for the whole batch if it may not be
    /// cut. After [an error that is sticky](GpuError::is_sticky) the process is of no use any more.
    pub fn run<E: From<GpuError>>(
        &mut self,
        rows: usize,
        columns: &[HostColumn<'_>],
        result: &mut HostResult<'_>,
        row_wise: bool,
        mut launch: impl FnMut(&Device, &[Input], &Output) -> Result<(), E>,
    ) -> Result<Report, E> {
        check(columns, rows)?;
        let bits = result.validity.as_ref().is_none_or(|bits| bits.len() * 8 >= rows);
        if rows.checked_mul(result.each) != Some(result.data.len()) || !bits {
            return Err(GpuError::invalid(format!("there is no place for the result of {rows} rows")).into());
        }
        let (mut under_way, device) = (VecDeque::new(), self.device.clone());
        let mut report = Report { times: self.clock.as_ref().map(|_| Times::default()), ..Report::default() };
        device.bind()?;
        // Copies read the columns and write the result without a borrow that the compiler knows of, and slots are used again.
        // If waiting fails, the device is lost: it does not touch them any more.
        let until_over = UntilOver(&device);
        if let Some(clock) = &self.clock {
            clock.batch.record(self.device.streams().0.cu_stream())?;
        }
        let largest = self.pieces(rows, columns, result, row_wise, &mut launch, &mut under_way, &mut report)?;
        under_way.drain(..).try_for_each(|piece| self.harvest(&piece, result, &mut report))?;
        // All pieces have been waited for, one by one: those that went wrong when their memory was given back.
        std::mem::forget(until_over);
        // What larger batches had is not kept for ever.
        let keep = KEPT * largest.max(PIECE.end);
        for slot in &mut self.slots {
            drop(slot.take_if(|slot| slot.bytes.iter().sum::<usize>() > keep));
        }
        Ok(report)
    }

    /// Returns the bytes of the largest piece.
    #[expect(clippy::too_many_arguments, reason = "one call, cut off for its error handling")]
    fn pieces<E: From<GpuError>>(
        &mut self,
        rows: usize,
        columns: &[HostColumn<'_>],
        result: &mut HostResult<'_>,
        row_wise: bool,
        launch: &mut impl FnMut(&Device, &[Input], &Output) -> Result<(), E>,
        under_way: &mut VecDeque<Piece>,
        report: &mut Report,
    ) -> Result<usize, E> {
        let whole = bytes_of(columns, result, &(0..rows));
        let natural = if row_wise { natural(rows, whole) } else { rows };
        let (mut start, mut starved) = (0, false);
        let mut largest = 0;
        while start < rows {
            let most = self.most.filter(|_| row_wise).map_or(natural, |most| most.rows.min(natural)).max(1);
            let mut range = start..rows.min(start + most);
            // Rows may be longer here than elsewhere in the batch.
            while row_wise && range.len() > 1 && bytes_of(columns, result, &range) > 2 * PIECE.end {
                range.end = start + range.len() / 2;
            }
            largest = largest.max(bytes_of(columns, result, &range));
            if under_way.len() == SLOTS
                && let Some(oldest) = under_way.pop_front()
            {
                self.harvest(&oldest, result, report)?;
            }
            // The slot that was used the longest ago.
            let slot = (0..SLOTS).find(|slot| under_way.iter().all(|piece| piece.slot != *slot)).unwrap_or(0);
            self.device.was_starved();
            match self.submit(slot, range.clone(), columns, result, launch, report) {
                Ok(piece) => {
                    under_way.push_back(piece);
                    start = range.end;
                    if starved && row_wise {
                        // It fits alone. The short rest of a batch says nothing of how many rows do.
                        self.smaller(if range.end == rows { most } else { range.len() });
                    } else {
                        self.succeeded(natural);
                    }
                    starved = false;
                }
                Err(refused) if !(self.device.was_starved() || refused.is_out_of_memory()) => {
                    return Err(refused.into_error());
                }
                Err(refused) => {
                    report.out_of_memory += 1;
                    under_way.drain(..).try_for_each(|piece| self.harvest(&piece, result, report))?;
                    self.give_back()?;
                    // Once more as it is, now that all is free; then halves.
                    if starved && (range.len() == 1 || !row_wise) {
                        return Err(match refused {
                            refused if refused.is_out_of_memory() => {
                                let bytes = bytes_of(columns, result, &range);
                                GpuError::TooLarge { rows: range.len(), bytes }.into()
                            }
                            refused => refused.into_error(),
                        });
                    }
                    if starved {
                        self.smaller(range.len());
                    }
                    starved = true;
                }
            }
        }
        Ok(largest)
    }

    /// Pieces are half of what was too much.
    fn smaller(&mut self, rows: usize) {
        let rows = (rows / 2).max(1);
        tracing::debug!(rows, "not enough memory on the GPU: smaller pieces");
        self.most = Some(Most { rows, successes: 0 });
    }

    /// Pieces grow again, until they are as large as is fast.
    fn succeeded(&mut self, natural: usize) {
        if let Some(most) = &mut self.most {
            most.successes += 1;
            if most.successes >= PATIENCE {
                *most = Most { rows: most.rows + most.rows / 4 + 1, successes: 0 };
            }
            if most.rows >= natural {
                self.most = None;
            }
        }
    }

    /// Gives the pool's memory back, and that of all slots.
    fn give_back(&mut self) -> Result<(), GpuError> {
        self.device.synchronize()?;
        self.slots = [const { None }; SLOTS];
        self.device.synchronize()?;
        self.device.trim()
    }

    /// Puts a piece on its way.
    fn submit<E: From<GpuError>>(
        &mut self,
        slot: usize,
        rows: Range<usize>,
        columns: &[HostColumn<'_>],
        result: &mut HostResult<'_>,
        launch: &mut impl FnMut(&Device, &[Input], &Output) -> Result<(), E>,
        report: &mut Report,
    ) -> Result<Piece, Refused<E>> {
        let (count, device) = (rows.len(), self.device.clone());
        let (upload, compute, download) = device.streams();
        let direct = |values: &[u8], written| values.len() >= DIRECT && device.pins().hold(values, written);
        let packing = Packing::of(columns, rows.clone(), |values| direct(values, false));
        let mut piece = Piece { slot, rows, direct: false };
        piece.direct = direct(&result.data[piece.bytes(result.each)], true);
        let (validity_at, out_bytes) = output_bytes(result, count);
        let staged_out = staged(result, &piece);
        let begins = self.clock.as_ref().map(|clock| &clock.begins[slot]);
        let begin =
            |what: usize, stream: &CudaStream| begins.map_or(Ok(()), |all| all[what].record(stream.cu_stream()));
        let order = if begins.is_some() { Use::Time } else { Use::Order };
        let on_host = [packing.staged, staged_out.len()];
        let slot = room(&mut self.slots[slot], &device, [packing.bytes, out_bytes], on_host, order)?;
        packing.write(columns, &mut slot.up[..packing.staged]);
        begin(0, upload)?;
        let mut up = 0;
        let packed = (packing.staged > 0).then_some((0, &slot.up[..packing.staged]));
        for (at, from) in packed.into_iter().chain(packing.direct()) {
            // SAFETY: there is room for it. Nobody writes to what it reads before the copy is over: to the slot not before
            // `downloaded`, which comes later, and the columns are borrowed until `run` ends, which waits for it in any case.
            // Memory that somebody unpins is waited for, too.
            unsafe { result::memcpy_htod_async(slot.device_in.pointer().after(at).0, from, upload.cu_stream()) }
                .doing("copy a batch to the device")?;
            up += from.len();
        }
        slot.uploaded.record(upload.cu_stream())?;
        slot.uploaded.before(compute.cu_stream())?;
        begin(1, compute)?;
        let data = slot.device_out.pointer();
        let validity = result.validity.as_ref().map(|_| data.after(validity_at));
        if let Some(validity) = validity {
            device.fill(validity, 0xFF, bit_bytes(count))?;
        }
        let inputs = packing.inputs(slot.device_in.pointer());
        let launched = launch(&device, &inputs, &Output { rows: count, data, validity });
        // It may have used another device.
        device.bind()?;
        launched.map_err(Refused::Launch)?;
        slot.computed.record(compute.cu_stream())?;
        slot.computed.before(download.cu_stream())?;
        begin(2, download)?;
        let mut down = 0;
        let in_place = piece.direct.then_some((0, &mut result.data[piece.bytes(result.each)]));
        let unpacked = (!staged_out.is_empty()).then(|| (staged_out.start, &mut slot.down[..staged_out.len()]));
        for (at, to) in in_place.into_iter().chain(unpacked) {
            // SAFETY: as above; and nobody reads or writes what it writes. These rows of the result are this piece's alone. It has
            // the length of what is wanted, not that of the slot.
            unsafe { result::memcpy_dtoh_async(to, data.after(at).0, download.cu_stream()) }
                .doing("copy a result from the device")?;
            down += to.len();
        }
        slot.downloaded.record(download.cu_stream())?;
        report.pieces += 1;
        report.bytes_up += up as u64;
        report.bytes_down += down as u64;
        report.bytes_staged += (packing.staged + staged_out.len()) as u64;
        Ok(piece)
    }

    /// Waits for a piece, and copies its result to where it belongs.
    fn harvest(&self, piece: &Piece, result: &mut HostResult<'_>, report: &mut Report) -> Result<(), GpuError> {
        let slot = self.slots[piece.slot].as_ref();
        let slot = slot.ok_or_else(|| GpuError::invalid("a piece of a batch was lost"))?;
        slot.downloaded.wait()?;
        if let (Some(clock), Some(times)) = (&self.clock, &mut report.times) {
            let [up, kernels, down] = &clock.begins[piece.slot];
            times.up += up.until(&slot.uploaded)?;
            times.kernels += kernels.until(&slot.computed)?;
            times.down += down.until(&slot.downloaded)?;
            times.all = clock.batch.until(&slot.downloaded)?;
        }
        let staged = staged(result, piece);
        let from = &slot.down[..staged.len()];
        if !piece.direct {
            let to = &mut result.data[piece.bytes(result.each)];
            to.copy_from_slice(&from[..to.len()]);
        }
        let (validity_at, _) = output_bytes(result, piece.rows.len());
        if let Some(validity) = &mut result.validity {
            append_bits(validity, piece.rows.start, &from[validity_at - staged.start..], piece.rows.len());
        }
        Ok(())
    }
}

/// The slot, large enough. Nothing may be under way in it.
fn room<'a>(
    slot: &'a mut Option<Slot>,
    device: &Device,
    bytes: [usize; 2],
    on_host: [usize; 2],
    order: Use,
) -> Result<&'a mut Slot, GpuError> {
    let had = slot.as_ref().map_or(([0; 2], [0; 2]), |slot| (slot.bytes, [slot.up.len(), slot.down.len()]));
    let enough = |(had, wanted): ([usize; 2], [usize; 2])| had[0] >= wanted[0] && had[1] >= wanted[1];
    if let Some(large) = slot.take().filter(|_| enough((had.0, bytes)) && enough((had.1, on_host))) {
        return Ok(slot.insert(large));
    }
    let larger = |had: [usize; 2], wanted: [usize; 2]| [0, 1].map(|n| had[n].max(aligned(wanted[n])));
    let made = Slot::new(device, larger(had.0, bytes), larger(had.1, on_host), order)?;
    // What goes up waits for the allocation, which is in the order of the kernels; what comes down waits for those.
    let (upload, compute, _) = device.streams();
    made.computed.record(compute.cu_stream())?;
    made.computed.before(upload.cu_stream())?;
    Ok(slot.insert(made))
}

impl Slot {
    fn new(device: &Device, bytes: [usize; 2], on_host: [usize; 2], order: Use) -> Result<Self, GpuError> {
        Ok(Self {
            device_in: device.memory(bytes[0])?,
            device_out: device.memory(bytes[1])?,
            up: PinnedBytes::new(device, on_host[0], Way::Up)?,
            down: PinnedBytes::new(device, on_host[1], Way::Down)?,
            bytes,
            uploaded: Event::new(device, order)?,
            computed: Event::new(device, order)?,
            downloaded: Event::new(device, Use::Sleep)?,
        })
    }
}

/// Where the validity of so many rows of the result is in its slab, and how long that is.
fn output_bytes(result: &HostResult<'_>, rows: usize) -> (usize, usize) {
    let data = aligned(rows * result.each);
    match result.validity {
        Some(_) => (data, data + bit_bytes(rows)),
        None => (data, rows * result.each),
    }
}

/// Which part of its slab comes down through the slot, and the host copies from there: all but what goes directly.
fn staged(result: &HostResult<'_>, piece: &Piece) -> Range<usize> {
    let (validity_at, bytes) = output_bytes(result, piece.rows.len());
    let start = if piece.direct { validity_at.min(bytes) } else { 0 };
    start..bytes
}

impl Piece {
    /// Where its rows are in the result, of so many bytes each.
    fn bytes(&self, each: usize) -> Range<usize> {
        self.rows.start * each..self.rows.end * each
    }
}

/// Bytes that these rows have on the device, and their result.
fn bytes_of(columns: &[HostColumn<'_>], result: &HostResult<'_>, rows: &Range<usize>) -> usize {
    Packing::of(columns, rows.clone(), |_| false).bytes + output_bytes(result, rows.len()).1
}

/// Rows of a piece of a batch of so many bytes: at least four pieces, if those are large enough to be fast.
fn natural(rows: usize, bytes: usize) -> usize {
    let each = bytes.div_ceil(rows.max(1)).max(1);
    let piece = (bytes / 4).clamp(PIECE.start, PIECE.end);
    let fit = (piece / each).max(1);
    // Whole words of bits, where rows are not so long that there are few of them in a piece.
    let words = fit.next_multiple_of(32);
    if words * each <= PIECE.end { words } else { fit }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("device", &self.device).field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
