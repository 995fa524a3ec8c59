//! Trace context, in the terms of W3C: which trace the current work belongs to, and which span of it asked for it.

use std::fmt;
use std::future::Future;
use std::num::{NonZeroU64, NonZeroU128};

use tracing::{Instrument, Span};

use crate::ambient::Ambient;
use crate::ids::NodeId;

/// The trace that work belongs to, and the span that is its nearest cause. It travels with every message that is sent
/// within it, to any node.
///
/// A handler runs in a context of its own if its message came with one, and inside a `tracing` span
/// (target `regatta_remote::message`, level `debug`) with the fields `name`, `trace`, `span`, `parent` and `peer`. Where a
/// message is sent outside any context, it begins a trace if that span is enabled, and else has none.
///
/// What a handler leaves to a future is outside of its context unless it [carries](Self::carry) it along:
///
/// ```
/// # use regatta_remote::TraceContext;
/// # async fn work() {}
/// // in a handler:
/// let reply = Box::pin(TraceContext::carry(async move { work().await }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace: NonZeroU128,
    span: NonZeroU64,
}

impl TraceContext {
    /// A context from elsewhere, as from a `traceparent` header. `None` if a number is 0, which W3C forbids.
    pub fn new(trace_id: u128, span_id: u64) -> Option<Self> {
        Some(Self { trace: NonZeroU128::new(trace_id)?, span: NonZeroU64::new(span_id)? })
    }

    /// The context of the handler, or of the [scope](Self::scope), that runs on this thread.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|current| current.context).ok()
    }

    /// The trace's number.
    pub fn trace_id(self) -> u128 {
        self.trace.get()
    }

    /// The number of the span that caused what runs in this context.
    pub fn span_id(self) -> u64 {
        self.span.get()
    }

    /// Runs a future in this context.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(Current { context: self, peer: None }, future)
    }

    /// Lets a future go on in the context and the `tracing` span in which this is called.
    pub fn carry<F: Future>(future: F) -> impl Future<Output = F::Output> {
        let context = Self::current();
        let future = future.instrument(Span::current());
        async move {
            match context {
                Some(context) => context.scope(future).await,
                None => future.await,
            }
        }
    }

    /// Runs what hands over a message that a peer has sent, in this context.
    pub(crate) fn in_scope_of<T>(context: Option<Self>, peer: NodeId, f: impl FnOnce() -> T) -> T {
        match context {
            Some(context) => CURRENT.sync_scope(Current { context, peer: Some(peer) }, f),
            None => f(),
        }
    }

    /// The context of a message that is sent now.
    pub(crate) fn of_message(ambient: &Ambient) -> Option<Self> {
        Some(sent(ambient)?.context)
    }

    /// Its bytes on the wire.
    pub(crate) fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let (trace, span) = bytes.split_at_mut(16);
        trace.copy_from_slice(&self.trace_id().to_be_bytes());
        span.copy_from_slice(&self.span_id().to_be_bytes());
        bytes
    }

    /// The context that the bytes stand for, if they do.
    pub(crate) fn from_bytes(bytes: &[u8; BYTES]) -> Option<Self> {
        let [trace @ .., s0, s1, s2, s3, s4, s5, s6, s7] = *bytes;
        Self::new(u128::from_be_bytes(trace), u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]))
    }
}

/// As a W3C `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// Length of a context on the wire.
pub(crate) const BYTES: usize = 24;

/// The trace of a message on its way to a handler of this process.
pub(crate) struct Handling(Option<(Current, NonZeroU64)>);

impl Handling {
    /// Of a message that is sent, or has come from a peer, in what runs now.
    pub(crate) fn new(ambient: &Ambient) -> Self {
        Self(sent(ambient).and_then(|sent| Some((sent, number(ambient)?))))
    }

    /// Runs the handler of a message of this type.
    pub(crate) fn run<M, T>(self, handler: impl FnOnce() -> T) -> T {
        let Some((Current { context, peer }, own)) = self.0 else {
            return handler();
        };
        let TraceContext { trace, span: parent } = context;
        let span = tracing::debug_span!(
            target: "regatta_remote::message",
            "message",
            name = std::any::type_name::<M>(),
            trace = format_args!("{trace:032x}"),
            span = format_args!("{own:016x}"),
            parent = format_args!("{parent:016x}"),
            peer = peer.map(tracing::field::display),
        );
        let current = Current { context: TraceContext { trace, span: own }, peer: None };
        CURRENT.sync_scope(current, || span.in_scope(handler))
    }
}

#[derive(Clone, Copy)]
struct Current {
    context: TraceContext,
    /// Who has sent the message with this context.
    peer: Option<NodeId>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// What a message that is sent now goes with; a new trace only if somebody looks.
fn sent(ambient: &Ambient) -> Option<Current> {
    if let Ok(current) = CURRENT.try_with(|current| *current) {
        return Some(current);
    }
    if !tracing::enabled!(target: "regatta_remote::message", tracing::Level::DEBUG) {
        return None;
    }
    let trace = NonZeroU128::new(u128::from_be_bytes(ambient.random().ok()?))?;
    Some(Current { context: TraceContext { trace, span: number(ambient)? }, peer: None })
}

fn number(ambient: &Ambient) -> Option<NonZeroU64> {
    NonZeroU64::new(u64::from_be_bytes(ambient.random().ok()?))
}
