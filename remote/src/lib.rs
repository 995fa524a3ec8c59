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

// What is said: values, their bytes, and what can go wrong. Imports point up this list, never down: `tests/floors.rs`.
mod ambient;
mod close;
mod codec;
mod detached;
mod error;
mod fence;
mod frame;
mod frames;
mod hello;
mod ids;
mod limits;
mod parcel;
mod program;
mod text;
mod trace;

// What is decided by that alone.
mod account;
mod complaints;
mod dials;
mod door;
mod given_up;
mod kept;
mod membership;
mod patience;
mod pieces;
mod presence;
mod queue;
mod rates;
mod room;
mod supervise;

// Who is who.
mod authority;
mod claim;
mod desk;
mod identity;
mod token;

// The runtime, and links over any wire. So far, nothing knows of QUIC or of actors.
mod alarm;
mod link;
mod lockstep;
mod net;

// Actors of this process, and the threads that they run on.
mod answer;
#[cfg(feature = "arrow")]
mod batch;
mod local;
mod message;
#[cfg(feature = "sim")]
mod network;
mod runtime;
mod stream;

// Connections, and what they carry.
mod data;
mod endpoint;
mod lane;
mod peers;
mod tls;
mod transfers;

// Actors wherever they are.
mod actor;
mod replies;
mod route;
mod router;

// What peers send.
mod serve;
mod shared;

// How peers are met.
mod handshake;
mod join;
mod redial;
mod renew;

// A node, and what is made of it.
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod names;
mod node;
#[cfg(feature = "sim")]
pub mod sim;

#[cfg(doctest)]
mod readme {
    #![doc = include_str!("../README.md")]
}

#[cfg(test)]
#[path = "../tests/common/panics.rs"]
mod panics;

pub use actor::ActorRef;
pub use authority::Authority;
#[cfg(feature = "arrow")]
pub use batch::Batch;
pub use codec::{Bound, CodecError, MAX_DEPTH, decode, encode};
pub use data::{DataReader, DataSource, Fetch};
pub use detached::detached_in;
pub use error::{AskError, BindError, ConnectError, Down, FetchError, IdentityError, SpawnError, TellError};
pub use fence::{catch, panic_text};
pub use identity::Identity;
pub use ids::{ActorId, Address, ClusterId, NodeId, PeerId, Role};
pub use join::JoinError;
pub use limits::{MAX_BATCHES, MAX_MESSAGE};
pub use link::InHand;
pub use local::{Asker, LocalRef, Sender};
#[doc(hidden)]
pub use lockstep::{is_simulated, spawn_thread, wait_simulated};
pub use message::{RemoteMessage, Response, StreamMessage, WireMessage};
pub use names::{NameError, Names};
pub use node::Node;
pub use peers::{PeerEvent, PeerEvents};
pub use program::fingerprint;
/// Declares a message: `#[derive(RemoteMessage)]` with `#[message(id = 0x0105, reply = Duration)]`.
pub use regatta_macros::RemoteMessage;
pub use replies::Replies;
pub use route::Publication;
pub use runtime::{Arbiter, Runtime};
pub use stream::{ConsumerGone, ItemSender, Items};
pub use supervise::Restarts;
pub use text::{MAX_TEXT, shorten};
pub use token::{JoinToken, JoinTokenError};
pub use trace::TraceContext;

/// What actors are written with: `use regatta_remote::actix::{Actor, Context, Handler};`.
pub use actix;
#[doc(hidden)]
pub use message::assert_distinct;
