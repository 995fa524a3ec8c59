//! What can go wrong with a GPU, in words that need no driver.

use std::borrow::Cow;
use std::fmt;

use cudarc::driver::DriverError;

use crate::{BlasError, CompileError, GpuUnavailable, LibraryMissing};

/// Why something on a GPU failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no GPU that this process can use.
    #[error(transparent)]
    Unavailable(#[from] GpuUnavailable),
    /// A library of CUDA is missing.
    #[error(transparent)]
    Library(#[from] LibraryMissing),
    /// A kernel could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Matrices could not be multiplied.
    #[error(transparent)]
    Blas(#[from] BlasError),
    /// The driver refuses.
    #[error("{doing}: {code}")]
    Driver {
        /// What it was asked for.
        doing: Cow<'static, str>,
        /// What it answered.
        code: DriverCode,
    },
    /// One row, or a batch that may not be cut, needs more memory than there is.
    #[error(
        "a piece of {rows} rows ({bytes} bytes of inputs and result) does not fit into the GPU's memory: give the pool more \
         gpu_memory, or hand the UDF smaller rows or batches"
    )]
    TooLarge {
        /// Rows that could not be made fewer.
        rows: usize,
        /// Bytes of them, without what the kernels allocate.
        bytes: usize,
    },
    /// What was handed over does not fit together.
    #[error("{0}")]
    Invalid(String),
}

impl GpuError {
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// The device's memory, or what this user of it may have, is full.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Driver { code, .. } => code.is_out_of_memory(),
            Self::Blas(BlasError::Failed { status, .. }) => status.ends_with("ALLOC_FAILED"),
            _ => false,
        }
    }

    /// The process has lost its device: every later call fails, and only a new process helps. Of the codes that are known to
    /// mean that; [`Device::lost`](crate::Device::lost) asks the device itself.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Driver { code, .. } if code.is_sticky())
    }
}

/// Names what the driver was asked for.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<Cow<'static, str>>) -> Result<T, GpuError>;
}

impl<T> Doing<T> for Result<T, DriverError> {
    fn doing(self, what: impl Into<Cow<'static, str>>) -> Result<T, GpuError> {
        self.map_err(|error| GpuError::Driver { doing: what.into(), code: error.into() })
    }
}

/// A code of the CUDA driver. Shown without asking the driver, which may be the one that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverCode(pub u32);

impl From<DriverError> for DriverCode {
    fn from(error: DriverError) -> Self {
        Self(error.0 as u32)
    }
}

impl DriverCode {
    /// The device's memory is full.
    pub fn is_out_of_memory(self) -> bool {
        self.0 == 2
    }

    /// It is one of those that are known to mean that the process has lost its device.
    pub fn is_sticky(self) -> bool {
        matches!(self.0, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 911 | 999)
    }

    /// An image that the driver cannot use: a cached one is to be made again.
    pub(crate) fn is_bad_image(self) -> bool {
        matches!(self.0, 200 | 209 | 218 | 222)
    }
}

impl fmt::Display for DriverCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.0 {
            1 => "an invalid value",
            2 => "the GPU's memory is full",
            3 => "the driver is not initialised",
            34 => "the library is a stub for linking, not a driver: take it off the loader's path",
            46 => "the device is in use by another process alone, or unavailable",
            100 => "no device",
            101 => "an invalid device",
            102 => "the device is not licensed for this",
            200 => "an image that is none",
            201 => "an invalid context",
            209 => "kernels for another device",
            214 => "an uncorrectable memory error of the device",
            218 => "PTX that the driver cannot compile",
            220 => "an uncorrectable NVLink error",
            222 => "PTX that is newer than the driver: update the driver, or use an older NVRTC",
            226 => "a fault of the hardware that was contained; the process has lost its device",
            304 => "an error of the operating system",
            400 => "an invalid handle",
            500 => "there is nothing of that name",
            700 => "a kernel touched memory that is not its own; the process has lost its device",
            701 => "too many registers, threads or bytes of shared memory for one launch",
            702 => "a kernel ran too long; the process has lost its device",
            710 => "an assertion in a kernel failed; the process has lost its device",
            709 | 714..=718 => "a kernel broke; the process has lost its device",
            712 => "this memory is pinned already",
            713 => "this memory is not pinned",
            719 => "a kernel trapped; the process has lost its device",
            721 => "a kernel ended with tensor memory of its own; the process has lost its device",
            800 => "not permitted",
            801 => "not supported on this device",
            802 => "the system is not ready yet",
            803 => "driver and library versions do not match: restart the machine after a driver update",
            804 => "forward compatibility is not supported on this device",
            911 => "a device beside the GPU failed; the process has lost its device",
            999 => "an unknown error; the process has lost its device",
            _ => "an error",
        };
        write!(f, "{meaning} (CUDA error {})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_without_a_driver_and_sorted_by_what_helps() {
        let error = |code| GpuError::Driver { doing: "copy".into(), code: DriverCode(code) };
        assert!(error(2).is_out_of_memory() && !error(2).is_sticky());
        let sticky = [214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 911, 999];
        assert!(sticky.map(error).iter().all(GpuError::is_sticky));
        assert!([1, 2, 100, 200, 500, 701].map(error).iter().all(|error| !error.is_sticky()));
        assert_eq!(error(2).to_string(), "copy: the GPU's memory is full (CUDA error 2)");
        assert_eq!(error(12345).to_string(), "copy: an error (CUDA error 12345)");
    }
}
