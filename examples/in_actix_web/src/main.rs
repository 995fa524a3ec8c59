//! Regatta behind an actix-web handler: one session for all requests, awaited in the handler. Starts the server on a free
//! port, asks it once, prints the answer, ends.

use std::io::{Read, Write};
use std::net::TcpStream;

use actix_web::{App, HttpServer, Responder, Result, error, rt, web};
use regatta::{polars::prelude::*, prelude::*};

/// What a sailor calls this wind.
#[regatta::udf]
fn beaufort(knots: f64) -> &'static str {
    match knots {
        ..7.0 => "light",
        ..17.0 => "moderate",
        ..34.0 => "strong",
        _ => "gale",
    }
}

async fn winds(session: web::Data<Session>, least: web::Path<f64>) -> Result<impl Responder> {
    let winds = df!["place" => ["Skagen", "Kap Arkona", "Lindesnes"], "knots" => [31.0, 5.5, 40.0]];
    let winds = winds.map_err(error::ErrorInternalServerError)?.lazy();
    let query = winds.filter(col("knots").gt_eq(lit(*least))).with_column(beaufort::on([col("knots")]).alias("wind"));
    // A client that goes away drops this future, and with it the query.
    let run = session.submit(query).map_err(error::ErrorInternalServerError)?;
    let answer = run.await.map_err(error::ErrorInternalServerError)?;
    Ok(answer.to_string())
}

fn get(address: std::net::SocketAddr, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

#[regatta::main]
fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // DAFT_RUNNER says where: native, or flotilla for worker processes.
    let session = web::Data::new(Session::from_env()?);
    rt::System::new().block_on(async move {
        let app = move || App::new().app_data(session.clone()).route("/winds/{least}", web::get().to(winds));
        let server = HttpServer::new(app).workers(1).disable_signals().bind(("127.0.0.1", 0))?;
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        let serving = rt::spawn(server);
        let answer = web::block(move || get(address, "/winds/10")).await??;
        println!("{answer}");
        handle.stop(true).await;
        Ok(serving.await??)
    })
}
