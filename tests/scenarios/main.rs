//! What must hold beside right answers, each test named for it. On real processes over real QUIC.

mod actors;
mod asyncs;
mod contexts;
mod endings;
mod errors;
mod flotilla;
mod frames;
mod functions;
mod harness;
mod jobs;
mod joining;
mod looking;
mod nested;
mod pages;
mod piloted;
mod placement;
mod profiles;
mod progress;
mod recovery;
mod retries;
mod runtimes;
mod scaling;
mod shapes;
mod shuffle;
mod sinks;
mod spans;
mod structs;
mod udfs;
mod verbs;
mod warm_pools;

regatta::testing::worker!();
