//! What the benchmarks of whole queries have in common. Each uses a part of it.
#![allow(dead_code)]

pub(crate) mod foreign;
pub(crate) mod local;
pub(crate) mod report;

#[global_allocator]
static ALLOCATOR: regatta::Allocator = regatta::Allocator;
