//! What the benchmarks of whole queries have in common.
#![allow(dead_code, reason = "each uses a part of it")]

pub(crate) mod foreign;
pub(crate) mod local;
pub(crate) mod ray;
pub(crate) mod report;

#[global_allocator]
static ALLOCATOR: regatta::Allocator = regatta::Allocator;
