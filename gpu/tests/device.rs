//! What a device refuses before the driver sees it, and what it makes of the driver's answers: on the fake driver.

use regatta_fakes::Driver;
use regatta_gpu::{Arch, Device, GpuError, Grid, KernelSource, Nvrtc, use_fakes};

const KERNELS: &str = r#"
extern "C" __global__ void scale(float* x, float by, unsigned long long n) {
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= by;
}
extern "C" __global__ void nothing() {}
"#;

fn source() -> KernelSource {
    KernelSource::new("test.cu", KERNELS)
}

fn fakes() -> Driver {
    use_fakes(&regatta_fakes::folder());
    Driver::alone()
}

fn text<T>(result: Result<T, GpuError>) -> String {
    result.err().expect("this is refused").to_string()
}

#[test]
fn arguments_that_are_not_the_kernels_parameters_are_refused_where_the_driver_tells_those() {
    let driver = fakes();
    for (version, tells) in [(13000, true), (12040, true), (12030, false)] {
        driver.set_version(version);
        let device = Device::open(0, None).unwrap();
        let kernels = device.kernels(&source()).unwrap();
        let (scale, nothing) = (kernels.kernel("scale").unwrap(), kernels.kernel("nothing").unwrap());
        let x = device.upload(&[1f32, 2.0, 3.0]).unwrap();
        let before = driver.counts().launches;
        if tells {
            let too_few = [(&x).into(), 2f32.into()];
            let too_large = [(&x).into(), 2f64.into(), 3u64.into()];
            for (args, given) in [(&[][..], "0 of []"), (&too_few, "2 of [8, 4]"), (&too_large, "3 of [8, 8, 8]")] {
                // SAFETY: these are refused.
                let error = text(unsafe { device.launch(&scale, Grid::over(3), args) });
                assert_eq!(error, format!("kernel scale takes 3 arguments of [8, 4, 8] bytes and is given {given}"));
            }
            // SAFETY: as above.
            assert!(unsafe { device.launch(&nothing, Grid::over(1), &[1u8.into()]) }.is_err());
            assert_eq!(driver.counts().launches, before, "nothing was launched");
        }
        // SAFETY: these are the kernels' parameters, and there are three floats.
        unsafe {
            device.launch(&scale, Grid::over(3), &[(&x).into(), 2f32.into(), 3u64.into()]).unwrap();
            device.launch(&nothing, Grid::over(1), &[]).unwrap();
        }
        assert_eq!(device.download(&x).unwrap(), [2.0, 4.0, 6.0], "a driver for {version}");
    }
    driver.set_version(0);
}

#[test]
fn blocks_get_as_much_shared_memory_as_the_device_has_and_no_more() {
    let _driver = fakes();
    let device = Device::open(0, None).unwrap();
    let kernels = device.kernels(&source()).unwrap();
    let [first, second] = [(); 2].map(|()| kernels.kernel("nothing").unwrap());
    for (kernel, bytes) in [(&first, 48 << 10), (&first, 100 << 10), (&second, 227 << 10), (&first, 227 << 10)] {
        // SAFETY: it does nothing.
        unsafe { device.launch(kernel, Grid::blocks(1, 32).shared(bytes), &[]) }.unwrap();
    }
    // SAFETY: as above.
    let error = text(unsafe { device.launch(&first, Grid::blocks(1, 32).shared((227 << 10) + 1), &[]) });
    assert!(error.contains("232449 bytes of shared memory for a block: this device has 232448"), "{error}");
    device.synchronize().unwrap();
}

#[test]
fn a_compiled_image_is_loaded_whole_or_refused_and_never_read_past_its_end() {
    let _driver = fakes();
    let device = Device::open(0, None).unwrap();
    let image = Nvrtc::get(Some(device.cuda_major())).unwrap().compile(&source(), Arch(90)).unwrap().bytes;
    // SAFETY: the compiler has made it.
    let kernels = unsafe { device.load("whole", &image) }.unwrap();
    kernels.kernel("scale").unwrap();
    let cuts = (0..image.len()).step_by(97).chain([image.len() - 1]);
    for cut in cuts {
        // An allocation that ends where the image does.
        let cut = image[..cut].to_vec().into_boxed_slice();
        // SAFETY: it is refused.
        let error = text(unsafe { device.load("cut", &cut) });
        assert!(error.starts_with("compiled kernels cut: "), "{} bytes: {error}", cut.len());
    }
}

#[test]
fn more_values_than_there_are_addresses_are_no_few() {
    let _driver = fakes();
    let device = Device::open(0, None).unwrap();
    for error in [text(device.alloc::<f32>(1 << 62)), text(device.zeros::<u64>(usize::MAX / 8 + 2))] {
        assert!(error.contains("more than there are addresses"), "{error}");
    }
}

#[test]
fn a_bound_on_memory_needs_a_driver_that_keeps_it() {
    let driver = fakes();
    driver.set_version(12010);
    let error = text(Device::open(0, Some(1 << 20)));
    assert!(error.contains("needs a driver for CUDA 12.2 or newer, and this one is for 12.1"), "{error}");
    Device::open(0, None).unwrap();
    driver.set_version(12020);
    let device = Device::open(0, Some(1 << 20)).unwrap();
    assert!(device.alloc::<u8>(2 << 20).unwrap_err().is_out_of_memory());
    driver.set_version(0);
}

#[test]
fn a_device_is_lost_by_whatever_error_stays_but_want_of_memory() {
    let driver = fakes();
    let device = Device::open(0, None).unwrap();
    assert!(device.lost().is_none());
    // Known ones, and one that is not known to stay.
    for code in [700, 719, 226, 721, 911, 919] {
        driver.set_sticky(code);
        let lost = device.lost().expect("each call fails").to_string();
        assert!(lost.contains(&format!("(CUDA error {code})")), "{lost}");
        driver.set_sticky(0);
    }
    driver.set_sticky(2);
    assert!(device.lost().is_none());
    driver.set_sticky(0);
    assert!(device.lost().is_none());
}
