//! Memory of devices and of the host: poisoned, guarded, bounded, counted.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use super::{
    ALREADY_REGISTERED, Code, Driver, ILLEGAL_ADDRESS, INVALID_VALUE, NOT_REGISTERED, OK, OUT_OF_MEMORY, call, driver,
    fail, setting,
};

/// What new memory holds, what freed memory holds, and what stands behind each allocation.
const NEW: u8 = 0xA5;
const FREED: u8 = 0xDD;
const GUARD: u8 = 0x7E;
/// Bytes of a guard; and the alignment of an allocation.
const GUARDED: usize = 256;

/// Bytes that are copied in a nanosecond between host and device, and on one.
const LINK: u64 = 16;
const ON_DEVICE: u64 = 256;

struct Block {
    size: usize,
    pool: u64,
    /// Its stream has come to where it was allocated.
    there: bool,
}

struct Pinned {
    size: usize,
    /// Somebody else's memory; else the driver has allocated it.
    registered: bool,
    writable: bool,
    /// Copies that are under way.
    copies: usize,
}

/// What a registration pins, whole.
const PAGE: u64 = 4096;
/// `CU_MEMHOSTREGISTER_READ_ONLY`.
const READ_ONLY: c_uint = 8;

/// A pool keeps what is freed, up to what it may have, until it is trimmed.
#[derive(Default)]
struct Pool {
    /// 0: no bound.
    most: u64,
    used: u64,
    kept: u64,
}

#[derive(Default)]
pub(crate) struct Memory {
    blocks: BTreeMap<u64, Block>,
    pinned: BTreeMap<u64, Pinned>,
    /// 0 is that of allocations without one: it keeps nothing.
    pools: BTreeMap<u64, Pool>,
    last: u64,
    limit: u64,
}

impl Memory {
    pub(crate) fn limit(&mut self) -> u64 {
        if self.limit == 0 {
            self.limit = setting("FAKE_CUDA_MEMORY", 1 << 30);
        }
        self.limit
    }

    pub(crate) fn set_limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    fn reserved(&self) -> u64 {
        self.pools.values().map(|pool| pool.used + pool.kept).sum()
    }

    /// Charges a pool, with what it has kept first.
    fn charge(&mut self, id: u64, bytes: u64) -> Result<(), Code> {
        let (limit, reserved) = (self.limit(), self.reserved());
        let pool = self.pools.entry(id).or_default();
        let reused = pool.kept.min(bytes);
        if reserved - reused + bytes > limit || (pool.most > 0 && pool.used + bytes > pool.most) {
            return Err(OUT_OF_MEMORY);
        }
        pool.used += bytes;
        pool.kept -= reused;
        Ok(())
    }

    /// How many bytes of an allocation there are from here on.
    fn after(&self, address: u64) -> Option<usize> {
        let (start, block) = self.blocks.range(..=address).next_back()?;
        block.size.checked_sub((address - start) as usize)
    }

    fn pinned(&mut self, address: u64) -> Option<&mut Pinned> {
        let (start, pinned) = self.pinned.range_mut(..=address).next_back()?;
        (address < start + pinned.size as u64).then_some(pinned)
    }

    /// Whether something pinned has one of these bytes.
    fn pinned_within(&self, address: u64, bytes: usize) -> bool {
        let before = self.pinned.range(..address + bytes as u64).next_back();
        before.is_some_and(|(start, pinned)| start + pinned.size as u64 > address)
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size + GUARDED, GUARDED).expect("a size that is no size")
}

impl Driver {
    /// Other streams may use it once its own has come to it.
    fn allocate(&mut self, pool: u64, size: usize, stream: *mut c_void) -> Result<u64, Code> {
        if size == 0 {
            return Err(INVALID_VALUE);
        }
        fail(&mut self.failing_allocations)?;
        self.memory.charge(pool, size as u64)?;
        // SAFETY: neither is zero; what is written is what was allocated.
        let address = unsafe {
            let start = alloc(layout(size));
            ptr::write_bytes(start, NEW, size);
            ptr::write_bytes(start.add(size), GUARD, GUARDED);
            start.expose_provenance() as u64
        };
        self.memory.blocks.insert(address, Block { size, pool, there: false });
        self.put(stream, 0, move |driver| {
            if let Some(block) = driver.memory.blocks.get_mut(&address) {
                block.there = true;
            }
        });
        let counts = &mut self.counts;
        counts.device_bytes += size as u64;
        counts.peak_device_bytes = counts.peak_device_bytes.max(counts.device_bytes);
        Ok(address)
    }

    fn free(&mut self, address: u64) {
        let Some(Block { size, pool, .. }) = self.memory.blocks.remove(&address) else {
            return self.fault(format_args!("memory is freed that is not there"));
        };
        let start: *mut u8 = ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: it is an allocation of this size, with its guard.
        let guarded = unsafe { std::slice::from_raw_parts(start.add(size), GUARDED).iter().all(|byte| *byte == GUARD) };
        if !guarded {
            self.fault(format_args!("a kernel has written behind an allocation of {size} bytes"));
        }
        if let Some(pool) = self.memory.pools.get_mut(&pool) {
            pool.used -= size as u64;
            pool.kept += size as u64;
        }
        if pool == 0 {
            self.trim(0);
        }
        self.counts.device_bytes -= size as u64;
        // SAFETY: as above; nobody has it any more.
        unsafe {
            ptr::write_bytes(start, FREED, size);
            dealloc(start, layout(size));
        }
    }

    fn trim(&mut self, pool: u64) {
        if let Some(pool) = self.memory.pools.get_mut(&pool) {
            pool.kept = 0;
        }
    }

    fn fault(&mut self, what: std::fmt::Arguments<'_>) {
        eprintln!("[fake cuda] {what}");
        self.counts.faults += 1;
    }

    /// Whether so many bytes from this address are one allocation's.
    fn within(&mut self, what: &str, address: u64, bytes: usize) -> Result<(), Code> {
        match self.memory.after(address) {
            Some(there) if bytes <= there => Ok(()),
            Some(there) => {
                self.fault(format_args!("{what}: {bytes} bytes where the allocation has {there} more"));
                Err(INVALID_VALUE)
            }
            None => {
                self.fault(format_args!("{what}: an address that is no device's"));
                Err(ILLEGAL_ADDRESS)
            }
        }
    }

    /// Whether these bytes are there, now that a stream has come to what it does to them; a fault if not.
    fn is_there(&mut self, what: &str, address: u64, bytes: usize) -> bool {
        let block = self.memory.blocks.range(..=address).next_back();
        match block.filter(|(start, block)| address - **start + bytes as u64 <= block.size as u64) {
            Some((_, block)) if block.there => return true,
            Some(_) => self.fault(format_args!("{what}: before the memory is allocated in its stream")),
            None => self.fault(format_args!("{what}: after the memory was freed")),
        }
        false
    }

    /// Whether these bytes of the host are pinned, all of them at once, and may be copied so.
    fn is_pinned(&mut self, what: &str, address: u64, bytes: usize, written: bool) -> Result<bool, Code> {
        let touched = self.memory.pinned_within(address, bytes);
        let whole = self.memory.pinned.range(..=address).next_back();
        let whole = whole.filter(|(start, pinned)| address + bytes as u64 <= *start + pinned.size as u64);
        match whole.map(|(_, pinned)| pinned.writable) {
            Some(true) => Ok(true),
            Some(false) if !written => Ok(true),
            Some(false) => {
                self.fault(format_args!("{what}: to memory that was registered to be read"));
                Err(INVALID_VALUE)
            }
            None if touched => {
                self.fault(format_args!("{what}: memory that is pinned in part"));
                Err(INVALID_VALUE)
            }
            None => Ok(false),
        }
    }

    /// Forgets pinned memory of the one or the other kind; `None`: there is none.
    fn unpin(&mut self, start: *mut c_void, registered: bool) -> Option<usize> {
        let address = start.addr() as u64;
        let copies = self.memory.pinned.get(&address).filter(|pinned| pinned.registered == registered)?.copies;
        // A real one may wait for them; nobody says that it must.
        if copies > 0 {
            self.fault(format_args!("pinned memory is let go under {copies} copies"));
            self.drain_all();
        }
        self.memory.pinned.remove(&address).map(|pinned| pinned.size)
    }

    /// Copies when the stream comes to it.
    fn copy(&mut self, stream: *mut c_void, what: &'static str, to: Place, from: Place, bytes: usize) {
        let sides = [to, from];
        let hosts = sides.map(|side| match side {
            Place::Host(address) => Some(address),
            Place::Device(_) => None,
        });
        let hosts = move || hosts.into_iter().flatten();
        hosts().for_each(|address| self.memory.pinned(address).into_iter().for_each(|pinned| pinned.copies += 1));
        let speed = if hosts().next().is_some() { LINK } else { ON_DEVICE };
        self.put(stream, bytes as u64 / speed, move |driver| {
            hosts().for_each(|address| driver.memory.pinned(address).into_iter().for_each(|pinned| pinned.copies -= 1));
            let [to, from] = sides.map(|side| match side {
                Place::Host(address) => Some(address),
                Place::Device(address) => driver.is_there(what, address, bytes).then_some(address),
            });
            let (Some(to), Some(from)) = (to, from) else { return };
            // SAFETY: device memory is there, as was just seen; host memory is there until its copy has been waited for,
            // which is what callers owe a driver, and pinned memory is held to it.
            unsafe {
                let from: *const u8 = ptr::with_exposed_provenance(from as usize);
                ptr::copy(from, ptr::with_exposed_provenance_mut(to as usize), bytes);
            }
        });
    }
}

/// One side of a copy.
#[derive(Clone, Copy)]
enum Place {
    Host(u64),
    Device(u64),
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolCreate(pool: *mut *mut c_void, properties: *const PoolProperties) -> Code {
    call(|driver| {
        driver.memory.last += 1;
        let id = driver.memory.last;
        let most = unsafe { (*properties).most as u64 };
        driver.memory.pools.insert(id, Pool { most, ..Pool::default() });
        driver.counts.pools += 1;
        unsafe { pool.write(ptr::without_provenance_mut(id as usize)) };
        Ok(())
    })
}

/// `CUmemPoolProps`, as far as it is read here.
#[repr(C)]
struct PoolProperties {
    kind: c_int,
    handles: c_int,
    location: [c_int; 2],
    security: *const c_void,
    most: usize,
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolDestroy(pool: *mut c_void) -> Code {
    call(|driver| {
        let pool = driver.memory.pools.remove(&(pool.addr() as u64)).ok_or(INVALID_VALUE)?;
        driver.counts.pools -= 1;
        if pool.used > 0 {
            driver.fault(format_args!("a pool is destroyed that {} bytes are of", pool.used));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: *mut c_void, _: usize) -> Code {
    call(|driver| {
        driver.counts.trims += 1;
        driver.trim(pool.addr() as u64);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(_: *mut c_void, _: c_int, _: *mut c_void) -> Code {
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocFromPoolAsync(
    address: *mut u64,
    bytes: usize,
    pool: *mut c_void,
    stream: *mut c_void,
) -> Code {
    call(|driver| {
        let allocated = driver.allocate(pool.addr() as u64, bytes, stream)?;
        unsafe { address.write(allocated) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: *mut c_void) -> Code {
    unsafe { cuMemAllocFromPoolAsync(address, bytes, ptr::null_mut(), stream) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    match unsafe { cuMemAllocAsync(address, bytes, ptr::null_mut()) } {
        OK => super::streams::synchronize(ptr::null_mut()),
        code => code,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: *mut c_void) -> Code {
    call(|driver| {
        driver.put(stream, 0, move |driver| driver.free(address));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> Code {
    call(|driver| {
        driver.drain_all();
        driver.free(address);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    let mut driver = driver();
    let (limit, reserved) = (driver.memory.limit(), driver.memory.reserved());
    unsafe {
        free.write(limit.saturating_sub(reserved) as usize);
        total.write(limit as usize);
    }
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _: c_uint) -> Code {
    call(|driver| {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        fail(&mut driver.failing_pins)?;
        // SAFETY: it is not zero; what is written is what was allocated.
        let start = unsafe { alloc(layout(bytes)) };
        unsafe { ptr::write_bytes(start, NEW, bytes) };
        let pinned = Pinned { size: bytes, registered: false, writable: true, copies: 0 };
        driver.memory.pinned.insert(start.expose_provenance() as u64, pinned);
        driver.counts.pinned_bytes += bytes as u64;
        unsafe { address.write(start.cast()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: *mut c_void) -> Code {
    call(|driver| {
        let size = driver.unpin(address, false).ok_or(INVALID_VALUE)?;
        driver.counts.pinned_bytes -= size as u64;
        // SAFETY: it was allocated so.
        unsafe { dealloc(address.cast(), layout(size)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: c_uint) -> Code {
    call(|driver| {
        if address.is_null() || bytes == 0 || flags & !READ_ONLY != 0 {
            return Err(INVALID_VALUE);
        }
        let start = address.expose_provenance() as u64;
        let (first, end) = (start / PAGE * PAGE, (start + bytes as u64).next_multiple_of(PAGE));
        let shares_a_page = |(other, pinned): (&u64, &Pinned)| {
            pinned.registered && *other < end && (other + pinned.size as u64).next_multiple_of(PAGE) > first
        };
        if driver.memory.pinned_within(start, bytes) || driver.memory.pinned.iter().any(shares_a_page) {
            return Err(ALREADY_REGISTERED);
        }
        fail(&mut driver.failing_pins)?;
        let writable = flags & READ_ONLY == 0;
        driver.memory.pinned.insert(start, Pinned { size: bytes, registered: true, writable, copies: 0 });
        driver.counts.registered_bytes += bytes as u64;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(address: *mut c_void) -> Code {
    call(|driver| {
        let size = driver.unpin(address, true).ok_or(NOT_REGISTERED)?;
        driver.counts.registered_bytes -= size as u64;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) -> Code {
    call(|driver| {
        driver.within("a copy to the device", to, bytes)?;
        let address = from.expose_provenance() as u64;
        let pinned = driver.is_pinned("a copy to the device", address, bytes, false)?;
        driver.counts.to_device += bytes as u64;
        driver.counts.copies += 1;
        if pinned {
            driver.copy(stream, "a copy to the device", Place::Device(to), Place::Host(address), bytes);
            if driver.eager {
                driver.finish(stream);
            }
        } else {
            // Staged by the driver, before the call returns.
            // SAFETY: the caller says that they are there.
            let staged = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
            driver.put(stream, bytes as u64 / LINK, move |driver| {
                if driver.is_there("a copy to the device", to, bytes) {
                    // SAFETY: just seen.
                    unsafe {
                        ptr::copy_nonoverlapping(staged.as_ptr(), ptr::with_exposed_provenance_mut(to as usize), bytes);
                    }
                }
            });
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> Code {
    match unsafe { cuMemcpyHtoDAsync_v2(to, from, bytes, ptr::null_mut()) } {
        OK => super::streams::synchronize(ptr::null_mut()),
        code => code,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) -> Code {
    call(|driver| {
        driver.within("a copy from the device", from, bytes)?;
        let address = to.expose_provenance() as u64;
        let pinned = driver.is_pinned("a copy from the device", address, bytes, true)?;
        driver.counts.from_device += bytes as u64;
        driver.counts.copies += 1;
        driver.copy(stream, "a copy from the device", Place::Host(address), Place::Device(from), bytes);
        if !pinned {
            driver.drain(stream);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> Code {
    match cuMemcpyDtoHAsync_v2(to, from, bytes, ptr::null_mut()) {
        OK => super::streams::synchronize(ptr::null_mut()),
        code => code,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> Code {
    call(|driver| {
        driver.within("a copy on the device", to, bytes)?;
        driver.within("a copy on the device", from, bytes)?;
        driver.counts.within_device += bytes as u64;
        driver.copy(stream, "a copy on the device", Place::Device(to), Place::Device(from), bytes);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, byte: u8, bytes: usize, stream: *mut c_void) -> Code {
    call(|driver| {
        driver.within("a memset", to, bytes)?;
        driver.put(stream, bytes as u64 / ON_DEVICE, move |driver| {
            if driver.is_there("a memset", to, bytes) {
                // SAFETY: just seen.
                unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(to as usize), byte, bytes) };
            }
        });
        Ok(())
    })
}
