//! A client of an HTTP service that takes so many requests per second and so many at once: an actor hands out the turns to
//! all replicas together, `in_flight` bounds each replica. The server, in this program, measures both.
//!
//! ```text
//! cargo run --example http_client                        # two worker processes
//! DAFT_RUNNER=native cargo run --example http_client     # in this process
//! ```

mod server;

use std::error::Error;
use std::time::{Duration, Instant};

use regatta::actor::ActorRef;
use regatta::actor::actix::{Actor, Context, Handler, MessageResult};
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use server::Server;

const PER_SECOND: u32 = 100;
const REPLICAS: usize = 2;
const IN_FLIGHT: usize = 4;

/// Asks for a turn; the answer says how long to wait for it.
#[derive(Serialize, Deserialize, regatta::Message)]
#[message(id = 1, reply = Duration)]
struct Turn;

#[regatta::actor(Turn)]
#[derive(Serialize, Deserialize)]
struct RateLimiter {
    #[serde(skip)] // state: it stays where the actor is
    next: Option<Instant>,
}

impl Actor for RateLimiter {
    type Context = Context<Self>;
}

impl Handler<Turn> for RateLimiter {
    type Result = MessageResult<Turn>;

    fn handle(&mut self, _: Turn, _: &mut Context<Self>) -> Self::Result {
        let now = Instant::now();
        let turn = self.next.map_or(now, |next| next.max(now));
        self.next = Some(turn + Duration::from_secs(1) / PER_SECOND);
        MessageResult(turn - now)
    }
}

/// The depth of a harbour, as the service has it: one request for each row.
#[derive(Serialize, Deserialize)]
struct Depth {
    service: String,
    limiter: ActorRef<RateLimiter>,
}

#[regatta::udf]
impl AsyncUdf for Depth {
    type State = reqwest::Client;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Float64)
    }

    async fn start(&self, _: &mut Start) -> UdfResult<reqwest::Client> {
        Ok(reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?) // keeps its connections
    }

    async fn run(&self, client: &reqwest::Client, batch: &Batch) -> UdfResult<Column> {
        let harbour = batch.column(0)?.i64()?.get(0);
        let harbour = harbour.ok_or_else(|| UdfError::new("a harbour is null"))?;
        tokio::time::sleep(self.limiter.ask(Turn, Duration::from_secs(10)).await?).await;
        let answer = client.get(format!("{}/depth/{harbour}", self.service)).send().await?.error_for_status()?;
        Ok(Column::new("".into(), [answer.text().await?.parse::<f64>()?]))
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start()?;
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let limiter = session.spawn(RateLimiter { next: None })?;
    let depth =
        Depth { service: server.address.clone(), limiter }.pool().replicas(REPLICAS).in_flight(IN_FLIGHT).batch(1);
    let harbours = df!["harbour" => (1..=100i64).collect::<Vec<_>>()]?.lazy();
    let started = Instant::now();
    println!("{}", harbours.with_column(depth.on([col("harbour")]).alias("depth")).collect_on(&session)?);

    let came = server.came();
    println!("{} requests in {:.2?}, {} at once at most", came.len(), started.elapsed(), server.at_once());
    assert!(server.at_once() <= REPLICAS * IN_FLIGHT, "each replica has {IN_FLIGHT} in flight");
    let early = (0..).zip(came).find(|(turn, came)| *came < started + Duration::from_secs(1) / PER_SECOND * *turn);
    assert_eq!(early, None, "no request comes before its turn");
    Ok(())
}
