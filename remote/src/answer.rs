//! How a handler's result goes back to who has sent the message from another node.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::Fault;
use crate::fence;
use crate::frame::Kind;
use crate::link::{Link, Ready, Serving};
use crate::local::{Producing, Reply};
use crate::parcel::Parcel;
use crate::presence::Presence;
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
    /// The answer, if it is there and a value, and the message's place.
    fn at_once(reply: &mut Reply<Self>) -> Option<(Result<Parcel, Fault>, OwnedSemaphorePermit)>;

    fn answer(reply: Reply<Self>) -> BoxFuture<'static, Answer>;
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Respond for T {
    fn at_once(reply: &mut Reply<Self>) -> Option<(Result<Parcel, Fault>, OwnedSemaphorePermit)> {
        reply.at_once().map(|(reply, place)| (written(reply), place))
    }

    fn answer(reply: Reply<Self>) -> BoxFuture<'static, Answer> {
        Box::pin(async move { written(reply.wait().await?).map(Answered::Value) })
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Respond for Items<T> {
    fn at_once(_: &mut Reply<Self>) -> Option<(Result<Parcel, Fault>, OwnedSemaphorePermit)> {
        None
    }

    fn answer(reply: Reply<Self>) -> BoxFuture<'static, Answer> {
        Box::pin(async move { Ok(Answered::Items(Box::new(Producing::new(reply)))) })
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

/// A call of a peer that is served.
pub(crate) struct Call {
    serving: Serving,
    /// How long its asker waits; for a stream, for each item.
    patience: Duration,
}

impl Call {
    pub(crate) fn new(serving: Serving, patience: Duration) -> Self {
        Self { serving, patience }
    }

    pub(crate) fn asker(&self) -> Presence {
        self.serving.asker()
    }

    /// Sends the reply to the peer. Most are there when their handler returns: then they are queued here and now, and nobody
    /// is woken for them but who writes. Others are awaited beside all of the link.
    pub(crate) fn answer<R: Respond>(self, mut reply: Reply<R>) {
        let link = Arc::clone(self.serving.link());
        // What panics while a panic is under way would end the process.
        let answer = if thread::panicking() { None } else { R::at_once(&mut reply) };
        match answer {
            Some((Ok(parcel), _)) if parcel.beside.is_empty() => {
                let ready = link.ready_now(self.serving.call(), parcel.bytes);
                self.send(ready);
            }
            Some((Err(fault), _)) => self.send(Err(fault)),
            Some((Ok(parcel), place)) => self.later(
                &link,
                Box::pin(async {
                    drop(place);
                    Ok(Answered::Value(parcel))
                }),
            ),
            None => self.later(&link, R::answer(reply)),
        }
    }

    /// Waits for the answer beside all others of the link, and sends it. It has the message's place at its actor, which bounds
    /// how many wait to be waited for.
    fn later(self, link: &Link, answer: BoxFuture<'static, Answer>) {
        let _ = link.answering.send(Box::pin(self.wait(answer))); // fails only at the end of the runtime
    }

    async fn wait(self, answer: BoxFuture<'static, Answer>) {
        let asker = self.asker();
        let ready = async {
            let link = self.serving.link();
            match answer.await? {
                Answered::Value(reply) => link.ready(self.serving.call(), reply).await,
                Answered::Items(items) => {
                    self.serving.has_begun();
                    produce(link, self.serving.call(), items, self.patience).await?;
                    Ok(Ready::new(Kind::End, self.serving.call(), Bytes::new()))
                }
            }
        };
        let ready = tokio::select! {
            biased;
            ready = ready => ready,
            () = asker.gone() => return,
        };
        self.send(ready);
    }

    fn send(self, ready: Result<Ready, Fault>) {
        let ready = ready.unwrap_or_else(|fault| self.serving.link().failed(self.serving.call(), &fault));
        self.serving.answer(ready);
    }
}

/// Sends the items of a stream. The consumer's patience is for items here, and for its credit there.
async fn produce(
    link: &Arc<Link>,
    call: u64,
    mut items: Box<dyn EncodedItems>,
    patience: Duration,
) -> Result<(), Fault> {
    let outgoing = link.produce(call);
    while let Some(item) = items.next().await? {
        outgoing.send(item, patience).await?;
    }
    Ok(())
}
