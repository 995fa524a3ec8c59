//! References to actors inside messages: what of them travels, and how the receiver finds the actor again.

use std::any::type_name;
use std::net::SocketAddr;

use actix::{Actor, Context};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::{ActorRef, Target};
use crate::detached;
use crate::ids::Address;
use crate::router::receiver;
use crate::text::shorten;

/// A reference on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Travelling {
    pub(crate) address: Address,
    /// Where to dial its node; `None` where the sender does not know.
    at: Option<SocketAddr>,
    /// The actor's type. One cluster is one build, so that names agree.
    actor: String,
}

/// # Errors
/// An actor of this process that is not published cannot be found by others.
impl<A: Actor<Context = Context<A>>> Serialize for ActorRef<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let actor = || type_name::<A>().to_owned();
        let travelling = match &self.0 {
            Target::Local(local) => {
                let unpublished = || {
                    let text = format!("{} is not published, so nobody could reach it: publish it first", actor());
                    <S::Error as ser::Error>::custom(text)
                };
                let (node, id) = local.home().ok_or_else(unpublished)?;
                Travelling { address: Address { node: node.id(), actor: id }, at: node.dialled_at(), actor: actor() }
            }
            Target::Remote { node, address, at } => {
                let at = at.or_else(|| Some(node.link(address.node)?.remote_address()));
                Travelling { address: *address, at, actor: actor() }
            }
            Target::Detached(travelling) => travelling.clone(),
        };
        travelling.serialize(serializer)
    }
}

/// Read as part of a message, the reference is of the node that received it. Read elsewhere, outside of
/// [`Node::decoding`](crate::Node::decoding), it reaches nobody, but can be sent on.
///
/// # Errors
/// The reference is to an actor of another type.
impl<'de, A: Actor<Context = Context<A>>> Deserialize<'de> for ActorRef<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let travelling = Travelling::deserialize(deserializer)?;
        if travelling.actor != type_name::<A>() {
            let text = format!("a reference to a {}, not to a {}", shorten(travelling.actor), type_name::<A>());
            return Err(<D::Error as de::Error>::custom(text));
        }
        Ok(match receiver() {
            Some(node) => Self::at(node, travelling.address, travelling.at),
            None => {
                detached::note();
                Self(Target::Detached(travelling))
            }
        })
    }
}
