//! An async client: many requests in flight from one thread, and a server that asks for patience is given it.
//!
//! ```text
//! cargo run --example client                        # two worker processes
//! DAFT_RUNNER=native cargo run --example client     # in this process
//! ```

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks a server for the population of harbours, one request for each batch.
#[derive(Serialize, Deserialize)]
struct Population {
    server: SocketAddr,
}

#[regatta::udf]
impl AsyncUdf for Population {
    type State = ();

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Int64)
    }

    async fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    async fn run(&self, (): &(), batch: &Batch) -> UdfResult<Column> {
        let harbours: Vec<_> = batch.column(0)?.i64()?.iter().flatten().map(|id| id.to_string()).collect();
        let mut stream = TcpStream::connect(self.server).await?;
        stream.write_all(format!("GET /{} HTTP/1.0\r\n\r\n", harbours.join(",")).as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        batch.metrics().count("requests", 1);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| UdfError::new("no answer"))?;
        if !head.starts_with("HTTP/1.0 200") {
            let busy = UdfError::new(head.lines().next().unwrap_or_default());
            return Err(busy.retry_after(Duration::from_millis(50)));
        }
        let numbers = body.split(',').map(str::parse).collect::<Result<Vec<i64>, _>>()?;
        Ok(Int64Chunked::from_vec("".into(), numbers).into_column())
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    let server = serve()?;
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let population = Population { server }.pool().in_flight(8).batch(5).max_retries(8).timeout(Duration::from_secs(10));
    let query = df!["harbour" => (1..=200i64).collect::<Vec<_>>()]?
        .lazy()
        .with_column(population.on([col("harbour")]).alias("population"));
    let mut run = session.submit(query)?;
    println!("{}", run.collect()?);
    if let Some(status) = run.status()? {
        println!("{status}");
    }
    Ok(())
}

/// A server on this machine; every seventh request finds it busy.
fn serve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let requests = AtomicUsize::new(0);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = String::new();
            let read = BufReader::new(&stream).read_line(&mut request);
            let harbours = request.split(['/', ' ']).nth(2).unwrap_or_default();
            let answers = harbours.split(',').map(|id| id.parse().map_or(0, |id: i64| 1000 * id + id % 7).to_string());
            let answer = match requests.fetch_add(1, Ordering::Relaxed) % 7 {
                6 => "HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n".to_owned(),
                _ => format!("HTTP/1.0 200 OK\r\n\r\n{}", answers.collect::<Vec<_>>().join(",")),
            };
            // A client that has gone needs no answer.
            let _ = read.and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
    Ok(address)
}
