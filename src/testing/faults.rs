//! What happens to the workers of a cluster while queries run on it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::TestCluster;
use super::cluster::Processes;
use crate::os;
use crate::sched::WorkerId;

/// One fault after the other, at workers that a seed draws, while queries run on a [`TestCluster`].
///
/// ```no_run
/// use std::time::Duration;
/// use regatta::testing::{FaultPlan, TestCluster, assert_same_as_polars};
/// use regatta::polars::prelude::*;
///
/// let cluster = TestCluster::start(4)?;
/// let query = LazyFrame::scan_parquet("words/*.parquet".into(), Default::default())?;
/// let faults = cluster.suffer(FaultPlan::kill_each(Duration::from_secs(1)).seed(7));
/// assert_same_as_polars(cluster.session(), &query, false, &[]);
/// println!("{} workers were killed", faults.end());
/// # Ok::<(), regatta::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FaultPlan {
    fault: Fault,
    each: Duration,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Pause(Duration),
}

impl FaultPlan {
    /// Kills some worker whenever so much time has passed. Another one is started in its place.
    pub const fn kill_each(time: Duration) -> Self {
        Self { fault: Fault::Kill, each: time, seed: 1 }
    }

    /// Stops some worker for a while, whenever so much time has passed. One that is stopped for more than ten seconds is lost.
    pub const fn pause_each(time: Duration, pause: Duration) -> Self {
        Self { fault: Fault::Pause(pause), each: time, seed: 1 }
    }

    /// Draws other workers.
    pub const fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Does all of it until nobody holds the other end any more. How many faults there were.
    fn run(self, workers: &Processes, ended: &Receiver<()>) -> usize {
        let passed = |time| matches!(ended.recv_timeout(time), Err(RecvTimeoutError::Timeout));
        let (mut faults, mut dice) = (0, self.seed);
        while passed(self.each) {
            let there = workers.there();
            let Some(victim) = there.get(draw(&mut dice) as usize % there.len().max(1)) else { continue };
            // One that has just died is not there any more.
            match self.fault {
                Fault::Kill => faults += usize::from(workers.kill(*victim).is_ok()),
                Fault::Pause(time) => {
                    let Ok(_paused) = workers.pause(*victim) else { continue };
                    faults += 1;
                    passed(time);
                }
            }
        }
        faults
    }
}

/// SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Faults that go on until this is dropped.
#[derive(Debug)]
#[must_use = "they end when this is dropped"]
pub struct Faults {
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<usize>>,
}

impl Faults {
    pub(super) fn begin(plan: FaultPlan, workers: Processes) -> Self {
        let (ends, ended) = channel();
        Self { ends: Some(ends), thread: Some(thread::spawn(move || plan.run(&workers, &ended))) }
    }

    /// Ends them, and says how many there were.
    pub fn end(mut self) -> usize {
        self.stop()
    }

    fn stop(&mut self) -> usize {
        self.ends = None;
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A worker that runs only now and then, until this is dropped.
#[derive(Debug)]
#[must_use = "it runs as the others when this is dropped"]
pub struct Slowed {
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How long a worker that is slowed runs, or does not, at a time.
const TURN: Duration = Duration::from_millis(200);

impl Slowed {
    pub(super) fn begin(process: u32, times: u32) -> Self {
        let (ends, ended) = channel::<()>();
        let runs = TURN / times.max(1);
        let slow = move || loop {
            // One that has been killed meanwhile neither stops nor goes on.
            let _ = os::signal(process, libc::SIGSTOP);
            let over = !matches!(ended.recv_timeout(TURN - runs), Err(RecvTimeoutError::Timeout));
            let _ = os::signal(process, libc::SIGCONT);
            if over {
                return;
            }
            thread::sleep(runs);
        };
        Self { ends: Some(ends), thread: Some(thread::spawn(slow)) }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.ends = None;
        self.thread.take().into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl TestCluster {
    /// Does to its workers what a plan says, until what is returned is dropped.
    pub fn suffer(&self, plan: FaultPlan) -> Faults {
        Faults::begin(plan, self.processes())
    }

    /// Makes a worker so many times slower, until what is returned is dropped: its process is stopped most of the time, for
    /// a fifth of a second at once.
    ///
    /// # Errors
    /// There is no such worker.
    pub fn slow(&self, worker: WorkerId, times: u32) -> Result<Slowed, crate::Error> {
        Ok(Slowed::begin(self.processes().of(worker)?, times))
    }
}
