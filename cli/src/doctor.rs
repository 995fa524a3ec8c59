//! Whether a cluster can be looked at from here, and is well.

use std::time::{Duration, Instant, SystemTime};

use regatta_observe::text::{plural, time};
use regatta_observe::{ClusterView, line};
use regatta_remote::JoinToken;
use serde_json::{Value, json};

use crate::Failure;
use crate::asking::{cluster, workers};
use crate::client::Client;
use crate::out::Out;

/// A token that ends sooner is said to.
const SOON: Duration = Duration::from_secs(300);
/// An answer that takes longer is slow.
const SLOW: Duration = Duration::from_millis(500);

/// What was looked at, and what was found.
struct Checks<'a, 'b> {
    out: &'a mut Out<'b>,
    wrong: u32,
    told: Vec<Value>,
}

impl Checks<'_, '_> {
    fn is(&mut self, ok: bool, what: &str, says: &str) -> Result<(), Failure> {
        self.wrong += u32::from(!ok);
        self.told.push(json!({ "ok": ok, "what": what, "says": says }));
        if self.out.json {
            return Ok(());
        }
        self.out.text(&format!("{} {what:<8} {}\n", if ok { "ok " } else { "!! " }, line(says)))
    }
}

/// Looks at one thing after the other, as far as each allows to.
///
/// # Errors
/// Something is wrong: what, is among the lines.
pub(crate) fn run(address: &str, token: &str, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut checks = Checks { out, wrong: 0, told: Vec::new() };
    let ended = look(address, token, &mut checks);
    let Checks { out, wrong, told } = checks;
    if out.json {
        out.json(&told.into())?;
    }
    ended?;
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 thing is wrong".to_owned())),
        wrong => Err(Failure::Failed(format!("{wrong} things are wrong"))),
    }
}

fn look(address: &str, token: &str, checks: &mut Checks<'_, '_>) -> Result<(), Failure> {
    if let Ok(token) = token.parse::<JoinToken>() {
        let left = token.expires().duration_since(SystemTime::now()).unwrap_or_default();
        let says = match left {
            Duration::ZERO => {
                format!("{}'s, and has expired: whoever operates the cluster makes another", token.role())
            }
            left => format!("{}'s, good for {}", token.role(), time(nanoseconds(left))),
        };
        checks.is(left > SOON, "token", &says)?;
    }
    let began = Instant::now();
    let client = match Client::connect(address, token) {
        Ok(client) => client,
        Err(failure) => {
            // The whole text ends the command, and is said once. A program reads it here.
            let says = match &failure {
                failure if checks.out.json => failure.to_string(),
                Failure::Unreachable(_) => "cannot be reached".to_owned(),
                _ => "does not let this in".to_owned(),
            };
            checks.is(false, "head", &says)?;
            return Err(failure);
        }
    };
    checks.is(true, "head", &format!("{address} lets this in, in {}", time(nanoseconds(began.elapsed()))))?;
    let began = Instant::now();
    let view = cluster(&client, 0, 0, 0)?;
    let took = began.elapsed();
    let says = format!(
        "answers in {}; it is {}, and this regatta {}",
        time(nanoseconds(took)),
        view.build,
        env!("CARGO_PKG_VERSION")
    );
    checks.is(took < SLOW, "answers", &says)?;
    cluster_is_well(&client, &view, checks)
}

fn cluster_is_well(client: &Client, view: &ClusterView, checks: &mut Checks<'_, '_>) -> Result<(), Failure> {
    if view.fleet.workers == 0 {
        checks.is(
            false,
            "workers",
            "none has joined: start this program with REGATTA_JOIN and a worker's token, on any machine",
        )?;
    } else {
        checks.is(true, "workers", &view.fleet.to_string())?;
    }
    if let Some((count, why)) = &view.not_joined {
        let says = format!("{} ended before joining; the last: {why}", plural((*count).into(), "worker"));
        checks.is(false, "workers", &says)?;
    }
    if let Some((wanted, since)) = view.wanted {
        checks.is(false, "workers", &format!("{} wanted, for {}", plural(wanted.into(), "worker"), time(since)))?;
    }
    for worker in workers(client)? {
        if let Some(silent) = worker.silent {
            let says = format!(
                "worker {} has been silent for {}: its machine or the way there is in trouble, or its process is stopped; it is lost \
                 if that goes on",
                worker.worker,
                time(silent)
            );
            checks.is(false, "workers", &says)?;
        }
        if worker.memory.0 > 0 && worker.peak > worker.memory.0 / 10 * 9 {
            let says = format!(
                "worker {} came to more than 90 % of its memory: more memory, or more partitions",
                worker.worker
            );
            checks.is(false, "memory", &says)?;
        }
    }
    if view.dropped != regatta_observe::Dropped::default() {
        checks.is(
            true,
            "figures",
            "some were left out to stay within REGATTA_OBSERVE_MEMORY: `regatta query` says what of each query",
        )?;
    }
    Ok(())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
