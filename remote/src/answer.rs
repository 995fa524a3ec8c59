//! How a handler's result goes back to who has sent the message from another node.

use std::future::ready;

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::Fault;
use crate::fence;
use crate::local::{Producing, Reply};
use crate::parcel::Parcel;
use crate::stream::Items;

/// What goes back to the peer.
pub(crate) type Answer = Result<Answered, Fault>;

pub(crate) enum Answered {
    Value(Parcel),
    Items(Box<dyn EncodedItems>),
}

/// A stream of this process, item by item as bytes.
pub(crate) trait EncodedItems: Send {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Parcel>, Fault>>;
}

impl<T: Serialize + DeserializeOwned + Send + 'static> EncodedItems for Producing<T> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Parcel>, Fault>> {
        Box::pin(async move { Self::next(self).await?.map(written).transpose() })
    }
}

/// How a handler's result goes back to the peer.
pub(crate) trait Respond: Sized + Send + 'static {
    fn answer(reply: Reply<Self>) -> BoxFuture<'static, Answer>;
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Respond for T {
    fn answer(reply: Reply<Self>) -> BoxFuture<'static, Answer> {
        Box::pin(async move { written(reply.wait().await?).map(Answered::Value) })
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Respond for Items<T> {
    fn answer(reply: Reply<Self>) -> BoxFuture<'static, Answer> {
        Box::pin(ready(Ok(Answered::Items(Box::new(Producing::new(reply))))))
    }
}

/// Encodes a reply; one that panics there, or when it is dropped, costs no more than itself.
fn written<T: Serialize + DeserializeOwned>(value: T) -> Result<Parcel, Fault> {
    match fence::catch(move || Parcel::pack(&value)) {
        Ok(Ok(parcel)) => Ok(parcel),
        Ok(Err(error)) => Err(Fault::BadReply { text: error.to_string() }),
        Err(text) => Err(Fault::BadReply { text }),
    }
}
