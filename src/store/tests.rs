use polars::prelude::*;
use regatta_remote::{DataSource, encode};

use super::*;
use crate::sched::{Attempt, StageId, TaskId};

fn partition(query: u64) -> PartitionId {
    let task = TaskId { query: QueryId(query), stage: StageId(0), index: 0 };
    PartitionId { task, attempt: Attempt(1), partition: 0 }
}

fn numbers(rows: i64) -> DataFrame {
    df!["n" => (0..rows).collect::<Vec<_>>(), "s" => (0..rows).map(|n| format!("row number {n}")).collect::<Vec<_>>()]
        .unwrap()
}

/// Writes a frame in pieces; returns what was sealed.
fn written(store: &Arc<Store>, id: PartitionId, frame: &DataFrame) -> Output {
    let mut writer = store.writer(id, frame.schema()).unwrap();
    for offset in (0..frame.height()).step_by(1000) {
        writer.write(&frame.slice(offset as i64, 1000)).unwrap();
    }
    writer.seal().unwrap()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// A partition as a peer reads it.
fn served(store: &Store, ticket: Ticket) -> Result<Vec<u8>, String> {
    let identity = regatta_remote::Authority::new().unwrap().issue(regatta_remote::Role::Worker).unwrap();
    served_to(store, ticket, &identity)
}

fn served_to(store: &Store, ticket: Ticket, identity: &regatta_remote::Identity) -> Result<Vec<u8>, String> {
    let (cluster, role, node) = (identity.cluster(), identity.role(), identity.node());
    let peer = regatta_remote::PeerId { cluster, role, node };
    let mut reader = store.open(&encode(&ticket).unwrap(), peer)?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < reader.total() {
        bytes.extend_from_slice(&reader.read(1 << 16).map_err(|e| e.to_string())?);
    }
    store.delivered(&encode(&ticket).unwrap(), peer);
    Ok(bytes)
}

#[test]
fn small_partitions_stay_in_memory_large_ones_are_files_and_both_come_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    for (query, rows, on_disk) in [(1, 10, 0), (2, 100_000, 1)] {
        let frame = numbers(rows);
        let output = written(&store, partition(query), &frame);
        assert_eq!(output.rows, rows as u64);
        assert_eq!(files(folder.path()), on_disk);
        let mapped = store.get(partition(query)).unwrap().bytes().unwrap();
        assert_eq!(mapped.len() as u64, output.bytes);
        assert!(decode_frame(mapped).unwrap().equals_missing(&frame));
        let fetched = served(&store, Ticket::Partition(partition(query))).unwrap();
        assert!(decode_frame(fetched.into()).unwrap().equals_missing(&frame));
        assert!(store.get(partition(query)).is_some(), "a partition may be read again");
        store.drop_query(QueryId(query));
        assert_eq!((store.held(), files(folder.path())), (0, 0));
    }
}

#[test]
fn a_partition_that_is_not_sealed_is_not_seen_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let frame = numbers(100_000);
    let mut writer = store.writer(partition(1), frame.schema()).unwrap();
    writer.write(&frame).unwrap();
    assert_eq!(files(folder.path()), 1);
    assert!(store.get(partition(1)).is_none());
    drop(writer);
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn an_empty_partition_has_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let frame = numbers(0);
    written(&store, partition(1), &frame);
    let back = decode_frame(store.get(partition(1)).unwrap().bytes().unwrap()).unwrap();
    assert_eq!((back.height(), back.schema()), (0, frame.schema()));
}

#[test]
fn categories_that_grow_between_batches_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let batch = |words: &[&str]| {
        let dtype = DataType::from_categories(Categories::global());
        df!["c" => words].unwrap().lazy().with_column(col("c").cast(dtype)).collect().unwrap()
    };
    let (first, second) = (batch(&["store-oar", "store-mast"]), batch(&["store-keel", "store-oar"]));
    let mut writer = store.writer(partition(1), first.schema()).unwrap();
    writer.write(&first).unwrap();
    writer.write(&second).unwrap();
    writer.seal().unwrap();
    let back = decode_frame(store.get(partition(1)).unwrap().bytes().unwrap()).unwrap();
    assert!(back.equals(&first.vstack(&second).unwrap()), "{back}");
}

#[test]
fn a_file_that_was_changed_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    written(&store, partition(1), &numbers(100_000));
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = served(&store, Ticket::Partition(partition(1))).unwrap_err();
    assert!(error.contains("changed"), "{error}");
}

#[test]
fn rows_of_a_partition_are_served_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let dtype = DataType::from_categories(Categories::global());
    let batch = |from: i32| {
        let ids: Vec<_> = (from..from + 100).collect();
        let words: Vec<_> =
            ids.iter().map(|i| (i % 3 != 0).then(|| format!("a word past twelve bytes {}", i % 7))).collect();
        let frame = df!["id" => &ids, "word" => &words].unwrap().lazy();
        let kinds = frame.with_columns([
            col("word").cast(dtype.clone()).alias("kind"),
            concat_list([col("id")]).unwrap().alias("list"),
        ]);
        kinds.collect().unwrap()
    };
    for columns in [vec!["id", "word", "list"], vec!["id", "kind"]] {
        let whole = [batch(0), batch(100), batch(200)].map(|batch| batch.select(columns.clone()).unwrap());
        let mut writer = store.writer(partition(1), whole[0].schema()).unwrap();
        whole.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.seal().unwrap();
        let [a, b, c] = whole;
        let whole = a.vstack(&b).unwrap().vstack(&c).unwrap();
        for (offset, len) in [(0, 300), (0, 1), (99, 2), (150, 100), (100, 100), (299, 1), (50, 0), (290, 50)] {
            let bytes = served(&store, Ticket::Rows(partition(1), RowRange { offset, len })).unwrap();
            let rows = decode_frame(bytes.into()).unwrap();
            assert!(rows.equals_missing(&whole.slice(offset as i64, len as usize)), "{offset}+{len}: {rows}");
        }
        store.drop_attempt(partition(1).task, partition(1).attempt);
    }
}

#[test]
fn a_batch_is_served_once_and_goes_with_its_offer() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let reader = regatta_remote::Authority::new().unwrap().issue(regatta_remote::Role::Worker).unwrap();
    let offer = store.offer(Bytes::from_static(b"batch"), Some(reader.node()));
    assert!(served(&store, offer.ticket()).unwrap_err().contains("is not for"));
    assert_eq!(served_to(&store, offer.ticket(), &reader).unwrap(), b"batch");
    assert!(!offer.waits());
    assert!(served_to(&store, offer.ticket(), &reader).unwrap_err().contains("no such batch"));
    let offer = store.offer(Bytes::from_static(b"batch"), Some(reader.node()));
    assert_eq!(store.held(), 1);
    drop(offer);
    assert_eq!(store.held(), 0);
}
