//! What a node does with the frames of a peer.

mod arrivals;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::actor::ActorId;
use crate::close::Code;
use crate::codec::{MAX_MESSAGE, decode, encode};
use crate::error::Fault;
use crate::frame::{FrameError, Header, Kind, MORE};
use crate::lane::{FrameReader, LaneError};
use crate::link::{Arrived, LANES, Link, Serving};
use crate::local::Down;
use crate::node::Shared;
use crate::parcel::{MAX_TRAILER, Opened};
use crate::renew;
use crate::route::{Answered, EncodedItems};
use crate::trace::{self, TraceContext};
use arrivals::Arrivals;

/// How long a lane waits for room at a busy actor before it says so.
const PATIENCE: Duration = Duration::from_millis(100);

/// Starts reading all lanes of a link, and removes the link when its connection ends.
pub(crate) fn run(shared: &Arc<Shared>, link: &Arc<Link>, [mut system, mut messages, beats]: [FrameReader; LANES]) {
    system.set_max((MAX_MESSAGE + MAX_TRAILER) as u32);
    messages.set_max((MAX_MESSAGE + MAX_TRAILER + trace::BYTES) as u32);
    let handle = &shared.net.handle;
    handle.spawn(read_system(Arc::clone(shared), Arc::clone(link), system));
    handle.spawn(read_messages(Arc::clone(shared), Arc::clone(link), messages));
    handle.spawn(read_beats(Arc::clone(shared), Arc::clone(link), beats));
    handle.spawn({
        let (shared, link) = (Arc::clone(shared), Arc::clone(link));
        async move {
            let cause = link.connection.closed().await.to_string();
            link.end(cause.clone());
            shared.peers.remove_control(&link, &cause);
        }
    });
}

async fn read_system(shared: Arc<Shared>, link: Arc<Link>, mut lane: FrameReader) {
    loop {
        match lane.next().await {
            Ok(Some((header, payload))) => match header.kind {
                Kind::Reply => match Arrived::new(&shared, &link, &header, payload) {
                    Ok(reply) => link.resolve(header.call, Ok(reply)),
                    Err(error) => return bad_lane(&link, &error.into()),
                },
                Kind::Error => {
                    let fault = decode(&payload).unwrap_or_else(|error| Fault::BadReply { text: error.to_string() });
                    link.resolve(header.call, Err(fault));
                }
                Kind::Cancel => link.cancel(header.call),
                Kind::Item => match Arrived::new(&shared, &link, &header, payload) {
                    Ok(piece) => {
                        if !link.item(header.call, piece, header.flags & MORE != 0) {
                            return no_credit(&link);
                        }
                    }
                    Err(error) => return bad_lane(&link, &error.into()),
                },
                Kind::Unwanted => link.let_go(header.call),
                Kind::End => link.end_of_stream(header.call),
                Kind::Credit => {
                    if !link.credit(header.call, header.recipient) {
                        return no_credit(&link);
                    }
                }
                Kind::Watch => {
                    if !watch(&shared, &link, header) {
                        tracing::warn!(peer = %link.peer, "a peer watches too many actors");
                        link.connection.close(Code::TooMany.var(), b"too many watches");
                        return;
                    }
                }
                Kind::Unwatch => link.unwatch(header.call),
                Kind::Down => {
                    let text = "its end cannot be read".to_owned();
                    link.down(header.call, decode(&payload).unwrap_or(Down::NodeLost { cause: text }));
                }
                Kind::GoAway => link.peer_goes_away(),
                Kind::Renew => {
                    let verdict = renew::judge(&shared, link.peer, &payload);
                    link.try_send(Kind::Reply, header.call, renew::verdict_bytes(&verdict));
                }
                other => return wrong_kind(&link, other),
            },
            Ok(None) => return,
            Err(error) => return bad_lane(&link, &error),
        }
    }
}

/// Tells the peer of an actor's end, from a task of its own. False if the peer watches too many.
fn watch(shared: &Shared, link: &Arc<Link>, header: Header) -> bool {
    let Some(mut watched) = link.watched(header.call) else {
        return false;
    };
    let down = shared.routes.watch(ActorId(header.recipient), link.peer.role);
    let link = Arc::clone(link);
    tokio::spawn(async move {
        let down = match down {
            None => Down::NoSuchActor,
            Some(down) => tokio::select! {
                biased;
                () = watched.unwatched() => return,
                down = down => down,
            },
        };
        link.answer(watched.call, Kind::Down, encode(&down).unwrap_or_default()).await;
    });
    true
}

async fn read_beats(shared: Arc<Shared>, link: Arc<Link>, mut lane: FrameReader) {
    loop {
        match lane.next().await {
            Ok(Some((header, _))) => match header.kind {
                Kind::Beat => shared.peers.beat(link.peer.node, header.call, header.recipient),
                Kind::Open => {}
                other => return wrong_kind(&link, other),
            },
            Ok(None) => return,
            Err(error) => return bad_lane(&link, &error),
        }
    }
}

async fn read_messages(shared: Arc<Shared>, link: Arc<Link>, mut lane: FrameReader) {
    let mut arrivals = Arrivals::new(&shared, &link);
    loop {
        let (mut header, mut payload) = match lane.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => return bad_lane(&link, &error),
        };
        match header.kind {
            Kind::Ask | Kind::Tell => (),
            Kind::Open => continue,
            other => return wrong_kind(&link, other),
        }
        let message = header.take_trace(&mut payload).and_then(|()| Arrived::new(&shared, &link, &header, payload));
        match message {
            Ok(message) if arrivals.concern(header.recipient, &message) => arrivals.push(header, message).await,
            Ok(message) => handle(&shared, &link, header, Opened::plain(message.bytes), None).await,
            Err(error) => return bad_lane(&link, &error.into()),
        }
    }
}

/// Hands a message to its actor. `serving` is of an ask that can be cancelled already.
async fn handle(shared: &Arc<Shared>, link: &Arc<Link>, header: Header, message: Opened, serving: Option<Serving>) {
    let handled = async {
        if header.kind == Kind::Ask {
            ask(shared, link, header, message, serving).await;
        } else {
            tell(shared, link, header, message).await;
        }
    };
    TraceContext::scope_of(header.trace, link.peer.node, handled).await;
}

async fn tell(shared: &Arc<Shared>, link: &Arc<Link>, header: Header, message: Opened) {
    let told = async {
        let id = ActorId(header.recipient);
        let route = shared.routes.find(id, header.message, link.peer.role)?;
        route.tell(link.peer, message, PATIENCE).await
    };
    if let Err(fault) = told.await {
        tracing::debug!(peer = %link.peer, message = header.message, ?fault, "dropped a tell");
    }
}

async fn ask(shared: &Arc<Shared>, link: &Arc<Link>, header: Header, message: Opened, serving: Option<Serving>) {
    if let Err(fault) = try_ask(shared, link, header, message, serving).await {
        tracing::debug!(peer = %link.peer, message = header.message, ?fault, "refused an ask");
        // A reader never waits for a writer; if there is no room, the asker's deadline tells it.
        link.try_send(Kind::Error, header.call, fault_bytes(&fault));
    }
}

/// Hands an ask to its actor; its answer is awaited and sent beside all others of the link.
async fn try_ask(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    header: Header,
    message: Opened,
    serving: Option<Serving>,
) -> Result<(), Fault> {
    let id = ActorId(header.recipient);
    let route = shared.routes.find(id, header.message, link.peer.role)?;
    let place = timeout(PATIENCE, Arc::clone(&link.places).acquire_owned()).await;
    let Ok(Ok(place)) = place else {
        return Err(Fault::Busy);
    };
    let Some(mut serving) = serving.or_else(|| link.serve(header.call)) else {
        return Ok(());
    };
    let deadline = Duration::from_millis(u64::from(header.deadline_ms));
    let answer = route.ask(link.peer, message, PATIENCE.min(deadline)).await?;
    let answering = link.answering.clone();
    let link = Arc::clone(link);
    let answer = Box::pin(async move {
        let _place = place;
        let answer = tokio::select! {
            biased;
            answer = timeout(deadline, answer) => answer,
            () = serving.cancelled() => return,
        };
        let answered = async {
            match answer.unwrap_or(Err(Fault::DeadlinePassed))? {
                Answered::Value(reply) => link.reply(header.call, reply).await,
                Answered::Items(items) => {
                    produce(&link, header.call, items, deadline).await?;
                    link.answer(header.call, Kind::End, Bytes::new()).await;
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            answered = answered => {
                if let Err(fault) = answered {
                    link.answer(header.call, Kind::Error, fault_bytes(&fault)).await;
                }
            }
            () = serving.cancelled() => (),
        }
    });
    answering.try_send(answer).map_err(|_| Fault::Busy)
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

fn fault_bytes(fault: &Fault) -> Bytes {
    // A fault too large to send arrives as one that cannot be read, which is an error all the same.
    encode(fault).unwrap_or_default()
}

fn wrong_kind(link: &Link, kind: Kind) {
    tracing::warn!(peer = %link.peer, ?kind, "a frame on the wrong lane");
    link.connection.close(Code::BadFrame.var(), b"a frame on the wrong lane");
}

fn no_credit(link: &Link) {
    tracing::warn!(peer = %link.peer, "a stream beyond its window");
    link.connection.close(Code::BadFrame.var(), b"a stream beyond its window");
}

fn bad_lane(link: &Link, error: &LaneError) {
    let code = match error {
        LaneError::Frame(FrameError::TooLarge { .. }) => Code::FrameTooLarge,
        LaneError::Frame(_) | LaneError::Cut => Code::BadFrame,
        LaneError::Read(_) => return, // the connection has ended already
    };
    tracing::warn!(peer = %link.peer, %error, "bad frame");
    link.connection.close(code.var(), error.to_string().as_bytes());
}

#[cfg(test)]
mod tests;
