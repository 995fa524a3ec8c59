//! Brings to a reader what it reads: blocks of this process by reference, others over one transfer from each worker that holds some.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use polars::prelude::DataFrame;
use regatta_remote::{Fetch, FetchError, MAX_MESSAGE};
use tokio::time::timeout;

use super::Host;
use super::feed::Feed;
use super::messages::Place;
use crate::error::{PolarsFailure, TaskFailure};
use crate::os;
use crate::sched::{PartitionId, QueryId, StageId, WorkerId};
use crate::store::{
    Arrivals, Chosen, Form, HEAD_PREFIX, Head, Home, Listed, PARTS, Part, Reading, RowRange, Source, Wanted, check,
    head_size, lost,
};

/// Blocks that a reader has of one stage before it takes them, in bytes.
pub(crate) const AHEAD: usize = 64 << 20;
/// A transfer is given up when the reader has had no room for so long: its producer would take it for stalled. It is begun again.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(10) };

const UNREADABLE: &str = "its file cannot be read";

impl Host {
    /// Begins to read what a feed names of a stage; no more than `most` bytes of it wait here.
    ///
    /// # Errors
    /// Some of it is gone, or its worker cannot be reached.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        (query, stage): (QueryId, StageId),
        feed: Feed,
        form: Arc<Form>,
        most: usize,
    ) -> Result<Reading, TaskFailure> {
        let Feed { sections, places, parts, own: _ } = feed;
        let from = |place: usize| parts.iter().filter(move |(at, _)| *at as usize == place).map(|(_, part)| *part);
        let opened = places.iter().enumerate().map(|(index, place)| {
            let (sections, parts) = (sections.clone(), from(index).collect());
            let wanted = Wanted { query, stage, sections, parts, machine: Some(os::machine()) };
            self.open(*place, wanted)
        });
        let mut opened: Vec<_> = try_join_all(opened).await?;
        let (arrivals, mut blocks) = (Arrivals::new(most), Vec::new());
        for (place, part) in &parts {
            let unnamed = || PolarsFailure::new("protocol", "it is not said where some of the task's input is");
            let at = opened.get_mut(*place as usize).ok_or_else(unnamed)?;
            let id = at.wanted.id(part);
            let worker = at.place.worker;
            let (mark, homes) = at.found.pop_front().flatten().ok_or_else(|| gone(id, worker))?;
            if mark != form.mark() {
                return Err(lost(id, worker, "its columns are others than the plan says"));
            }
            let mut row = part.rows.map_or(0, |rows| rows.offset);
            for home in homes {
                if let Home::Comes(chosen) = &home {
                    let end = part.rows.map(|rows| rows.offset + rows.len);
                    at.comes.push_back(Coming { number: blocks.len(), id, chosen: *chosen, row, end });
                    row += u64::from(chosen.rows);
                }
                blocks.push(Source { home, of: id, worker });
            }
        }
        let bringing = opened.into_iter().filter(|opened| !opened.comes.is_empty()).map(|opened| {
            let Opened { place, wanted, incoming, comes, .. } = opened;
            let bring =
                Bring { host: Arc::clone(self), place, wanted, comes, incoming, arrivals: Arc::clone(&arrivals) };
            self.runtime.handle().spawn(bring.run()).abort_handle()
        });
        let bringing = bringing.collect();
        Ok(Reading::new(form, blocks, arrivals, bringing))
    }

    /// One output, whole, for whoever may keep it.
    ///
    /// # Errors
    /// As [`begin`](Self::begin), or it is lost on the way.
    pub(crate) async fn rows(
        self: &Arc<Self>,
        place: Place,
        id: PartitionId,
        form: &Arc<Form>,
    ) -> Result<DataFrame, TaskFailure> {
        if self.is_here(&place)
            && let Some(rows) = self.store.at_hand(id, form)
        {
            return rows.map_err(|e| lost(id, place.worker, e.to_string()));
        }
        let of = (id.task.query, id.task.stage);
        let reading = self.begin(of, Feed::of(place, id), Arc::clone(form), AHEAD).await?.copied();
        // Decoding is work, and may touch the disk.
        let runtime = self.runtime.clone();
        let all = move || runtime.wait(reading.all());
        self.runtime.spawn_blocking(all).await.unwrap_or_else(|e| Err(TaskFailure::Panicked(e.to_string())))
    }

    /// Asks a worker, or this process, which blocks there are.
    async fn open(&self, place: Place, mut wanted: Wanted) -> Result<Opened, TaskFailure> {
        let (mut found, mut incoming) = (VecDeque::new(), None);
        if self.is_here(&place) {
            found.extend(wanted.parts.iter().map(|part| self.store.find(&wanted, part)));
            return Ok(Opened { place, wanted, found, incoming, comes: VecDeque::new() });
        }
        for parts in wanted.parts.clone().chunks(PARTS) {
            let mut some = Wanted { parts: parts.to_vec(), ..wanted.clone() };
            let (mut head, mut from) = self.transfer(&place, some.clone()).await?;
            let map = |path: &PathBuf| {
                let mapped = self.store.beside(path).map(Arc::new);
                mapped.inspect_err(|error| tracing::debug!(%error, path = %path.display(), "not mapped, but sent"))
            };
            let mut files = head.files.iter().map(map).collect::<Result<Vec<_>, _>>().unwrap_or_default();
            if files.len() < head.files.len() {
                (some.machine, wanted.machine) = (None, None);
                (head, from) = self.transfer(&place, some).await?;
                files.clear();
            }
            let near = |listed: &Listed| files.get(listed.file? as usize);
            let comes = |listed: &Listed| near(listed).is_none() && !listed.chosen.is_empty();
            // That of the first block that comes; the others are begun again when it is their turn.
            if head.outputs.iter().flatten().any(comes) {
                incoming.get_or_insert(from);
            }
            let homes = head.outputs.into_iter().map(|listed| {
                let listed = listed?;
                let (near, Listed { mark, chosen, .. }) = (near(&listed), listed);
                let home = |chosen| match near {
                    Some(file) => Home::Near(Arc::clone(file), chosen),
                    None => Home::Comes(chosen),
                };
                Some((mark, chosen.into_iter().map(home).collect()))
            });
            found.extend(homes);
        }
        Ok(Opened { place, wanted, found, incoming, comes: VecDeque::new() })
    }

    /// Begins a transfer of blocks: what it says of them, and then the blocks.
    async fn transfer(&self, place: &Place, wanted: Wanted) -> Result<(Head, Incoming), TaskFailure> {
        let (outputs, first) = (wanted.parts.len(), wanted.parts.first().map(|part| wanted.id(part)));
        let fetch = self.fetch_blocks(place, wanted).await?;
        let mut incoming = Incoming::new(fetch);
        let failed = |why: String| TaskFailure::Transfer { from: place.worker.to_string(), why };
        let read = async {
            let mut prefix = [0; HEAD_PREFIX];
            prefix.copy_from_slice(&incoming.take(HEAD_PREFIX).await?);
            match head_size(prefix) {
                size if size > MAX_MESSAGE => Err(FetchError::Protocol("it lists too many blocks")),
                size => incoming.take(size).await,
            }
        };
        let head = read.await.map_err(|error| match (error, first) {
            // It fails before it is heard which it is.
            (FetchError::SourceFailed, Some(id)) => lost(id, place.worker, UNREADABLE),
            (error, _) => failed(error.to_string()),
        })?;
        let head = Head::decode(&head, outputs).ok_or_else(|| failed("it does not say what comes".to_owned()))?;
        Ok((head, incoming))
    }
}

fn gone(id: PartitionId, from: WorkerId) -> TaskFailure {
    lost(id, from, "it is not there any more")
}

/// What is read from one place.
struct Opened {
    place: Place,
    wanted: Wanted,
    /// Of each part, in order.
    found: VecDeque<Option<(u32, Vec<Home>)>>,
    incoming: Option<Incoming>,
    comes: VecDeque<Coming>,
}

/// A block that is to come.
struct Coming {
    number: usize,
    id: PartitionId,
    chosen: Chosen,
    /// Its first row, and the row after the last that is wanted, as its output counts them.
    row: u64,
    end: Option<u64>,
}

/// A transfer whose bytes are taken piece by piece.
pub(super) struct Incoming {
    fetch: Fetch,
    left: Bytes,
}

impl Incoming {
    pub(super) fn new(fetch: Fetch) -> Self {
        Self { fetch, left: Bytes::new() }
    }

    pub(super) async fn take(&mut self, len: usize) -> Result<Bytes, FetchError> {
        if self.left.len() >= len {
            return Ok(self.left.split_to(len));
        }
        let mut taken = BytesMut::with_capacity(len.min(1 << 20));
        loop {
            let more = self.left.split_to(self.left.len().min(len - taken.len()));
            taken.extend_from_slice(&more);
            if taken.len() == len {
                return Ok(taken.freeze());
            }
            let next = self.fetch.next().await?;
            self.left = next.ok_or(FetchError::Truncated { got: taken.len() as u64, total: len as u64 })?;
        }
    }
}

/// Brings the blocks of one worker, in order.
struct Bring {
    host: Arc<Host>,
    place: Place,
    wanted: Wanted,
    comes: VecDeque<Coming>,
    incoming: Option<Incoming>,
    arrivals: Arc<Arrivals>,
}

impl Bring {
    async fn run(mut self) {
        while !self.comes.is_empty() {
            let (arrivals, comes) = (Arc::clone(&self.arrivals), &self.comes);
            let brings = |number: usize| comes.binary_search_by_key(&number, |coming| coming.number).is_ok();
            if timeout(PATIENCE, arrivals.room(brings)).await.is_err() {
                self.incoming = None;
                arrivals.room(brings).await;
            }
            match self.next().await {
                Ok((number, block)) => self.arrivals.put(number, block),
                Err(failure) => return drop(self.arrivals.fail(failure)),
            }
        }
    }

    /// The next block. A transfer that breaks is begun again once.
    async fn next(&mut self) -> Result<(usize, Bytes), TaskFailure> {
        let (mut broken, worker) = (false, self.place.worker);
        loop {
            let incoming = match &mut self.incoming {
                Some(incoming) => incoming,
                None => {
                    let again = self.again().await?;
                    self.incoming.insert(again)
                }
            };
            let Some(Coming { number, id, chosen, .. }) = self.comes.front() else {
                return Err(TaskFailure::Cancelled);
            };
            match (incoming.take(chosen.block.len as usize).await, broken) {
                (Ok(block), _) => {
                    check(&block, chosen.block.crc).map_err(|e| lost(*id, worker, e.to_string()))?;
                    let number = *number;
                    self.comes.pop_front();
                    return Ok((number, block));
                }
                (Err(FetchError::SourceFailed), _) => return Err(lost(*id, worker, UNREADABLE)),
                (Err(error), true) => {
                    return Err(TaskFailure::Transfer { from: worker.to_string(), why: error.to_string() });
                }
                (Err(error), false) => {
                    tracing::debug!(%error, from = %worker, "a transfer is begun again");
                    broken = true;
                    self.incoming = None;
                }
            }
        }
    }

    /// Begins the transfer of what is left.
    async fn again(&self) -> Result<Incoming, TaskFailure> {
        let mut parts: Vec<(Part, PartitionId)> = Vec::new();
        for Coming { id, row, end, .. } in &self.comes {
            if parts.last().is_some_and(|(_, last)| last == id) {
                continue;
            }
            if parts.len() == PARTS {
                break;
            }
            let rows = RowRange { offset: *row, len: end.unwrap_or(u64::MAX) - row };
            parts.push((Part { task: id.task.index, attempt: id.attempt, rows: Some(rows) }, *id));
        }
        let wanted = Wanted { parts: parts.iter().map(|(part, _)| *part).collect(), ..self.wanted.clone() };
        let (head, incoming) = self.host.transfer(&self.place, wanted).await?;
        let mut expected = self.comes.iter();
        for (listed, (_, id)) in head.outputs.into_iter().zip(parts) {
            let Listed { chosen, .. } = listed.ok_or_else(|| gone(id, self.place.worker))?;
            let same = chosen
                .iter()
                .all(|chosen| expected.next().is_some_and(|coming| coming.id == id && coming.chosen == *chosen));
            if !same {
                return Err(lost(id, self.place.worker, "its worker says something else of it than before"));
            }
        }
        Ok(incoming)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use polars::prelude::*;
    use regatta_remote::{Authority, DataReader, DataSource, Node, PeerId, Role, Runtime};

    use super::*;
    use crate::sched::{Attempt, TaskId};
    use crate::store::Store;
    use crate::testing::eventually;

    /// A store, and how often it was asked for something.
    struct Counted(Arc<Store>, AtomicUsize);

    impl DataSource for Counted {
        fn open(&self, ticket: &[u8], peer: PeerId) -> Result<Box<dyn DataReader>, String> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.open(ticket, peer)
        }

        fn delivered(&self, ticket: &[u8], peer: PeerId) {
            self.0.delivered(ticket, peer);
        }
    }

    /// A worker with a store, and a reader in another process, as far as they can tell.
    struct Two {
        runtime: Runtime,
        base: tempfile::TempDir,
        store: Arc<Store>,
        source: Arc<Counted>,
        worker: Node,
        host: Arc<Host>,
        place: Place,
    }

    fn node(authority: &Authority, runtime: &Runtime) -> (Node, SocketAddr) {
        let identity = authority.issue(Role::Worker).unwrap();
        let node = Node::bind(identity, "127.0.0.1:0".parse().unwrap(), runtime).unwrap();
        let address = node.address().unwrap();
        (node, address)
    }

    impl Two {
        /// Whose files the reader may not map: they are sent.
        fn new() -> Self {
            Self::with("elsewhere/reader")
        }

        fn with(reader_in: &str) -> Self {
            Self::over(&["worker"], &[reader_in])
        }

        fn over(worker_in: &[&str], reader_in: &[&str]) -> Self {
            let runtime = Runtime::new("feeding", 2).unwrap();
            let authority = Authority::new().unwrap();
            let base = tempfile::tempdir().unwrap();
            let folder = |name: &str| {
                std::fs::create_dir_all(base.path().join(name)).unwrap();
                base.path().canonicalize().unwrap().join(name)
            };
            let (worker, address) = node(&authority, &runtime);
            let folders = |names: &[&str]| names.iter().map(|name| folder(name)).collect();
            let store = Store::over(folders(worker_in));
            let source = Arc::new(Counted(Arc::clone(&store), AtomicUsize::new(0)));
            worker.serve_data(Arc::<Counted>::clone(&source));
            let (reader, _) = node(&authority, &runtime);
            let host = Host::new(runtime.clone(), Store::over(folders(reader_in)), Some(reader), None);
            let place = Place { worker: WorkerId(3), node: Some((worker.id(), address)) };
            Self { runtime, base, store, source, worker, host, place }
        }

        /// So many outputs, of which all but the last are several blocks in a file.
        fn outputs(&self, count: u32) -> (Vec<PartitionId>, Arc<Form>, DataFrame) {
            let rows = |from: i64, rows: i64| df!["n" => (from..from + rows).collect::<Vec<_>>()].unwrap();
            let (mut ids, mut all) = (Vec::new(), rows(0, 0));
            for index in 0..count {
                let task = TaskId { query: QueryId(1), stage: StageId(0), index };
                let id = PartitionId { task, attempt: Attempt(1) };
                let left = rows(all.height() as i64, if index + 1 == count { 10 } else { 300_000 });
                all.vstack_mut(&left).unwrap();
                self.store.keep(id, left).unwrap();
                ids.push(id);
            }
            (ids, Form::new(all.schema()), all)
        }

        fn begin(&self, ids: &[PartitionId], form: &Arc<Form>, most: usize) -> Result<Reading, TaskFailure> {
            let feed = Feed::new(0..u32::MAX, ids.iter().map(|id| (self.place, Part::all(*id))));
            let reading = self.host.begin((QueryId(1), StageId(0)), feed, Arc::clone(form), most);
            self.runtime.handle().block_on(reading)
        }

        fn rows(&self, reading: &Reading, blocks: std::ops::Range<usize>) -> Result<DataFrame, TaskFailure> {
            self.runtime.handle().block_on(reading.rows(blocks))
        }

        /// Changes the one file of the store.
        fn spoil(&self, how: impl FnOnce(&Path)) {
            how(&std::fs::read_dir(self.base.path().join("worker")).unwrap().next().unwrap().unwrap().path());
        }
    }

    impl Drop for Two {
        fn drop(&mut self) {
            self.runtime.clone().shutdown(Duration::from_secs(2));
        }
    }

    const MIB: usize = 1 << 20;

    /// docs/book/src/scheduler.md adds them up.
    #[test]
    fn what_passes_by_in_a_task_is_what_it_is_charged_at_most() {
        let (pipelines, in_flight) = (8, 7);
        let morsels = pipelines * in_flight * crate::store::GROUP;
        let handed_over = (crate::engine::HAND_OVER + 1) * crate::store::GROUP;
        let all = AHEAD + crate::store::WRITING + morsels + handed_over;
        assert!(all as u64 <= crate::sched::PASSING, "{} MiB", all / MIB);
    }

    #[test]
    fn a_slow_reader_gets_every_row_in_order_and_no_more_waits_for_it_than_its_bound() {
        let two = Two::new();
        let (ids, form, all) = two.outputs(5);
        let reading = two.begin(&ids, &form, MIB).unwrap();
        let blocks = reading.groups();
        let (direct, passed_on) = (reading.fetched(|_| false), reading.fetched(|_| true));
        assert_eq!((direct.rows, direct.relayed, passed_on.network), (all.height() as u64, 0, 0));
        assert!(direct.network > 0 && passed_on.relayed == direct.network, "{direct:?} {passed_on:?}");
        assert!(blocks.len() > 10);
        let mut read = DataFrame::empty_with_schema(all.schema());
        for group in blocks {
            // What has come is one block past the bound, at most; then the transfer is given up, and is begun again for the next.
            eventually("the transfer rests", || reading.waiting() > 0 || group.start + 2 > 10);
            assert!(reading.waiting() < 2 * MIB, "{}", reading.waiting());
            if group.start == 2 {
                eventually("it is given up", || two.host.node.as_ref().unwrap().in_hand().transfers == 0);
            }
            read.vstack_mut_owned(two.rows(&reading, group).unwrap()).unwrap();
        }
        assert!(read.equals(&all));
        assert_eq!(reading.waiting(), 0);
    }

    #[test]
    fn a_block_that_somebody_waits_for_comes_however_full_it_is() {
        let two = Two::new();
        let (ids, form, all) = two.outputs(4);
        let reading = two.begin(&ids, &form, 1).unwrap();
        let groups = reading.groups();
        // Backwards: all before it must come first, past the bound.
        let mut parts: Vec<_> = groups.iter().rev().map(|group| two.rows(&reading, group.clone()).unwrap()).collect();
        parts.reverse();
        let read = parts.into_iter().reduce(|a, b| a.vstack(&b).unwrap()).unwrap();
        assert!(read.equals(&all));
    }

    #[test]
    fn some_rows_of_many_outputs_come_though_their_transfer_is_begun_anew() {
        let two = Two::new();
        let (ids, form, all) = two.outputs(3);
        let rows = [(100_000, 200_000), (0, 300_000), (3, 5)];
        let parts = ids
            .iter()
            .zip(rows)
            .map(|(id, (offset, len))| (two.place, Part { rows: Some(RowRange { offset, len }), ..Part::all(*id) }));
        let feed = Feed::new(0..u32::MAX, parts);
        let reading = two.host.begin((QueryId(1), StageId(0)), feed, form, 1);
        let reading = two.runtime.handle().block_on(reading).unwrap();
        eventually("it is given up", || two.host.node.as_ref().unwrap().in_hand().transfers == 0);
        let read = two.runtime.handle().block_on(reading.all()).unwrap();
        let expected = all.slice(100_000, 500_000).vstack(&all.slice(600_003, 5)).unwrap();
        assert!(read.equals(&expected), "{read}");
    }

    #[test]
    fn a_reader_that_stops_leaves_no_transfer() {
        let two = Two::new();
        let (ids, form, _) = two.outputs(5);
        let reading = two.begin(&ids, &form, MIB).unwrap();
        two.rows(&reading, 0..1).unwrap();
        drop(reading);
        let none = |node: &Node| node.in_hand().transfers == 0;
        eventually("no transfer is left", || none(two.host.node.as_ref().unwrap()) && none(&two.worker));
    }

    /// What a reader is told, who is the first to hear of it.
    #[track_caller]
    fn assert_lost(result: Result<impl std::fmt::Debug, TaskFailure>, index: u32, word: &str) {
        let failure = result.unwrap_err();
        let TaskFailure::LostInput { task, attempt: 1, from, why } = &failure else { panic!("{failure}") };
        assert!(task.index == index && from == "worker 3" && why.contains(word), "{failure}");
        assert!(failure.is_retryable());
    }

    #[test]
    fn what_is_gone_or_changed_or_cut_off_is_told_with_whose_it_was_and_whose_fault() {
        let two = Two::new();
        let (ids, form, _) = two.outputs(3);
        two.store.drop_attempt(ids[1].task, Attempt(1));
        assert_lost(two.begin(&ids, &form, MIB).map(|_| ()), 1, "not there any more");
        let others = [ids[0], ids[2]];
        two.spoil(|file| {
            let mut bytes = std::fs::read(file).unwrap();
            bytes[MIB] ^= 1;
            std::fs::write(file, bytes).unwrap();
        });
        let reading = two.begin(&others, &form, MIB).unwrap();
        assert_lost(two.runtime.handle().block_on(reading.all()), 0, "changed");
        // Every other that asks hears it at once.
        assert_lost(two.rows(&reading, 3..4), 0, "changed");
        two.spoil(|file| std::fs::write(file, "").unwrap());
        assert_lost(two.begin(&others, &form, MIB).map(|_| ()), 0, "not there any more");
        let wrong = Form::new(df!["n" => ["text"]].unwrap().schema());
        assert_lost(two.begin(&ids[2..], &wrong, MIB).map(|_| ()), 2, "columns");
    }

    #[test]
    fn a_reader_on_the_same_machine_maps_the_files_of_its_session_and_is_sent_the_rest() {
        let two = Two::with("reader");
        let (ids, form, all) = two.outputs(3);
        let reading = two.begin(&ids, &form, MIB).unwrap();
        let read = two.runtime.handle().block_on(reading.all()).unwrap();
        assert!(read.equals(&all));
        // What is mapped needs its holder no more.
        let reading = two.begin(&ids[..2], &form, MIB).unwrap();
        two.host.forget(two.worker.id());
        two.store.drop_query(QueryId(1));
        let read = two.runtime.handle().block_on(reading.all()).unwrap();
        assert!(read.equals(&all.slice(0, 600_000)));
        drop(reading);
        assert!(read.equals(&all.slice(0, 600_000)));
    }

    #[test]
    fn files_in_several_folders_are_mapped_all_or_sent_all() {
        for (reader_in, sent) in [(&["one/reader", "other/reader"], 1), (&["one/reader", "elsewhere/reader"], 2)] {
            let two = Two::over(&["one/worker", "other/worker"], reader_in);
            let (ids, form, all) = two.outputs(PARTS as u32);
            let reading = two.begin(&ids, &form, MIB).unwrap();
            let read = two.runtime.handle().block_on(reading.all()).unwrap();
            assert!(read.equals(&all));
            assert_eq!(two.source.1.load(Ordering::Relaxed), sent, "asked again where one cannot be mapped");
        }
    }

    #[test]
    fn where_nothing_comes_of_the_first_outputs_the_transfer_of_the_first_that_comes_is_the_one_that_is_read() {
        let two = Two::with("reader");
        let (ids, form, all) = two.outputs(PARTS as u32 + 2);
        let reading = two.begin(&ids, &form, MIB).unwrap();
        let read = two.runtime.handle().block_on(reading.all()).unwrap();
        assert!(read.equals(&all));
        assert_eq!(two.source.1.load(Ordering::Relaxed), 2, "one for each so many outputs, and none is begun anew");
    }

    #[test]
    fn what_is_changed_in_a_file_that_is_mapped_is_lost_too() {
        let two = Two::with("reader");
        let (ids, form, _) = two.outputs(2);
        two.spoil(|file| {
            let mut bytes = std::fs::read(file).unwrap();
            bytes[MIB] ^= 1;
            std::fs::write(file, bytes).unwrap();
        });
        let reading = two.begin(&ids, &form, MIB).unwrap();
        assert_lost(two.runtime.handle().block_on(reading.all()), 0, "changed");
    }

    #[test]
    fn a_holder_that_cannot_be_reached_is_an_error_that_names_it() {
        let mut two = Two::new();
        let (ids, form, _) = two.outputs(1);
        let (node, _) = two.place.node.unwrap();
        two.place.node = Some((node, "127.0.0.1:9".parse().unwrap()));
        let failure = two.begin(&ids, &form, MIB).map(|_| ()).unwrap_err();
        assert!(matches!(&failure, TaskFailure::Transfer { from, .. } if from == "worker 3"), "{failure}");
    }
}
