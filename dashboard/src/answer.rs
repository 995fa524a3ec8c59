//! What each request is answered.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use regatta_observe::{Answer, Ask, LogFilter, LogLevel, Order, Refusal};
use serde_json::{Value, json};

use crate::Source;
use crate::access::{Access, Denied};
use crate::asking::unexpected;
use crate::files::file;
use crate::http::{Request, Response};
use crate::profiles::Profiles;
use crate::seats::{CONNECTIONS, Seat, Seats};
use crate::summary::{Wanted, tasks, timeline};
use crate::views::{Look, Views};

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) access: Access,
    pub(crate) may_act: bool,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) views: Views,
    pub(crate) profiles: Arc<Profiles>,
    pub(crate) seats: Seats,
}

/// Queries, workers and lines that are shown at once, and attempts of tasks.
const QUERIES: u32 = 256;
const WORKERS: u32 = 1000;
const LINES: u32 = 1000;
const PAGE: usize = 100;

/// Answers a request; of who has shown the token that is noted.
pub(crate) async fn answer(shared: &Shared, request: &Request, seat: &Seat) -> Response {
    let host = request.host.as_deref();
    let ours = shared.access.check_host(host).and_then(|()| Access::check_origin(host, request.origin.as_deref()));
    if let Err(denied) = ours {
        return denial(denied);
    }
    if request.method == "GET" {
        // Nothing of these is anybody's secret.
        if request.path == "/healthz" {
            return Response::text(200, "ok\n");
        }
        if let Some(file) = file(&request.path) {
            return file;
        }
    }
    if let Err(denied) = shared.access.check_token(request.bearer.as_deref(), Instant::now()) {
        return denial(denied);
    }
    seat.is_known();
    let path: Vec<_> = request.path.trim_start_matches('/').split('/').collect();
    let told = match (request.method.as_str(), &path[..]) {
        ("GET", ["api", "v1", rest @ ..]) => look(shared, request, rest).await,
        ("GET", ["metrics"]) => metrics(shared).await,
        ("POST", ["api", "v1", "queries", query, "cancel"]) if shared.may_act => cancel(shared, query).await,
        ("POST", ["api", "v1", "queries", _, "cancel"]) => Err(Failed::not_allowed()),
        ("GET" | "POST", _) => Err(Failed::nothing_there()),
        _ => Err(Failed { status: 405, why: "this can be asked by GET, and orders be given by POST".to_owned() }),
    };
    told.unwrap_or_else(|Failed { status, why }| Response::json(status, json!({ "error": why }).to_string()))
}

/// Why there is no answer.
struct Failed {
    status: u16,
    why: String,
}

impl Failed {
    fn nothing_there() -> Self {
        Self { status: 404, why: "there is no such page".to_owned() }
    }

    fn not_allowed() -> Self {
        let why = "whoever looks here may not do this: the dashboard was not started with control, or with a token that may only look";
        Self { status: 403, why: why.to_owned() }
    }

    fn bad(name: &str, value: &str) -> Self {
        Self { status: 400, why: format!("{name} cannot be {value:?}") }
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::NoSuch(_) => 404,
            Refusal::TooMuch(_) => 503,
            Refusal::Version { .. } | Refusal::Failed(_) => 502,
        };
        Self { status, why: refusal.to_string() }
    }
}

fn denial(denied: Denied) -> Response {
    let (status, why) = match denied {
        Denied::Host => {
            (421, "this server has no such name: ask by localhost, by its address, or by a name that it was told of\n")
        }
        Denied::Origin => (403, "only pages of this server may ask\n"),
        Denied::Token => {
            (401, "the token is missing or wrong: it is in the address that was printed when this server started\n")
        }
        Denied::TooMany => (429, "there were too many wrong tokens: try again in a minute\n"),
    };
    Response::text(status, why)
}

async fn look(shared: &Shared, request: &Request, path: &[&str]) -> Result<Response, Failed> {
    let knows: Option<u64> = number(request, "after")?;
    match path {
        ["cluster"] => {
            let queries = number(request, "queries")?.unwrap_or(QUERIES).min(QUERIES);
            let from = number(request, "from")?.unwrap_or(0);
            let workers = number(request, "workers")?.unwrap_or(WORKERS).min(WORKERS);
            seen(shared, Look::Cluster { queries, from, workers }, knows).await
        }
        ["queries", query] => seen(shared, Look::Query(digits(query)?), knows).await,
        ["queries", query, "profile"] => seen(shared, Look::Summary(digits(query)?), knows).await,
        ["queries", query, "timeline"] => {
            let from = number(request, "from")?.unwrap_or(0);
            let profile = shared.profiles.profile(&digits(query)?).await?;
            Ok(whole(&timeline(&profile, from)))
        }
        ["queries", query, "tasks"] => {
            let wanted = Wanted {
                stage: number(request, "stage")?,
                worker: number(request, "worker")?,
                outcome: given(request, "outcome").map(str::to_owned),
                sort: given(request, "sort").unwrap_or("ran").to_owned(),
                skip: number(request, "skip")?.unwrap_or(0),
                limit: number(request, "limit")?.unwrap_or(PAGE),
            };
            let profile = shared.profiles.profile(&digits(query)?).await?;
            Ok(whole(&tasks(&profile, &wanted)))
        }
        ["queries", query, "text"] => {
            let profile = shared.profiles.profile(&digits(query)?).await?;
            let text = match given(request, "of").unwrap_or("profile") {
                "profile" => profile.to_string(),
                "full" => format!("{profile:#}"),
                "explain" => profile.plan.to_string(),
                "json" => return Ok(Response::json(200, profile.to_json())),
                other => return Err(Failed::bad("of", other)),
            };
            Ok(Response::text(200, text))
        }
        ["findings"] => seen(shared, Look::Findings, knows).await,
        ["logs"] => Ok(whole(&logs(shared, request).await?)),
        ["about"] => Ok(whole(&json!({
            "name": shared.source.name(),
            "version": env!("CARGO_PKG_VERSION"),
            "may_act": shared.may_act,
            "connections": [shared.seats.count(), CONNECTIONS],
            "views": shared.views.count(),
        }))),
        _ => Err(Failed::nothing_there()),
    }
}

async fn metrics(shared: &Shared) -> Result<Response, Failed> {
    let text = shared.views.metrics().await?;
    Ok(Response { kind: "text/plain; version=0.0.4; charset=utf-8", ..Response::text(200, text) })
}

async fn seen(shared: &Shared, look: Look, knows: Option<u64>) -> Result<Response, Failed> {
    Ok(Response::json(200, shared.views.look(&look, knows).await?))
}

fn whole(value: &Value) -> Response {
    Response::json(200, value.to_string())
}

async fn logs(shared: &Shared, request: &Request) -> Result<Value, Failed> {
    let level = match given(request, "level") {
        None => None,
        Some("error") => Some(LogLevel::Error),
        Some("warn") => Some(LogLevel::Warn),
        Some("info") => Some(LogLevel::Info),
        Some(other) => return Err(Failed::bad("level", other)),
    };
    let filter = LogFilter {
        worker: number(request, "worker")?,
        query: given(request, "query").map(digits).transpose()?,
        task: number(request, "task")?,
        udf: given(request, "udf").map(str::to_owned),
        level,
    };
    // By worker, as 0:123,1:44.
    let after = given(request, "next").unwrap_or_default().split(',').filter(|one| !one.is_empty()).map(|one| {
        let two = one.split_once(':').and_then(|(worker, line)| Some((worker.parse().ok()?, line.parse().ok()?)));
        two.ok_or_else(|| Failed::bad("next", one))
    });
    let after = after.collect::<Result<Vec<(u32, u64)>, _>>()?;
    let lines = number(request, "lines")?.unwrap_or(LINES).min(LINES);
    match shared.source.look(Ask::Logs { after, filter, lines }).await? {
        Answer::Logs(view) => Ok(json!(view)),
        _ => Err(unexpected().into()),
    }
}

async fn cancel(shared: &Shared, query: &str) -> Result<Response, Failed> {
    match shared.source.act(Order::Cancel { query: digits(query)? }).await? {
        Answer::Cancelled(row) => Ok(whole(&json!(row))),
        _ => Err(unexpected().into()),
    }
}

/// A parameter that says something.
fn given<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.parameter(name).filter(|value| !value.is_empty())
}

fn number<T: FromStr>(request: &Request, name: &str) -> Result<Option<T>, Failed> {
    let parsed = given(request, name).map(|value| value.parse().map_err(|_| Failed::bad(name, value)));
    parsed.transpose()
}

/// The last digits of a query's number.
fn digits(text: &str) -> Result<String, Failed> {
    let is_number = (1..=16).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_number { Ok(text.to_ascii_lowercase()) } else { Err(Failed::bad("the number of a query", text)) }
}
