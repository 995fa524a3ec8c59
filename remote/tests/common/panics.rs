//! Ends a test binary when a task panics that no test wants to.
//!
//! Tokio gives the panic of a task to whoever awaits it: that of a detached one to nobody, and the test goes on and is
//! green. So every test binary [watches](watch), and what is to panic in a task does so by [`wanted`].

use std::cell::Cell;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// From now on a panic in a task ends this process, unless it is [`wanted`].
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let Some(task) = tokio::task::try_id() else {
                // The test's own thread, or one that somebody joins. What panics in tasks after it may be because of it.
                return list(&OUTSIDE).push(info.to_string());
            };
            if WANTED.take() || list(&OTHERS).iter().any(|text| info.to_string().contains(text)) {
                return;
            }
            // The process takes what the test harness has caught with it.
            let (outside, mut stderr) = (list(&OUTSIDE).join("\n"), std::io::stderr());
            let _ = writeln!(stderr, "\n{outside}\nno test wants a panic in a task, here in {task}: {info}");
            std::process::abort();
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
    list(&OTHERS).push(text);
}

static OTHERS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
static OUTSIDE: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn list<T>(of: &'static Mutex<Vec<T>>) -> MutexGuard<'static, Vec<T>> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
}
