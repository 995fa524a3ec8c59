//! The process that a replica is in, from its parent.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::output::Output;
use super::wire::{GpuSeat, VISIBLE};
use crate::cluster::{SEVERAL, replica_command};
use crate::os;
use crate::udf::{UdfError, UdfResult};

/// This executable, started again: for one replica, or with a GPU for all that have it. Ends when the last one is dropped.
pub(super) struct Process {
    child: Mutex<Child>,
    output: Mutex<Output>,
    /// Where one for several gets the sockets of its replicas.
    door: Option<UnixStream>,
}

impl Process {
    /// A place for a replica, and the socket to it.
    ///
    /// # Errors
    /// This executable cannot be started again.
    pub(super) fn enter(gpu: Option<&GpuSeat>) -> UdfResult<(Arc<Self>, UnixStream)> {
        static BY_GPU: Mutex<BTreeMap<String, Weak<Process>>> = Mutex::new(BTreeMap::new());
        let (here, there) = UnixStream::pair()?;
        let Some(gpu) = gpu else { return Ok((Arc::new(Self::start(there.into(), None)?), here)) };
        let mut by_gpu = lock(&BY_GPU);
        by_gpu.retain(|_, process| process.strong_count() > 0);
        if let Some(process) = by_gpu.get(&gpu.device).and_then(Weak::upgrade)
            && process.hand_over(&there).is_ok()
        {
            return Ok((process, here));
        }
        let (door, inside) = UnixStream::pair()?;
        let process = Arc::new(Self::start(inside.into(), Some((gpu, door)))?);
        process.hand_over(&there)?;
        by_gpu.insert(gpu.device.clone(), Arc::downgrade(&process));
        Ok((process, here))
    }

    fn start(stdin: OwnedFd, gpu: Option<(&GpuSeat, UnixStream)>) -> UdfResult<Self> {
        let mut command = replica_command().ok_or_else(|| {
            UdfError::new(
                "a replica in a process of its own (isolated, or with a GPU) is this same executable, started again, and its \
                 main cannot be one: put #[regatta::main] on main, or regatta::testing::worker!() into the test binary",
            )
        })?;
        // One thread for Polars: replicas are what runs in parallel.
        command.env("POLARS_MAX_THREADS", "1").stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some((gpu, _)) = &gpu {
            let (marker, value) = SEVERAL;
            command.env(marker, value).env(VISIBLE, &gpu.device).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        }
        let mut child = command.spawn()?;
        drop(command); // and with it our copy of the child's end
        let output = Output::read(child.stdout.take(), child.stderr.take());
        Ok(Self { child: Mutex::new(child), output: Mutex::new(output), door: gpu.map(|(_, door)| door) })
    }

    /// Hands a replica's socket to a process for several, unless it has ended.
    fn hand_over(&self, socket: &UnixStream) -> io::Result<()> {
        let door = self.door.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        os::send_with_file(door, &[1], socket.as_fd()).map(drop)
    }

    /// Ends it, with all that are in it.
    pub(super) fn kill(&self) {
        let _ = lock(&self.child).kill();
    }

    /// From here on what it prints belongs to the current span.
    pub(super) fn output_belongs_here(&self) {
        lock(&self.output).belongs_here();
    }

    /// What can be said of it when it has gone.
    pub(super) fn last_words(&self, error: impl fmt::Display) -> String {
        self.kill(); // it may only have closed the socket
        let status = lock(&self.child).wait();
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let last = lock(&self.output).last_words();
        let last = if last.is_empty() { String::new() } else { format!("; its last words: {last}") };
        format!("its process ended ({status}, {error}){last}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = lock(&self.child).wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
