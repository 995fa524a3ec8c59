//! What the fuzz targets run: whatever the bytes, what stands here holds. The corpus in `fuzz/` is run by a unit test
//! too, so that a finding stays found.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::account::{Account, Allowance, MAX_TICKET, Request, WINDOW};
use crate::claim::{Claim, Verdict};
use crate::codec::{Bound, CodecError, decode, encode};
use crate::frame::{FrameError, HEADER, Header};
use crate::frames::Frames;
use crate::hello::{Hello, MAX_HELLO};
use crate::identity::{Applicant, fingerprint, peer_in, requested_key};
use crate::ids::{ActorId, Address, NodeId, PeerId, Role};
use crate::limits::{MAX_BATCHES, MAX_MESSAGE};
use crate::local::Sender;
use crate::membership::{Action, DEAD, Event, Membership, SUSPECT};
use crate::names::{Entry, Table};
use crate::parcel::Manifest;
use crate::pieces::{Assembly, Credit, PIECE, WINDOW as STREAM_WINDOW, cost, cut, may_give};
use crate::token::JoinToken;
use crate::trace::BYTES as TRACE;

/// A lane that comes in pieces: the same frames as in one piece, and memory for no more than what came.
pub fn frames(data: &[u8]) {
    let mut from = Input(data);
    let max = match from.byte() % 4 {
        0 => 16,
        1 => MAX_HELLO,
        _ => u32::MAX,
    };
    let pieces: Vec<usize> = (0..from.byte() % 16).map(|_| usize::from(from.byte()) + 1).collect();
    let lane = from.0;
    let mut whole = Frames::new(max);
    whole.push(lane);
    let expected = take_all(&mut whole);

    let mut pieced = Frames::new(max);
    let mut taken = Vec::new();
    let mut failed = None;
    let (mut rest, mut fed) = (lane, 0);
    for piece in pieces.into_iter().chain([usize::MAX]) {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        rest = later;
        fed += now.len();
        pieced.push(now);
        let (frames, error) = take_all(&mut pieced);
        assert!(pieced.capacity() <= 2 * fed + 64, "room for {} after {fed} bytes", pieced.capacity());
        taken.extend(frames);
        failed = error;
        if failed.is_some() {
            break;
        }
    }
    assert_eq!((taken, failed), expected);
    let mut used = 0;
    for (header, payload) in &expected.0 {
        assert!(header.len <= max && payload.len() == header.len as usize);
        assert_eq!(Header::parse(&header.encode(), max), Ok(*header));
        let (mut traced, mut rest) = (*header, payload.clone());
        let whole = traced.take_trace(&mut rest).is_ok();
        assert!(whole || payload.len() < TRACE, "a trace that has come whole was not taken");
        assert!(payload.ends_with(&rest) && payload.len() - rest.len() <= TRACE);
        assert_eq!(&payload[..], &lane[used + HEADER..used + HEADER + payload.len()]);
        used += HEADER + payload.len();
    }
}

fn take_all(from: &mut Frames) -> (Vec<(Header, Bytes)>, Option<FrameError>) {
    let mut frames = Vec::new();
    loop {
        match from.take() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

/// A hello, and the name in a certificate.
pub fn hello(data: &[u8]) {
    survives::<Hello>(data);
    survives::<crate::error::Fault>(data);
    if let Ok(uri) = std::str::from_utf8(data)
        && let Some(peer) = PeerId::from_uri(uri)
    {
        assert_eq!(peer.uri(), uri, "one spelling per peer");
    }
    // A joiner reads certificates that nobody has checked yet.
    assert_eq!(fingerprint(data), fingerprint(data));
    peer_in(data);
}

/// A joiner's claim, the request in it, the head's verdict, and the text of a token.
pub fn join(data: &[u8]) {
    if let Some(claim) = survives::<Claim>(data) {
        let _ = requested_key(&claim.request);
    }
    let _ = requested_key(data);
    if let Some(Ok(leaf)) = survives::<Verdict>(data)
        && let Ok(applicant) = Applicant::new()
    {
        let identity = applicant.take(leaf, [0; 32], &crate::ambient::Ambient::System);
        assert!(identity.is_err(), "a certificate of nobody was taken");
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(token) = text.parse::<JoinToken>()
    {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
}

/// A transfer: the request, then both ends' accounts under a network that splits and delays, then a producer that
/// sends what it likes.
pub fn transfer(data: &[u8]) {
    let mut from = Input(data);
    if let Some((head, _)) = data.split_first_chunk::<{ Request::LEN }>() {
        match Request::parse(*head) {
            Some(request) => {
                assert!(request.ticket <= MAX_TICKET);
                assert_eq!(request.encode(), *head);
            }
            None => assert!(u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize > MAX_TICKET),
        }
    }
    let total = from.number() % (4 * WINDOW);
    let (mut consumer, mut producer) = (Account::new(total), Allowance::new(WINDOW, total));
    let (mut data_under_way, mut credit_under_way) = (0u64, Vec::<u32>::new());
    let mut steps = 0;
    while consumer.got < total {
        // Without input each side does all that it can: then the transfer must come to its end.
        let (step, much) = if from.0.is_empty() { (steps % 3, u64::MAX) } else { (from.byte() % 3, from.number()) };
        match step {
            0 => {
                let size = producer.may_send().min(much);
                assert_eq!(producer.sent(size), size > 0);
                data_under_way += size;
            }
            1 => {
                let size = data_under_way.min(much);
                consumer.arrived(size).unwrap();
                data_under_way -= size;
                credit_under_way.extend(consumer.taken());
            }
            _ => {
                credit_under_way.drain(..).for_each(|more| assert!(producer.credit(more), "a credit that was returned"))
            }
        }
        assert!(data_under_way <= WINDOW, "{data_under_way} bytes are under way");
        steps = if from.0.is_empty() { steps + 1 } else { 0 };
        assert!(steps < 200, "stuck: {consumer:?} {producer:?}");
    }
    assert_eq!((consumer.got, producer.left, data_under_way), (total, 0, 0));

    let mut from = Input(data);
    let (mut consumer, mut producer) = (Account::new(from.number()), Allowance::new(from.number(), from.number()));
    let (total, mut given) = (consumer.total, WINDOW);
    while !from.0.is_empty() {
        let size = from.number();
        let before = consumer.got;
        let took = consumer.arrived(size).is_ok();
        assert_eq!(consumer.got, if took { before + size } else { before });
        given += consumer.taken().map_or(0, u64::from);
        assert!(consumer.got <= total.min(given));
        let (left, may_send) = (producer.left, producer.may_send());
        if !producer.credit(from.number() as u32) {
            assert_eq!(producer.may_send(), may_send);
        }
        let sent = producer.sent(size);
        assert_eq!(producer.left, if sent { left - size } else { left });
    }
}

/// A stream: its items cut, sent under any delay of pieces and credit, and put together; then pieces as a bad producer
/// likes them, and a bad trailer.
pub fn streams(data: &[u8]) {
    let mut from = Input(data);
    let items: Vec<(Bytes, bool)> = (0..from.byte() % 8)
        .map(|n| (Bytes::from(vec![n; (from.number() % (5 * PIECE as u64)) as usize]), from.byte() % 4 == 0))
        .collect();
    // What the producer has to send: each piece, whether it tells of batches, whether more follow.
    let mut to_send = VecDeque::new();
    for (item, apart) in &items {
        let mut rest = item.clone();
        loop {
            let piece = cut(&mut rest);
            assert!(piece.len() <= PIECE);
            to_send.push_back((piece, false, *apart || !rest.is_empty()));
            if rest.is_empty() {
                break;
            }
        }
        if *apart {
            to_send.push_back((Bytes::new(), true, false));
        }
    }
    let (mut has, credit, mut assembly) = (STREAM_WINDOW, Credit::new(), Assembly::default());
    let (mut pieces, mut credits) = (VecDeque::new(), VecDeque::new());
    let (mut came, mut steps) = (Vec::new(), 0u32);
    while came.len() < items.len() {
        // Without input each side does all that it can: then the stream must come to its end.
        match if from.0.is_empty() { steps % 3 } else { u32::from(from.byte() % 3) } {
            0 => {
                if let Some((piece, apart, _)) = to_send.front()
                    && let Some(left) = has.checked_sub(cost(piece.len(), *apart))
                {
                    has = left;
                    pieces.extend(to_send.pop_front());
                }
            }
            1 => {
                if let Some((piece, apart, more)) = pieces.pop_front() {
                    assert!(
                        credit.spend(cost(piece.len(), apart)),
                        "no credit for a piece that the producer had it for"
                    );
                    came.extend(assembly.add(piece, apart, more).expect("an item that was cut"));
                }
                if let Some(more) = assembly.credit() {
                    credit.give(more);
                    credits.push_back(more);
                    assembly.given();
                }
            }
            _ => {
                if let Some(more) = credits.pop_front() {
                    has += may_give(has, more as u64).expect("more than a window");
                }
            }
        }
        let under_way: usize = pieces.iter().map(|(piece, ..)| piece.len()).sum();
        assert!(under_way <= STREAM_WINDOW && pieces.len() <= STREAM_WINDOW / (4 << 10));
        steps = if from.0.is_empty() { steps + 1 } else { 0 };
        assert!(steps < 600, "stuck: {has} {credit:?} {assembly:?}");
    }
    assert!(came.iter().eq(items.iter().map(|(item, _)| item)) && assembly.is_whole());

    let mut from = Input(data);
    let (credit, mut assembly, mut spent, mut given) = (Credit::new(), Assembly::default(), 0, STREAM_WINDOW);
    let (mut part, piece) = (0, Bytes::from(vec![0; PIECE]));
    while !from.0.is_empty() {
        let (size, apart, more) =
            ((from.number() % (PIECE as u64 + 1)) as usize, from.byte() % 5 == 0, from.byte() % 3 > 0);
        if credit.spend(cost(size, apart)) {
            spent += cost(size, apart);
            part += size;
            let item = assembly.add(piece.slice(..size), apart, more);
            assert_eq!(item.is_err(), part > MAX_MESSAGE);
            match item {
                Ok(Some(item)) => assert_eq!(item.len(), std::mem::take(&mut part)),
                Ok(None) => assert!(more),
                Err(_) => break,
            }
        }
        assert!(spent <= given);
        if let Some(more) = assembly.credit() {
            credit.give(more);
            given += more;
            assembly.given();
        }
        let (has, more) = (from.number() as usize % (STREAM_WINDOW + 1), from.number());
        assert_eq!(may_give(has, more).is_some(), more <= (STREAM_WINDOW - has) as u64);
    }
    let mut payload = Bytes::copy_from_slice(data);
    if let Ok(manifest) = Manifest::take(&mut payload) {
        assert!(payload.len() + 8 * manifest.lengths.len() + 12 == data.len() && manifest.total <= MAX_BATCHES);
    }
}

/// A message of every shape that serde has.
pub fn message(data: &[u8]) {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Zoo {
        Nothing,
        Numbers(u8, i16, u32, i64, u128),
        Floats { a: u32, b: u64, c: Option<bool> },
        Texts(Vec<String>, char, Box<str>),
        Nested(Vec<Self>),
        Maps(BTreeMap<String, Option<Vec<u8>>>),
        Results(Result<(u16, [u8; 3]), String>),
        Times(Duration, std::net::SocketAddr),
        Boxed(Option<Box<Self>>, Box<[Option<[u64; 16]>; 3]>),
        Wide(Vec<Option<[u64; 16]>>),
        Units(Vec<()>, BTreeMap<(), ()>),
    }
    survives::<Zoo>(data);
    survives::<Vec<Vec<u64>>>(data);
    survives::<(Option<String>, Vec<(u8, bool)>)>(data);
}

/// Any sequence of events leaves a membership in order.
pub fn membership(data: &[u8]) {
    /// What is known of a peer that is up.
    #[derive(Clone, Copy)]
    struct Up {
        heard: Duration,
        seen: u64,
        suspect: bool,
        leased: bool,
        /// Has had a lease.
        acknowledged: bool,
    }
    let mut from = Input(data);
    let (mut core, mut now, mut last_beat) = (Membership::default(), Duration::ZERO, 0);
    let (mut up, mut dead) = (BTreeMap::<NodeId, Up>::new(), Vec::<NodeId>::new());
    while !from.0.is_empty() {
        let kind = from.byte();
        let node: NodeId = decode(&[from.byte() % 6]).unwrap();
        now += Duration::from_millis(from.number() % 20_000);
        let event = match kind % 8 {
            0 | 1 => Event::Up(node),
            2 => Event::Gone(node),
            3 | 4 => Event::Beat { node, seq: from.number(), ack: from.number() },
            _ => Event::Tick,
        };
        let actions = core.handle(event, now);
        match event {
            Event::Up(node) if dead.contains(&node) => assert_eq!(actions, [Action::Refuse(node)]),
            Event::Up(node) => {
                up.entry(node).or_insert(Up {
                    heard: now,
                    seen: 0,
                    suspect: false,
                    leased: false,
                    acknowledged: false,
                });
            }
            Event::Gone(node) => {
                up.remove(&node);
            }
            Event::Beat { node, seq, .. } => {
                if let Some(peer) = up.get_mut(&node).filter(|peer| seq > peer.seen) {
                    (peer.heard, peer.seen) = (now, seq);
                }
            }
            Event::Tick => (),
        }
        let mut beat = matches!(event, Event::Tick);
        for action in actions {
            match action {
                Action::Beat { node, seq, ack } => {
                    assert_eq!((ack, seq), (up[&node].seen, last_beat + 1));
                    beat = true;
                }
                Action::Suspect(node) => {
                    let peer = up.get_mut(&node).unwrap();
                    assert!(now - peer.heard >= SUSPECT && !std::mem::replace(&mut peer.suspect, true));
                }
                Action::Recovered(node) => assert!(std::mem::take(&mut up.get_mut(&node).unwrap().suspect)),
                Action::LeaseLost(node) => assert!(std::mem::take(&mut up.get_mut(&node).unwrap().leased)),
                Action::LeaseBack(node) => {
                    let peer = &up[&node];
                    assert!(peer.acknowledged && !peer.leased && core.is_leased(node, now));
                }
                Action::Dead { node, silent } => {
                    let peer = up.remove(&node).unwrap();
                    assert!(DEAD <= silent && silent <= now - peer.heard && !core.is_leased(node, now));
                    dead.push(node);
                }
                Action::Refuse(node) => assert!(dead.contains(&node)),
                Action::Brake { silent, of } => assert!(silent <= of && of <= up.len() + dead.len()),
            }
        }
        last_beat += u64::from(beat);
        for (node, peer) in up.iter_mut().filter(|(node, _)| core.is_leased(**node, now)) {
            let acknowledges = matches!(event, Event::Beat { node: from, .. } if from == *node);
            assert!(peer.leased || acknowledges, "a lease out of nothing");
            (peer.leased, peer.acknowledged) = (true, true);
        }
        assert!(dead.iter().all(|node| core.is_dead(*node) && !up.contains_key(node)));
    }
}

/// Any sequence of what nodes ask of a registry of names: each speaks for itself, and what is kept is what was given.
pub fn names(data: &[u8]) {
    let mut from = Input(data);
    let (mut table, mut given) = (Table::default(), BTreeMap::<String, NodeId>::new());
    while !from.0.is_empty() {
        let [what, by, about, actor, away] = [(); 5].map(|()| from.byte());
        let node = |n: u8| decode::<NodeId>(&[n % 4]).unwrap();
        let cluster = decode(&[7]).unwrap();
        let sender = Sender::Node(PeerId { cluster, role: Role::Worker, node: node(by) });
        let is_there = |of: NodeId| of != node(away) || away > 200;
        let name: String = char::from(b'a' + from.byte() % 3).to_string().repeat(usize::from(from.byte() % 3) * 200);
        let address = Address { node: node(about), actor: ActorId(u64::from(actor % 2)) };
        let before = given.get(&name).copied().filter(|has| is_there(*has));
        match what % 4 {
            0 | 1 => {
                let entry = Entry { address, at: None, kind: "Boat".to_owned() };
                let took = table.register(name.clone(), entry, sender, is_there).is_ok();
                assert!(!took || (sender.is(address.node) && (1..=256).contains(&name.len())));
                assert!(!took || before.is_none_or(|has| has == address.node), "it was another's");
                if took {
                    given.insert(name, address.node);
                }
            }
            2 => {
                let gone = table.unregister(&name, (actor > 100).then_some(address), sender, is_there).is_ok();
                assert!(!gone || before.is_some_and(|has| sender.is(has)), "it was another's");
                if table.find(&name, |_| true).is_err() {
                    given.remove(&name);
                }
            }
            _ => {
                table.sweep(is_there);
                given.retain(|_, has| is_there(*has));
            }
        }
        for (name, has) in &given {
            assert_eq!(table.find(name, |_| true).unwrap().address.node, *has);
        }
    }
}

/// A peer's Arrow batch: nothing panics on it, and what is read is sound.
#[cfg(feature = "arrow")]
pub fn batches(data: &[u8]) {
    if let Ok(batch) = crate::batch::read(Bytes::copy_from_slice(data)) {
        batch.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
        let again = crate::batch::read(crate::batch::written(&batch).unwrap().concat().into()).unwrap();
        assert_eq!(again.num_rows(), batch.num_rows());
    }
}

/// What can be decoded survives being encoded.
fn survives<T>(bytes: &[u8]) -> Option<T>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let value = decode::<T>(bytes).ok()?;
    let first = match encode(&value) {
        // In its shortest form it has fewer bytes for as many elements.
        Err(CodecError::Beyond(Bound::Elements)) => return None,
        encoded => encoded.expect("what was decoded can be encoded"),
    };
    assert!(first.len() <= bytes.len(), "the shortest form is longer");
    let again: T = decode(&first).expect("what was encoded can be decoded");
    assert_eq!(encode(&again).unwrap(), first);
    Some(value)
}

/// Bytes as choices; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    /// Of any magnitude.
    fn number(&mut self) -> u64 {
        let count = self.byte() % 9;
        (0..count).fold(0, |number, _| (number << 8) | u64::from(self.byte()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzz_targets_assert_holds_for_the_corpus() {
        run("frames", frames);
        run("hello", hello);
        run("join", join);
        run("transfer", transfer);
        run("message", message);
        run("membership", membership);
        run("streams", streams);
        run("names", names);
        run("batches", batches);
    }

    fn run(name: &str, target: fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "{folder:?} is empty");
        for file in files {
            println!("{}", file.display());
            target(&std::fs::read(file).unwrap());
        }
        // And a few of those that a fuzzer begins with.
        let mut random = 7;
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|_| crate::ambient::split_mix(&mut random) as u8).collect();
            target(&bytes);
        }
    }
}
