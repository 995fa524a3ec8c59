//! Time of day and randomness: the system's, or a simulation's. Deadlines need neither, they follow tokio's clock.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// Where the time of day and random numbers that show on the wire come from.
#[derive(Clone, Debug)]
pub(crate) enum Ambient {
    /// The operating system.
    System,
    /// A seed, and a clock that starts at a fixed date and follows tokio's.
    #[cfg(feature = "sim")]
    Simulated(std::sync::Arc<Simulated>),
}

/// The system's source of randomness failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no randomness from the system")]
pub(crate) struct NoRandomness;

/// What a simulation has instead of a system.
#[cfg(feature = "sim")]
#[derive(Debug)]
pub(crate) struct Simulated {
    started: tokio::time::Instant,
    state: std::sync::Mutex<u64>,
}

impl Ambient {
    /// To be made on the simulation's runtime.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(seed: u64) -> Self {
        let state = std::sync::Mutex::new(seed);
        Self::Simulated(std::sync::Arc::new(Simulated { started: tokio::time::Instant::now(), state }))
    }

    /// Time since 1970.
    pub(crate) fn unix(&self) -> Duration {
        match self {
            Self::System => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            #[cfg(feature = "sim")]
            Self::Simulated(simulated) => EPOCH + simulated.started.elapsed(),
        }
    }

    /// Random bytes.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N], NoRandomness> {
        let mut bytes = [0; N];
        match self {
            Self::System => {
                let random = rustls::crypto::ring::default_provider().secure_random;
                random.fill(&mut bytes).map_err(|_| NoRandomness)?;
            }
            #[cfg(feature = "sim")]
            Self::Simulated(simulated) => {
                let mut state = simulated.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                for piece in bytes.chunks_mut(8) {
                    piece.copy_from_slice(&split_mix(&mut state).to_le_bytes()[..piece.len()]);
                }
            }
        }
        Ok(bytes)
    }
}

impl TimeProvider for Ambient {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.unix()))
    }
}

/// The first day of every simulation: 2030-01-01.
#[cfg(feature = "sim")]
const EPOCH: Duration = Duration::from_secs(1_893_456_000);

/// The next number of a seed (SplitMix64).
#[cfg(feature = "sim")]
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
