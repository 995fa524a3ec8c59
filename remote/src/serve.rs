//! What a node does with the frames of a peer.

mod arrivals;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use quinn::ReadError;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use crate::actor::ActorId;
use crate::close::Code;
use crate::codec::{MAX_MESSAGE, decode, encode};
use crate::error::Fault;
use crate::frame::{FrameError, Header, Kind, MORE};
use crate::lane::{FrameReader, LaneError};
use crate::link::{Arrived, LANES, Link, NotBorne, Ready, Serving};
use crate::local::Down;
use crate::membership::SUSPECT;
use crate::node::Shared;
use crate::parcel::{MAX_TRAILER, Opened};
use crate::renew;
use crate::route::{Answered, EncodedItems, Route};
use crate::trace::{self, TraceContext};
use arrivals::Arrivals;

/// Largest payload of a frame.
pub(crate) const MAX_PAYLOAD: usize = MAX_MESSAGE + MAX_TRAILER + trace::BYTES;

/// Starts reading all lanes of a link, and removes the link when its connection ends.
pub(crate) fn run(shared: &Arc<Shared>, link: &Arc<Link>, [mut system, mut messages, beats]: [FrameReader; LANES]) {
    for lane in [&mut system, &mut messages] {
        lane.set_max(MAX_PAYLOAD as u32);
        if let Some(room) = shared.peers.room_for_frames(link.peer.node) {
            lane.set_room(room);
        }
    }
    let handle = &shared.net.handle;
    let lanes = join(
        handle.spawn(read_system(Arc::clone(shared), Arc::clone(link), system)),
        handle.spawn(read_messages(Arc::clone(shared), Arc::clone(link), messages)),
    );
    handle.spawn(read_beats(Arc::clone(shared), Arc::clone(link), beats));
    handle.spawn({
        let (shared, link) = (Arc::clone(shared), Arc::clone(link));
        async move {
            let closed = link.connection.closed();
            let left = async {
                let _ = lanes.await;
                sleep(SUSPECT).await;
            };
            let cause = tokio::select! {
                biased;
                cause = closed => cause.to_string(),
                () = left => {
                    link.connection.close(Code::Bye.var(), b"nothing came after the goodbye");
                    link.connection.closed().await.to_string()
                }
            };
            link.end(cause.clone());
            shared.peers.remove_control(&link, &cause);
        }
    });
}

async fn read_system(shared: Arc<Shared>, link: Arc<Link>, mut lane: FrameReader) {
    let mut goodbye = false;
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
                    if let Err(why) = watch(&shared, &link, header) {
                        return bad_watch(&link, &why);
                    }
                }
                Kind::Unwatch => link.unwatch(header.call),
                Kind::Down => {
                    let text = "its end cannot be read".to_owned();
                    link.down(header.call, decode(&payload).unwrap_or(Down::NodeLost { cause: text }));
                }
                Kind::GoAway => {
                    goodbye = true;
                    link.peer_goes_away();
                }
                Kind::Renew => {
                    let verdict = renew::judge(&shared, link.peer, &payload);
                    link.try_send(Kind::Reply, header.call, renew::verdict_bytes(&verdict));
                }
                other => return wrong_kind(&link, other),
            },
            Ok(None) => return ended(&link, goodbye),
            Err(error) => return bad_lane(&link, &error),
        }
    }
}

/// Tells the peer of an actor's end, from a task of its own.
fn watch(shared: &Shared, link: &Arc<Link>, header: Header) -> Result<(), NotBorne> {
    let watched = link.watched(header.call)?;
    let down = shared.routes.watch(ActorId(header.recipient), link.peer.role);
    tokio::spawn(watched.tell(async move {
        match down {
            None => Down::NoSuchActor,
            Some(down) => down.await,
        }
    }));
    Ok(())
}

async fn read_beats(shared: Arc<Shared>, link: Arc<Link>, mut lane: FrameReader) {
    loop {
        match lane.next().await {
            Ok(Some((header, _))) => match header.kind {
                Kind::Beat => shared.peers.beat(&link, header.call, header.recipient),
                Kind::Open => {}
                other => return wrong_kind(&link, other),
            },
            Ok(None) => return ended(&link, false),
            Err(error) => return bad_lane(&link, &error),
        }
    }
}

async fn read_messages(shared: Arc<Shared>, link: Arc<Link>, mut lane: FrameReader) {
    let mut arrivals = Arrivals::new(&shared, &link);
    let mut goodbye = false;
    loop {
        let (mut header, mut payload) = match lane.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return ended(&link, goodbye),
            Err(error) => return bad_lane(&link, &error),
        };
        match header.kind {
            Kind::Ask | Kind::Tell => (),
            Kind::Open => continue,
            Kind::GoAway => {
                goodbye = true;
                link.peer_goes_away();
                continue;
            }
            other => return wrong_kind(&link, other),
        }
        let message = header.take_trace(&mut payload).and_then(|()| Arrived::new(&shared, &link, &header, payload));
        match message {
            Ok(message) => arrivals.take(header, message).await,
            Err(error) => return bad_lane(&link, &error.into()),
        }
    }
}

/// A message that has come whole.
struct Mail {
    header: Header,
    message: Opened,
    /// Of an ask that can be cancelled already.
    serving: Option<Serving>,
    came: Instant,
    /// When the last of its batches was there.
    ready: Instant,
}

/// Hands a message to its actor, which has a place for it.
async fn hand_over(link: &Arc<Link>, mail: Mail, route: &dyn Route, place: OwnedSemaphorePermit) {
    let header = mail.header;
    let handed = async {
        match header.kind {
            Kind::Ask => ask(link, mail, route, place),
            _ => route.tell(link.peer, mail.message, place),
        }
    };
    if let Err(fault) = TraceContext::scope_of(header.trace, link.peer.node, handed).await {
        refuse(link, &header, &fault);
    }
}

/// A message is not handed to its actor: its asker is told why.
fn refuse(link: &Link, header: &Header, fault: &Fault) {
    if header.kind == Kind::Ask {
        tracing::debug!(peer = %link.peer, message = header.message, ?fault, "refused an ask");
        // A reader never waits for a writer; if there is no room, the asker's deadline tells it.
        link.try_send(Kind::Error, header.call, fault_bytes(fault));
    } else {
        tracing::debug!(peer = %link.peer, message = header.message, ?fault, "dropped a tell");
    }
}

/// Hands an ask to its actor; its answer is awaited and sent beside all others of the link.
fn ask(link: &Arc<Link>, mail: Mail, route: &dyn Route, place: OwnedSemaphorePermit) -> Result<(), Fault> {
    let Mail { header, message, serving, came, .. } = mail;
    let Ok(served) = Arc::clone(&link.places).try_acquire_owned() else {
        return Err(Fault::Busy);
    };
    let Some(mut serving) = serving.or_else(|| link.serve(header.call)) else {
        return Ok(());
    };
    let patience = Duration::from_millis(u64::from(header.deadline_ms));
    let answer = route.ask(link.peer, message, place)?;
    let left = patience.saturating_sub(came.elapsed());
    let (answering, link) = (link.answering.clone(), Arc::clone(link));
    let answer = Box::pin(async move {
        let answer = tokio::select! {
            biased;
            answer = timeout(left, answer) => answer,
            () = serving.cancelled() => return,
        };
        let ready = async {
            match answer.unwrap_or(Err(Fault::DeadlinePassed))? {
                Answered::Value(reply) => link.ready(header.call, reply).await,
                Answered::Items(items) => {
                    produce(&link, header.call, items, patience).await?;
                    Ok(Ready::new(Kind::End, header.call, Bytes::new()))
                }
            }
        };
        let ready = tokio::select! {
            biased;
            ready = ready => ready,
            () = serving.cancelled() => return,
        };
        let failed = |fault| Ready::new(Kind::Error, header.call, fault_bytes(&fault));
        link.answer(ready.unwrap_or_else(failed), served);
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

/// A lane has ended. Without a goodbye on it the link is of no use any more.
fn ended(link: &Link, goodbye: bool) {
    if !goodbye {
        tracing::warn!(peer = %link.peer, "a lane ended without a goodbye");
        link.connection.close(Code::BadFrame.var(), b"a lane ended without a goodbye");
    }
}

fn bad_watch(link: &Link, why: &NotBorne) {
    let (code, text) = match why {
        NotBorne::TooMany => (Code::TooMany, "a peer watches too many actors"),
        NotBorne::Again => (Code::BadFrame, "a peer watches twice under one number"),
    };
    tracing::warn!(peer = %link.peer, text);
    link.connection.close(code.var(), text.as_bytes());
}

fn no_credit(link: &Link) {
    tracing::warn!(peer = %link.peer, "a stream beyond its window");
    link.connection.close(Code::BadFrame.var(), b"a stream beyond its window");
}

fn bad_lane(link: &Link, error: &LaneError) {
    let code = match error {
        LaneError::Frame(FrameError::TooLarge { .. }) => Code::FrameTooLarge,
        LaneError::Frame(_) | LaneError::Cut => Code::BadFrame,
        LaneError::Stalled => Code::Stalled,
        LaneError::NoRoom => Code::TooMany,
        LaneError::Read(ReadError::ConnectionLost(_)) => return, // it has ended already
        LaneError::Read(_) => Code::BadFrame,
    };
    tracing::warn!(peer = %link.peer, %error, "bad frame");
    link.connection.close(code.var(), error.to_string().as_bytes());
}

#[cfg(test)]
mod tests;
