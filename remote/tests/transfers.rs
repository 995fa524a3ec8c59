//! Transfers: whole or a clear error, never ahead of their credit.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use common::*;
use regatta_remote::*;

both!(
    all_bytes_arrive_and_the_producer_stays_within_its_credit,
    a_consumer_that_stops_taking_stops_the_producer,
    a_dropped_fetch_frees_the_reader_and_is_not_delivered,
    a_refusal_carries_its_reason,
    a_source_knows_who_asks,
    an_empty_transfer_is_delivered,
    a_source_that_fails_is_an_error_and_not_a_short_answer,
    who_takes_all_at_once_says_how_much_that_may_be,
    a_node_that_is_not_connected_is_named,
);

const SIZE: usize = 16 << 20;
const WINDOW: u64 = 4 << 20;

#[derive(Default)]
struct Counts {
    read: AtomicU64,
    open: AtomicU32,
    delivered: AtomicU32,
}

/// `ok`, `short` (ends early), `panic`, `empty`; anything else is refused.
struct Source(Arc<Counts>);

struct Reader {
    counts: Arc<Counts>,
    kind: &'static str,
    at: usize,
}

impl DataSource for Source {
    fn open(&self, ticket: &[u8], peer: PeerId) -> Result<Box<dyn DataReader>, String> {
        let kind = match ticket {
            b"ok" => "ok",
            b"short" => "short",
            b"panic" => "panic",
            b"empty" => "empty",
            b"who" => return Err(format!("asked by {peer}")),
            _ => return Err(format!("no partition {}", String::from_utf8_lossy(ticket))),
        };
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Reader { counts: Arc::clone(&self.0), kind, at: 0 }))
    }

    fn delivered(&self, _: &[u8], _: PeerId) {
        self.0.delivered.fetch_add(1, Ordering::SeqCst);
    }
}

impl DataReader for Reader {
    fn total(&self) -> u64 {
        if self.kind == "empty" { 0 } else { SIZE as u64 }
    }

    fn read(&mut self, max: usize) -> io::Result<Bytes> {
        if self.kind == "panic" {
            panics::wanted("the disk is on fire");
        }
        if self.kind == "short" && self.at > SIZE / 2 {
            return Ok(Bytes::new());
        }
        let size = max.min(SIZE - self.at);
        let bytes = (self.at..self.at + size).map(pattern).collect();
        self.at += size;
        self.counts.read.fetch_add(size as u64, Ordering::SeqCst);
        Ok(bytes)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn pattern(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

async fn serving(world: &World) -> (Pair, Arc<Counts>) {
    let pair = Pair::new(world, 8).await;
    let counts = Arc::new(Counts::default());
    pair.head.serve_data(Arc::new(Source(Arc::clone(&counts))));
    (pair, counts)
}

async fn fetch(pair: &Pair, ticket: &'static str) -> Result<Fetch, FetchError> {
    pair.worker.fetch(pair.head.id(), Bytes::from_static(ticket.as_bytes()), SOON).await
}

async fn all_bytes_arrive_and_the_producer_stays_within_its_credit(world: World) {
    let (pair, counts) = serving(&world).await;
    let mut fetch = fetch(&pair, "ok").await.unwrap();
    assert_eq!(fetch.total(), SIZE as u64);
    let mut got = 0usize;
    while let Some(bytes) = fetch.next().await.unwrap() {
        assert!(bytes.iter().enumerate().all(|(n, byte)| *byte == pattern(got + n)));
        got += bytes.len();
        let read = counts.read.load(Ordering::SeqCst);
        assert!(read <= got as u64 + WINDOW, "read {read} when {got} were taken");
    }
    assert_eq!(got, SIZE);
    drop(fetch);
    eventually("delivered", || counts.delivered.load(Ordering::SeqCst) == 1).await;
    pair.settled().await;
}

async fn a_consumer_that_stops_taking_stops_the_producer(world: World) {
    let (pair, counts) = serving(&world).await;
    let fetch = fetch(&pair, "ok").await.unwrap();
    eventually("the window is read", || counts.read.load(Ordering::SeqCst) == WINDOW).await;
    let all = fetch.collect(SIZE).await.unwrap();
    assert_eq!(all.len(), SIZE);
    assert_eq!(counts.read.load(Ordering::SeqCst), SIZE as u64);
    pair.settled().await;
}

async fn a_dropped_fetch_frees_the_reader_and_is_not_delivered(world: World) {
    let (pair, counts) = serving(&world).await;
    let mut fetch = fetch(&pair, "ok").await.unwrap();
    fetch.next().await.unwrap().unwrap();
    assert_eq!(counts.open.load(Ordering::SeqCst), 1);
    drop(fetch);
    eventually("reader freed", || counts.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(counts.delivered.load(Ordering::SeqCst), 0);
    assert!(counts.read.load(Ordering::SeqCst) < SIZE as u64);
    pair.settled().await;
}

async fn a_refusal_carries_its_reason(world: World) {
    let (pair, _) = serving(&world).await;
    let error = fetch(&pair, "lost").await.unwrap_err();
    assert!(matches!(&error, FetchError::Refused(text) if text == "no partition lost"), "{error}");
    assert!(!error.is_retryable());
    // A node without a source refuses too.
    let back = pair.head.fetch(pair.worker.id(), Bytes::from_static(b"ok"), SOON);
    let error = back.await.unwrap_err();
    assert!(matches!(error, FetchError::Refused(_)), "{error}");
    pair.settled().await;
}

async fn a_source_knows_who_asks(world: World) {
    let (pair, _) = serving(&world).await;
    let error = fetch(&pair, "who").await.unwrap_err();
    let asked = format!("asked by worker {}", pair.worker.id());
    assert!(matches!(&error, FetchError::Refused(text) if *text == asked), "{error}");
}

async fn an_empty_transfer_is_delivered(world: World) {
    let (pair, counts) = serving(&world).await;
    let all = fetch(&pair, "empty").await.unwrap().collect(0).await.unwrap();
    assert!(all.is_empty());
    eventually("delivered", || counts.delivered.load(Ordering::SeqCst) == 1).await;
    pair.settled().await;
}

async fn a_source_that_fails_is_an_error_and_not_a_short_answer(world: World) {
    let (pair, counts) = serving(&world).await;
    for ticket in ["short", "panic"] {
        let error = match fetch(&pair, ticket).await {
            Ok(fetch) => fetch.collect(SIZE).await,
            Err(error) => Err(error),
        };
        assert!(matches!(error, Err(FetchError::SourceFailed)), "{ticket}: {error:?}");
    }
    eventually("readers freed", || counts.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(counts.delivered.load(Ordering::SeqCst), 0);
    pair.settled().await;
}

async fn who_takes_all_at_once_says_how_much_that_may_be(world: World) {
    let (pair, counts) = serving(&world).await;
    let error = fetch(&pair, "ok").await.unwrap().collect(SIZE - 1).await.unwrap_err();
    assert!(
        matches!(error, FetchError::TooLarge { total, most } if (total, most) == (SIZE as u64, SIZE - 1)),
        "{error}"
    );
    assert!(!error.is_retryable());
    eventually("reader freed", || counts.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(counts.delivered.load(Ordering::SeqCst), 0);
    pair.settled().await;
}

async fn a_node_that_is_not_connected_is_named(world: World) {
    let (pair, _) = serving(&world).await;
    let stranger = world.authority().issue(Role::Worker).unwrap().node();
    let error = pair.worker.fetch(stranger, Bytes::new(), SOON).await.unwrap_err();
    assert!(matches!(error, FetchError::NotConnected(node) if node == stranger), "{error}");
}
