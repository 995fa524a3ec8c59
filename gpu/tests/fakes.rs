//! What the fake driver notices, that other tests rely on: each misuse is counted, and what is not given back is seen.

use cudarc::driver::{result, sys};
use regatta_fakes::{Counts, Driver};
use regatta_gpu::{Device, Grid, KernelSource, use_fakes};

const BEHIND: &str = r#"extern "C" __global__ void behind(char* memory, int bytes) { memory[bytes] = 1; }"#;

fn stream() -> sys::CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

/// How many faults the driver finds in something.
fn faults(driver: &Driver, done: impl FnOnce()) -> u64 {
    let before = driver.counts().faults;
    done();
    driver.counts().faults - before
}

/// Memory that is registered instead of allocated.
fn registrations(driver: &Driver, stream: sys::CUstream) {
    const SIZE: usize = 10_000;
    let mut memory = vec![7u8; 2 * SIZE];
    let start = memory.as_mut_ptr();
    let register = |from: usize, len: usize, flags| {
        // SAFETY: they are there; the rest the driver checks.
        unsafe { sys::cuMemHostRegister_v2(start.add(from).cast(), len, flags) }
            .result()
            .map_err(|error| error.0 as u32)
    };
    // SAFETY: the driver checks it.
    let unregister = |from: usize| {
        unsafe { sys::cuMemHostUnregister(start.add(from).cast()) }.result().map_err(|error| error.0 as u32)
    };
    let before = driver.counts();
    register(0, SIZE, 0).unwrap();
    assert_eq!(driver.counts().registered_bytes - before.registered_bytes, SIZE as u64);
    assert_eq!(
        [register(0, SIZE, 0), register(SIZE - 1, 10, 0), register(SIZE, 10, 0)],
        [Err(712); 3],
        "or of its page"
    );
    assert_eq!([register(SIZE, 0, 0), register(SIZE + 5000, 10, 64)], [Err(1); 2], "nothing, and a flag that is none");
    assert_eq!([unregister(1), unregister(SIZE)], [Err(713); 2]);
    driver.fail_pins(1);
    assert_eq!(register(SIZE + 5000, 10, 0), Err(2));
    // SAFETY, of all below: what is wrong with these calls the fake driver checks before it touches memory.
    unsafe {
        assert!(result::free_host(start.cast()).is_err(), "nobody allocated it so");
        let on_device = result::malloc_sync(2 * SIZE).unwrap();
        let bytes = |from: usize, len: usize| std::slice::from_raw_parts_mut(start.add(from), len);
        let late = || {
            result::memcpy_htod_async(on_device, bytes(0, 100), stream).unwrap();
            bytes(0, 100).fill(8);
            result::memcpy_dtoh_async(bytes(200, 100), on_device, stream).unwrap();
            assert_eq!(bytes(200, 1), [7]);
            result::stream::synchronize(stream).unwrap();
            assert_eq!(bytes(200, 1), [8], "read and written when the stream comes to it");
        };
        assert_eq!(faults(driver, late), 0);
        let in_part = || assert!(result::memcpy_htod_async(on_device, bytes(SIZE - 50, 100), stream).is_err());
        assert_eq!(faults(driver, in_part), 1, "a copy of memory of which the end is not pinned");
        let under_it = || {
            result::memcpy_htod_async(on_device, bytes(0, 100), stream).unwrap();
            unregister(0).unwrap();
        };
        assert_eq!(faults(driver, under_it), 1, "unregistered under a copy of it");
        register(0, SIZE, sys::CU_MEMHOSTREGISTER_READ_ONLY).unwrap();
        let written = || assert!(result::memcpy_dtoh_async(bytes(0, 100), on_device, stream).is_err());
        assert_eq!(faults(driver, written), 1, "written to, but registered to be read");
        unregister(0).unwrap();
        result::free_sync(on_device).unwrap();
        // No thread has a context from the beginning.
        let context = result::ctx::get_current().unwrap().unwrap();
        result::ctx::set_current(std::ptr::null_mut()).unwrap();
        assert_eq!(register(0, SIZE, 0), Err(201));
        result::ctx::set_current(context).unwrap();
    }
    assert_eq!(driver.counts().registered_bytes, before.registered_bytes);
}

#[test]
fn each_misuse_of_memory_is_a_fault_and_what_stays_is_counted() {
    use_fakes(&regatta_fakes::folder());
    let driver = Driver::alone();
    let device = Device::open(0, None).unwrap();
    let before = driver.counts();
    let (here, there) = (stream(), stream());
    let mut host = [0u8; 64];
    // SAFETY, of all below: what is wrong with these calls the fake driver checks before it touches memory.
    unsafe {
        let wait = || [here, there].map(|stream| result::stream::synchronize(stream).unwrap());
        let memory = result::malloc_sync(64).unwrap();
        let fine = || {
            result::memcpy_htod_async(memory, &[1u8; 64], here).unwrap();
            wait();
        };
        assert_eq!(faults(&driver, fine), 0);
        let past_the_end = || assert!(result::memcpy_htod_async(memory + 1, &[1u8; 64], here).is_err());
        assert_eq!(faults(&driver, past_the_end), 1, "a copy up, past the end");
        let past_the_end = || assert!(result::memcpy_dtoh_async(&mut host, memory + 1, here).is_err());
        assert_eq!(faults(&driver, past_the_end), 1, "a copy down, past the end");
        let nowhere = || assert!(result::memset_d8_async(8, 0, 1, here).is_err());
        assert_eq!(faults(&driver, nowhere), 1, "memory of nobody");

        let freed_under_it = || {
            result::memcpy_htod_async(memory, &[1u8; 64], here).unwrap();
            result::free_async(memory, there).unwrap();
            result::stream::synchronize(there).unwrap();
            wait();
        };
        assert_eq!(faults(&driver, freed_under_it), 1, "memory freed before a copy to it");
        let twice = || {
            result::free_async(memory, here).unwrap();
            wait();
        };
        assert_eq!(faults(&driver, twice), 1, "freed twice");

        let not_yet = || {
            let memory = result::malloc_async(here, 64).unwrap();
            result::memcpy_htod_async(memory, &[1u8; 64], there).unwrap();
            result::stream::synchronize(there).unwrap();
            result::free_async(memory, here).unwrap();
            wait();
        };
        assert_eq!(faults(&driver, not_yet), 1, "used by a stream that has not waited for the allocation");

        let behind_it = || {
            let memory = device.alloc::<u8>(100).unwrap();
            let kernel = device.kernels(&KernelSource::new("behind.cu", BEHIND)).unwrap().kernel("behind").unwrap();
            device.launch(&kernel, Grid::blocks(1, 1), &[(&memory).into(), 100i32.into()]).unwrap();
            drop(memory);
            device.synchronize().unwrap();
        };
        assert_eq!(faults(&driver, behind_it), 1, "a kernel that writes behind an allocation");

        let pinned_under_it = || {
            let memory = result::malloc_sync(64).unwrap();
            let pinned = result::malloc_host(64, 0).unwrap();
            let bytes = std::slice::from_raw_parts(pinned.cast::<u8>(), 64);
            result::memcpy_htod_async(memory, bytes, here).unwrap();
            result::free_host(pinned).unwrap();
            result::free_sync(memory).unwrap();
        };
        assert_eq!(faults(&driver, pinned_under_it), 1, "pinned memory freed under a copy of it");

        registrations(&driver, here);

        // New memory has something in it, and is seen as long as it is there.
        let left = result::malloc_sync(64).unwrap();
        result::memcpy_dtoh_async(&mut host, left, here).unwrap();
        wait();
        assert!(host.iter().all(|byte| *byte == 0xA5), "{host:?}");
        let now = driver.counts();
        let living = |counts: &Counts| {
            [counts.device_bytes, counts.streams, counts.events, counts.pinned_bytes + counts.registered_bytes]
        };
        assert_eq!(living(&now), [before.device_bytes + 64, before.streams + 2, before.events, living(&before)[3]]);
        result::free_sync(left).unwrap();
        for stream in [here, there] {
            result::stream::destroy(stream).unwrap();
        }
        assert_eq!(living(&driver.counts()), living(&before));
    }
}
