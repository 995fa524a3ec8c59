//! How large things may be.

/// The largest encoded message, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;
/// Most bytes of batches beside one message, and beside all that are under way to or from a peer.
pub const MAX_BATCHES: usize = 256 << 20;
