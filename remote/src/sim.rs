//! A cluster in one thread: a network that loses, delays and reorders by seed, on a clock that skips all waiting.
//!
//! [`Sim::run`] gives a scenario a [`Sim`]; a [`Runtime`] of it binds [`Node`](crate::Node)s as always, at any
//! address. One seed gives one trace, packet for packet, as long as the scenario keeps to the rules: no threads, no
//! `std::time`, no randomness but [`Sim::random`], no iteration over hash maps. Where several tasks wait for one `watch`,
//! tokio draws in which order it wakes them: for those, a process draws what the C library's `getrandom` yields from its
//! seed, too (`tests/simulation/randomness.rs` of the engine).

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};

use crate::ambient::Ambient;
use crate::authority::Authority;
use crate::error::IdentityError;
use crate::lockstep::Here;
use crate::network::Network;
pub use crate::network::{Faults, Trace};
use crate::runtime::Runtime;

/// A simulation. Clones share it.
#[derive(Clone, Debug)]
pub struct Sim {
    network: Arc<Network>,
    ambient: Ambient,
}

impl Sim {
    /// Runs a scenario on a paused clock, in this thread.
    ///
    /// # Panics
    /// The scenario does, or tokio's runtime cannot be made.
    pub fn run<F: Future>(seed: u64, scenario: impl FnOnce(Self) -> F) -> F::Output {
        let runner = actix_rt::System::with_tokio_rt(|| {
            let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
            runtime.expect("a current-thread runtime needs nothing from the system but a poll descriptor")
        });
        let _here = Here::begin();
        runner.block_on(async {
            let sim = Self { network: Arc::new(Network::new(seed)), ambient: Ambient::simulated(seed) };
            scenario(sim).await
        })
    }

    /// A process's runtime: all of them share this thread.
    pub fn runtime(&self) -> Runtime {
        Runtime::simulated(Handle::current(), Arc::clone(&self.network), self.ambient.clone())
    }

    /// An authority whose names follow the seed and whose certificates follow the simulated clock.
    ///
    /// # Errors
    /// A certificate could not be made.
    pub fn authority(&self) -> Result<Authority, IdentityError> {
        Authority::of(self.ambient.clone())
    }

    /// Changes what happens to packets that are sent from now on.
    pub fn set(&self, faults: Faults) {
        self.network.set(faults);
    }

    /// Loses everything between two hosts.
    pub fn partition(&self, a: IpAddr, b: IpAddr) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// Loses everything from one host to another, and nothing the other way.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.network.cut(from, to);
    }

    /// Undoes [`partition`](Self::partition) and [`cut`](Self::cut).
    pub fn heal(&self, a: IpAddr, b: IpAddr) {
        self.network.heal(a, b);
    }

    /// Keeps everything to and from a host back, as if it were stopped; its timers still run.
    pub fn pause(&self, host: IpAddr) {
        self.network.pause(host);
    }

    /// Delivers what a [`pause`](Self::pause) has kept back.
    pub fn resume(&self, host: IpAddr) {
        self.network.resume(host);
    }

    /// What the network has carried.
    pub fn trace(&self) -> Trace {
        self.network.trace()
    }

    /// A number below `bound`, by the seed; 0 if `bound` is.
    pub fn random(&self, bound: u64) -> u64 {
        self.ambient.random().map_or(0, u64::from_le_bytes).checked_rem(bound).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::lockstep::{Pace, run, wait_simulated};

    #[test]
    fn what_nobody_waits_for_any_more_has_ended_before_anything_else_happens() {
        struct Notes(Arc<AtomicBool>);
        impl Drop for Notes {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        for seed in 0..20 {
            let is_over = Sim::run(seed, |_| async {
                let over = Arc::new(AtomicBool::new(false));
                let notes = Notes(Arc::clone(&over));
                let waits = run(Pace::default(), move || {
                    let _notes = notes;
                    wait_simulated(std::future::pending::<()>()).is_ok()
                });
                assert!(tokio::time::timeout(Duration::from_millis(5), waits).await.is_err());
                over.load(Ordering::SeqCst)
            });
            assert!(is_over, "seed {seed}");
        }
    }
}
