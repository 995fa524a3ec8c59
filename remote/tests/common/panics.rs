//! Ends a test binary when a task panics that no test wants to.
//!
//! Tokio gives the panic of a task to whoever awaits it: that of a detached one to nobody, and the test goes on and is
//! green. So every test binary [watches](watch), and what is to panic in a task does so by [`wanted`].

use std::cell::Cell;
use std::io::Write;
use std::sync::{Mutex, Once, PoisonError};

/// From now on a panic in a task ends this process, unless it is [`wanted`].
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            // Outside of tasks it is the test's own thread, or one that somebody joins.
            if let Some(task) = tokio::task::try_id()
                && !WANTED.take()
                && !OTHERS
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                    .any(|text| info.to_string().contains(text))
            {
                // What the test harness has caught would be lost with the process.
                let _ = writeln!(std::io::stderr(), "\nno test wants a panic in a task, here in {task}: {info}");
                std::process::abort();
            }
        }));
    });
}

/// Panics, as the test wants it.
#[allow(dead_code, reason = "not every binary has such a test")]
#[track_caller]
pub(crate) fn wanted(text: &str) -> ! {
    WANTED.set(true);
    panic!("{text}")
}

/// Panics whose text, with their place, has this are wanted: of code that is not ours.
#[allow(dead_code, reason = "not every binary has such a test")]
pub(crate) fn wanted_of_others(text: &'static str) {
    OTHERS.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

static OTHERS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
}
