//! Panics as text: what was said, and where.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::text::shorten;

/// Runs `f`; a panic in it becomes its text, with file and line where they are known.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    install();
    take_text(); // an older panic of this thread is not this one
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| take_text().unwrap_or_else(|| panic_text(payload.as_ref())))
}

/// The text in a panic's payload, as long as it may travel.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        shorten(*text)
    } else if let Some(text) = payload.downcast_ref::<String>() {
        shorten(text.as_str())
    } else {
        "panicked with a value that is not text".to_owned()
    }
}

/// Installs, once per process, a panic hook that keeps each thread's last text and then calls the hook
/// that was there.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let said = panic_text(info.payload());
            let text = match info.location() {
                Some(at) => format!("{said} ({}:{}:{})", at.file(), at.line(), at.column()),
                None => said,
            };
            // Fails only while the thread ends; then nobody is left to read it.
            let _ = LAST.try_with(|last| last.borrow_mut().replace(text));
            previous(info);
        }));
    });
}

/// Takes the text of this thread's last panic.
pub(crate) fn take_text() -> Option<String> {
    LAST.try_with(|last| last.borrow_mut().take()).ok().flatten()
}

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_text_and_place() {
        let text = catch(|| -> () { panic!("boat {}", 7) }).unwrap_err();
        assert!(text.starts_with("boat 7 ("), "{text}");
        assert!(text.contains("fence.rs:"), "{text}");
        assert_eq!(catch(|| 3), Ok(3));
    }

    #[test]
    fn a_panic_that_says_too_much_keeps_its_place() {
        let text = catch(|| -> () { panic!("boat {}", "x".repeat(crate::MAX_TEXT)) }).unwrap_err();
        assert!(text.len() <= crate::MAX_TEXT && text.starts_with("boat x") && text.contains("fence.rs:"), "{text}");
    }

    #[test]
    fn a_payload_that_is_not_text_is_named_so() {
        assert!(panic_text(&7u32).contains("not text"));
    }
}
