//! What people should know while it happens: a line each.

use regatta_observe::line;

use crate::config::Config;
use crate::progress::say_above;

/// Tells it to the program's `tracing` subscriber, as a warning; where it has none, to standard error, unless `REGATTA_QUIET` is set.
pub(crate) fn notice(what: impl std::fmt::Display) {
    // There are names and reasons of others in it.
    let what = line(&what.to_string());
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{what}");
    } else if !Config::is_quiet() && !say_above(&format!("regatta: {what}")) {
        eprintln!("regatta: {what}");
    }
}
