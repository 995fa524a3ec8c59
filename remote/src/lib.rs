//! Typed actor messages and bulk bytes between processes, over QUIC.
//!
//! A [`Node`] is one process's endpoint. Nodes of one cluster know each other by certificates of one
//! [`Authority`]; there is no way to turn the check off. A node gets its certificate from the
//! authority's process or [joins](Identity::join) with a [`JoinToken`]; it is renewed before it expires. Actors are actix actors on threads of a
//! [`Runtime`], reached through [`ActorRef`], which is the same for a local and a remote actor.
//!
//! What holds:
//!
//! - **Delivery** is at most once. Errors say whether the message may have run
//!   ([`AskError::may_have_run`]).
//! - **Order**: messages of one sender to one actor arrive in the order in which they were sent.
//! - **Bounds**: a permit stands for each message at an actor; no permit means waiting, then `Busy`.
//! - **Cancel**: dropping an `ask` skips a message that has not started; one that has started can
//!   see it through [`Asker`].
//! - **Streams** of replies ([`ActorRef::stream`]) come in order, under credits, and stop when nobody takes them.
//! - **Batches** of Arrow (`Batch`, feature `arrow`) are fields of messages; large ones go by the data connection.
//! - **Traces**: a caller's [`TraceContext`] travels with its messages.
//! - **Bulk** moves on a connection of its own, under byte credits ([`Node::fetch`]).

#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod actor;
mod ambient;
#[cfg(feature = "arrow")]
mod batch;
mod close;
mod codec;
mod data;
mod door;
mod endpoint;
mod error;
mod fence;
mod frame;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod identity;
mod join;
mod lane;
mod link;
mod local;
mod membership;
mod message;
mod names;
mod node;
#[cfg(test)]
#[path = "../tests/common/panics.rs"]
mod panics;
mod parcel;
mod peers;
mod rates;
mod redial;
mod renew;
mod room;
mod route;
mod runtime;
mod serve;
#[cfg(feature = "sim")]
pub mod sim;
mod stream;
mod supervise;
mod text;
mod trace;
mod travel;

pub use actor::{ActorId, ActorRef, Address};
#[cfg(feature = "arrow")]
pub use batch::Batch;
pub use codec::{Bound, CodecError, MAX_DEPTH, MAX_MESSAGE, decode, encode};
pub use data::{DataReader, DataSource, Fetch};
pub use error::{AskError, BindError, ConnectError, FetchError, SpawnError, TellError};
pub use fence::{catch, panic_text};
pub use identity::{Authority, ClusterId, Identity, IdentityError, NodeId, PeerId, Role};
pub use join::{JoinError, JoinToken, JoinTokenError};
pub use local::{Asker, Down, LocalRef, Sender};
pub use message::{RemoteMessage, Response, StreamMessage, WireMessage};
pub use names::{NameError, Names};
pub use node::{InHand, Node};
pub use parcel::MAX_BATCHES;
pub use peers::{PeerEvent, PeerEvents};
/// Declares a message: `#[derive(RemoteMessage)]` with `#[message(id = 0x0105, reply = Duration)]`.
pub use regatta_macros::RemoteMessage;
pub use route::Publication;
pub use runtime::{Arbiter, Runtime};
pub use stream::{ConsumerGone, ItemSender, Items, Replies};
pub use supervise::Restarts;
pub use text::{MAX_TEXT, shorten};
pub use trace::TraceContext;
pub use travel::detached_in;

#[doc(hidden)]
pub use actix;
#[doc(hidden)]
pub use message::assert_distinct;
