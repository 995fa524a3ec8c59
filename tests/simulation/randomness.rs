//! What is random in a process that runs one seed follows the seed, too, also where nobody asks us: tokio wakes those who wait for a
//! `watch` in an order that it draws, a hash map has another order in each process, and QUIC draws the ids of its connections.

use std::cell::Cell;
use std::sync::OnceLock;

static SEED: OnceLock<u64> = OnceLock::new();

thread_local! {
    /// Pieces of eight bytes. Of each thread, for not all of them run in turns.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// From now on all that is random in this process follows a seed.
pub(super) fn follows(seed: u64) {
    assert!(SEED.set(seed).is_ok(), "a process runs one seed");
}

/// Takes the place of the C library's, as the standard library lets it, in the binary of the crate's unit tests.
///
/// # Safety
/// There is room for so many bytes.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(to: *mut libc::c_void, bytes: usize, flags: libc::c_uint) -> isize {
    let Some(seed) = SEED.get() else {
        // SAFETY: it is what was asked of us.
        return unsafe { libc::syscall(libc::SYS_getrandom, to, bytes, flags) as isize };
    };
    for from in (0..bytes).step_by(8) {
        let drawn = DRAWN.get() + 1;
        DRAWN.set(drawn);
        let piece = super::rng::mixed(seed.wrapping_add(drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_ne_bytes();
        // SAFETY: so many bytes are there from here on.
        unsafe { to.cast::<u8>().add(from).copy_from_nonoverlapping(piece.as_ptr(), piece.len().min(bytes - from)) };
    }
    bytes as isize
}
