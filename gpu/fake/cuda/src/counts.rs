//! What the driver counts. Its tests read the same struct, from this file.

/// What has happened, and what is there.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes copied to devices, from them, and within them.
    pub to_device: u64,
    pub from_device: u64,
    pub within_device: u64,
    /// Copies in either direction between host and device.
    pub copies: u64,
    pub launches: u64,
    /// Calls that order: events recorded and waited for, streams waited for.
    pub orders: u64,
    /// Accesses outside of an allocation, before it or after it, writes into the guard behind one or to what was registered to be
    /// read, and memory freed twice, or freed or unregistered while it is copied.
    pub faults: u64,
    pub trims: u64,
    /// What lives: bytes on devices, bytes allocated pinned, bytes registered, streams, events, pools, modules.
    pub device_bytes: u64,
    pub pinned_bytes: u64,
    pub registered_bytes: u64,
    pub streams: u64,
    pub events: u64,
    pub pools: u64,
    pub modules: u64,
    /// The most bytes on devices at once.
    pub peak_device_bytes: u64,
}
