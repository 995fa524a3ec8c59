//! What people should know while it happens: a line each.

use crate::config::Config;
use crate::progress::say_above;

/// Tells it to the program's `tracing` subscriber, as a warning; where it has none, to standard error, unless `REGATTA_QUIET` is set.
pub(crate) fn notice(what: impl std::fmt::Display) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{what}");
    } else if !Config::is_quiet() && !say_above(&format!("regatta: {what}")) {
        eprintln!("regatta: {what}");
    }
}
