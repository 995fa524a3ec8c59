//! One rate limiter for all replicas of a UDF, on whichever worker each of them runs.
//!
//! ```text
//! cargo run --example rate_limiter                            # two worker processes
//! DAFT_RUNNER=native cargo run --example rate_limiter         # the same, embedded in one process
//! ```

use std::error::Error;
use std::time::{Duration, Instant};

use regatta::actor::ActorRef;
use regatta::actor::actix::{Actor, Context, Handler, MessageResult};
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: regatta::Allocator = regatta::Allocator;

const SOON: Duration = Duration::from_secs(10);

/// Asks for so many calls; the answer says how long to wait before making them.
#[derive(Serialize, Deserialize, regatta::Message)]
#[message(id = 1, reply = Duration)]
struct Acquire(u32);

/// How many calls were let through?
#[derive(Serialize, Deserialize, regatta::Message)]
#[message(id = 2, reply = u32)]
struct Granted;

#[regatta::actor(Acquire, Granted)]
#[derive(Serialize, Deserialize)]
struct RateLimiter {
    per_second: u32,
    #[serde(skip)] // state: it stays where the actor is
    granted: (u32, Option<Instant>),
}

impl Actor for RateLimiter {
    type Context = Context<Self>;
}

impl Handler<Acquire> for RateLimiter {
    type Result = MessageResult<Acquire>;

    fn handle(&mut self, Acquire(calls): Acquire, _: &mut Context<Self>) -> Self::Result {
        let free_at = self.granted.1.unwrap_or_else(Instant::now).max(Instant::now());
        self.granted = (self.granted.0 + calls, Some(free_at + Duration::from_secs(1) * calls / self.per_second));
        MessageResult(free_at.saturating_duration_since(Instant::now()))
    }
}

impl Handler<Granted> for RateLimiter {
    type Result = u32;

    fn handle(&mut self, _: Granted, _: &mut Context<Self>) -> u32 {
        self.granted.0
    }
}

/// Calls a service that takes only so many calls, all replicas together.
#[derive(Serialize, Deserialize)]
struct Look;

#[regatta::udf]
impl Udf for Look {
    type State = ActorRef<RateLimiter>;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    fn start(&self, cx: &mut Start) -> UdfResult<Self::State> {
        cx.actor("limiter")
    }

    fn run(&self, limiter: &mut Self::State, batch: &Batch) -> UdfResult<Column> {
        std::thread::sleep(limiter.ask_blocking(Acquire(batch.height() as u32), SOON)?);
        Ok(batch.column(0)? * 2) // stands for the service
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let limiter = session.spawn(RateLimiter { per_second: 2000, granted: (0, None) }.named("limiter"))?;
    let look = Look.pool().replicas(2).batch(50);
    let words = df!["word" => (0..400i64).collect::<Vec<_>>()]?.lazy();
    let answer = words.with_column(look.on([col("word")]).alias("found")).select([col("found").sum(), len()]);
    println!("{}", answer.collect_on(&session)?);
    println!("{} calls were let through", limiter.ask_blocking(Granted, SOON)?);
    Ok(())
}
