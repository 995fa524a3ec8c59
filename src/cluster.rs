//! Where workers come from: processes of this machine that run this same executable, places that a pilot gives, on Ray or elsewhere, or
//! machines that join by token.

mod capacity;
mod ending;
mod fleet;
mod host;
mod join;
#[cfg(feature = "kubernetes")]
mod kube;
mod local;
mod pilot;
mod piloted;
mod provider;
mod ray;
mod scratch;
mod tokens;
mod worker;

pub(crate) use capacity::{capacity, find_gpus};
#[cfg(test)]
pub(crate) use ending::Asks;
pub(crate) use host::{Host, Hosted};
pub(crate) use join::{connect, resolve};
#[cfg(feature = "kubernetes")]
pub use kube::{KubeAccess, KubeOptions};
pub(crate) use local::{LocalSpec, LocalWorkers, OnEnd};
pub use piloted::Pilot;
pub(crate) use piloted::Wanted;
pub use ray::RayOptions;
pub(crate) use scratch::Scratch;
pub(crate) use tokens::Entrance;
#[cfg(test)]
pub(crate) use worker::Recruit;
pub use worker::become_worker_if_started_as_one;
