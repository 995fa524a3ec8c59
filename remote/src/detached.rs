//! References that were read where nobody receives them.

use std::cell::Cell;

/// Runs `decode`, and says whether it read references that reach nobody, because it ran outside of
/// [`Node::decoding`](crate::Node::decoding): for who makes a node only if one is needed.
pub fn detached_in<T>(decode: impl FnOnce() -> T) -> (T, bool) {
    DETACHED.set(false);
    let decoded = decode();
    (decoded, DETACHED.get())
}

/// A reference was read that reaches nobody.
pub(crate) fn note() {
    DETACHED.set(true);
}

/// Runs what decodes for nobody: whoever asks [`detached_in`] hears nothing of it.
pub(crate) fn unnoticed<T>(decode: impl FnOnce() -> T) -> T {
    let before = DETACHED.get();
    let decoded = decode();
    DETACHED.set(before);
    decoded
}

thread_local! {
    static DETACHED: Cell<bool> = const { Cell::new(false) };
}
