//! What is lost costs time and never an answer: workers of all kinds of queries are killed, stopped and slowed in the middle.
//!
//! `CHAOS_ROUNDS=100` does each test that draws by a seed so many times.

#[path = "../tpch/data.rs"]
mod data;
mod endings;
mod hosts;
mod joined;
mod leaving;
mod networks;
mod phases;
#[path = "../tpch/queries.rs"]
mod queries;
mod tpch;

regatta::testing::worker!();

/// How often the tests that draw by a seed do so.
fn rounds() -> u64 {
    std::env::var("CHAOS_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}
