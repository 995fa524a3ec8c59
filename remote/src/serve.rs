//! What a node does with the frames of a peer.

mod arrivals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use quinn::{Connection, ReadError, SendStream};
use tokio::time::{Instant, sleep};

use crate::answer::Call;
use crate::close::Code;
use crate::codec::decode;
use crate::error::{Down, Fault};
use crate::frame::{FrameError, Header, Kind, MORE};
use crate::ids::{ActorId, PeerId};
use crate::lane::{FrameReader, LaneError, write_lane};
use crate::link::{Arrived, Beside, LANES, Link, NotBorne, Serving, Wire};
use crate::local::Admitted;
use crate::membership::SUSPECT;
use crate::net::Net;
use crate::parcel::{MAX_PAYLOAD, Opened};
use crate::peers::{Peers, loss_of};
use crate::queue::Waiting;
use crate::route::{Route, Routes};
use crate::text::line;
use crate::trace::TraceContext;
use arrivals::Arrivals;

/// What the frames of peers are served with.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) routes: Arc<Routes>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) beside: Arc<dyn Beside>,
    pub(crate) renewer: Arc<dyn Renewer>,
    pub(crate) net: Net,
}

/// What renews certificates of peers.
pub(crate) trait Renewer: Send + Sync {
    /// The answer to a peer's request.
    fn renew(&self, peer: PeerId, request: &[u8]) -> Bytes;
}

impl Wire for Connection {
    fn close(&self, code: Code, why: &str) {
        Self::close(self, code.into(), why.as_bytes());
    }

    fn remote_address(&self) -> SocketAddr {
        Self::remote_address(self)
    }
}

/// Starts the writers of a link, on the network's runtime.
pub(crate) fn write(net: &Net, connection: &Connection, lanes: [SendStream; LANES], waiting: [Waiting; LANES]) {
    let [_, _, beats] = &lanes;
    let _ = beats.set_priority(1); // fails only if the stream is closed
    for (stream, queue) in lanes.into_iter().zip(waiting) {
        let (lost, stopped) = (connection.clone(), stream.stopped());
        // Also while nothing is to be written: a lane that the peer does not read makes the link useless.
        net.handle.spawn(async move {
            if let Ok(Some(_)) = stopped.await {
                lost.close(Code::BadFrame.into(), b"a lane was stopped");
            }
        });
        net.handle.spawn(write_lane(connection.clone(), stream, queue));
    }
}

/// Starts reading all lanes of a link, and removes the link when its connection ends.
pub(crate) fn run(
    services: Services,
    link: &Arc<Link>,
    connection: Connection,
    [mut system, mut messages, beats]: [FrameReader; LANES],
) {
    for lane in [&mut system, &mut messages] {
        lane.set_max(MAX_PAYLOAD as u32);
        lane.set_rooms(Arc::clone(&link.rooms));
    }
    let handle = services.net.handle.clone();
    let lanes = join(
        handle.spawn(read_system(services.clone(), Arc::clone(link), system)),
        handle.spawn(read_messages(services.clone(), Arc::clone(link), messages)),
    );
    handle.spawn(read_beats(Arc::clone(&services.peers), Arc::clone(link), beats));
    handle.spawn(Arc::clone(link).keep_deadlines());
    handle.spawn({
        let link = Arc::clone(link);
        async move {
            let closed = connection.closed();
            let left = async {
                let _ = lanes.await;
                sleep(SUSPECT).await;
            };
            let cause = tokio::select! {
                biased;
                cause = closed => line(cause),
                () = left => {
                    link.cut(Code::Bye, "nothing came after the goodbye");
                    line(connection.closed().await)
                }
            };
            link.end(cause.clone());
            services.peers.remove_control(&link, loss_of(&connection), &cause);
        }
    });
}

async fn read_system(services: Services, link: Arc<Link>, mut lane: FrameReader) {
    let mut goodbye = false;
    loop {
        match lane.next().await {
            Ok(Some((header, payload))) => match header.kind {
                Kind::Reply => match Arrived::new(&services.beside, &link, &header, payload) {
                    Ok(reply) => link.resolve(header.call, Ok(reply)),
                    Err(error) => return bad_lane(&link, &error.into()),
                },
                Kind::Error => {
                    let fault = decode(&payload).unwrap_or_else(|error| Fault::BadReply { text: error.to_string() });
                    link.resolve(header.call, Err(fault));
                }
                Kind::Cancel => link.cancel(header.call),
                Kind::Item => match Arrived::new(&services.beside, &link, &header, payload) {
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
                    if let Err(why) = watch(&services.routes, &link, header) {
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
                    link.try_send(Kind::Reply, header.call, services.renewer.renew(link.peer, &payload));
                }
                other => return wrong_kind(&link, other),
            },
            Ok(None) => return ended(&link, goodbye),
            Err(error) => return bad_lane(&link, &error),
        }
    }
}

/// Tells the peer of an actor's end, from a task of its own.
fn watch(routes: &Routes, link: &Arc<Link>, header: Header) -> Result<(), NotBorne> {
    let watched = link.watched(header.call)?;
    let down = routes.watch(ActorId(header.recipient), link.peer.role);
    tokio::spawn(watched.tell(async move {
        match down {
            None => Down::NoSuchActor,
            Some(down) => down.await,
        }
    }));
    Ok(())
}

async fn read_beats(peers: Arc<Peers>, link: Arc<Link>, mut lane: FrameReader) {
    loop {
        match lane.next().await {
            Ok(Some((header, _))) => match header.kind {
                Kind::Beat => peers.beat(&link, header.call, header.recipient),
                Kind::Open => {}
                other => return wrong_kind(&link, other),
            },
            Ok(None) => return ended(&link, false),
            Err(error) => return bad_lane(&link, &error),
        }
    }
}

async fn read_messages(services: Services, link: Arc<Link>, mut lane: FrameReader) {
    let mut arrivals = Arrivals::new(&services, &link);
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
        let message =
            header.take_trace(&mut payload).and_then(|()| Arrived::new(&services.beside, &link, &header, payload));
        match message {
            Ok(message) => {
                if let Some(message) = arrivals.hand_over(&header, message) {
                    arrivals.wait(header, message).await;
                }
            }
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
fn hand_over(link: &Arc<Link>, mail: Mail, route: &dyn Route, place: Admitted) {
    let header = mail.header;
    let handed = || match header.kind {
        Kind::Ask => ask(link, mail, route, place),
        _ => route.tell(link.peer, mail.message, place),
    };
    if let Err(fault) = TraceContext::in_scope_of(header.trace, link.peer.node, handed) {
        refuse(link, &header, &fault);
    }
}

/// A message is not handed to its actor: its asker is told why.
fn refuse(link: &Link, header: &Header, fault: &Fault) {
    if header.kind == Kind::Ask {
        tracing::debug!(peer = %link.peer, message = header.message, ?fault, "refused an ask");
        link.refuse(header.call, fault);
    } else {
        tracing::debug!(peer = %link.peer, message = header.message, ?fault, "dropped a tell");
    }
}

/// Hands an ask to its actor, which answers it.
fn ask(link: &Arc<Link>, mail: Mail, route: &dyn Route, place: Admitted) -> Result<(), Fault> {
    let Mail { header, message, serving, came, .. } = mail;
    let serving = match serving {
        Some(serving) => serving,
        None => match link.serve(header.call, came + patience(&header))? {
            Some(serving) => serving,
            None => return Ok(()),
        },
    };
    route.ask(link.peer, message, place, Call::new(serving, patience(&header)))
}

/// How long an asker waits; for a stream, for each item.
fn patience(header: &Header) -> Duration {
    Duration::from_millis(u64::from(header.deadline_ms))
}

fn wrong_kind(link: &Link, kind: Kind) {
    if link.may_say() {
        tracing::warn!(peer = %link.peer, ?kind, "a frame on the wrong lane");
    }
    link.cut(Code::BadFrame, "a frame on the wrong lane");
}

/// A lane has ended. Without a goodbye on it the link is of no use any more.
fn ended(link: &Link, goodbye: bool) {
    if !goodbye {
        if link.may_say() {
            tracing::warn!(peer = %link.peer, "a lane ended without a goodbye");
        }
        link.cut(Code::BadFrame, "a lane ended without a goodbye");
    }
}

fn bad_watch(link: &Link, why: &NotBorne) {
    let (code, text) = match why {
        NotBorne::TooMany => (Code::TooMany, "a peer watches too many actors"),
        NotBorne::Again => (Code::BadFrame, "a peer watches twice under one number"),
    };
    if link.may_say() {
        tracing::warn!(peer = %link.peer, text);
    }
    link.cut(code, text);
}

fn no_credit(link: &Link) {
    if link.may_say() {
        tracing::warn!(peer = %link.peer, "a stream beyond its window");
    }
    link.cut(Code::BadFrame, "a stream beyond its window");
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
    if link.may_say() {
        tracing::warn!(peer = %link.peer, %error, "bad frame");
    }
    link.cut(code, &error.to_string());
}

#[cfg(test)]
mod tests;
