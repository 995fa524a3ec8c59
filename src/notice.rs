//! What people should know while it happens: a line each.

use regatta_observe::line;

use crate::progress::say_above;

/// Tells it to the program's `tracing` subscriber, as a warning; where it has none, to standard error, unless `REGATTA_QUIET` is set.
pub(crate) fn notice(what: impl std::fmt::Display) {
    // There are names and reasons of others in it.
    let what = line(&what.to_string());
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{what}");
    } else if !is_quiet() && !say_above(&format!("regatta: {what}")) {
        eprintln!("regatta: {what}");
    }
}

/// Whether `REGATTA_QUIET` keeps us from standard error.
fn is_quiet() -> bool {
    std::env::var_os("REGATTA_QUIET")
        .is_some_and(|value| !["", "0", "false"].contains(&&*value.to_string_lossy().to_ascii_lowercase()))
}
