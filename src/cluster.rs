//! Where workers come from. Today: processes of this machine that run this same executable.

mod local;
mod scratch;
mod worker;

pub(crate) use local::{LocalWorkers, OnEnd};
pub(crate) use scratch::Scratch;
pub(crate) use worker::{HandOver, hello, is_worker};
pub use worker::{TestWorker, become_worker_if_started_as_one};
