use futures_util::FutureExt;
use polars::prelude::*;
use regatta_remote::{DataSource, encode};

use super::*;
use crate::sched::{Attempt, StageId, TaskId, WorkerId};

fn output(query: u64, index: u32) -> PartitionId {
    let task = TaskId { query: QueryId(query), stage: StageId(0), index };
    PartitionId { task, attempt: Attempt(1) }
}

fn numbers(rows: i64) -> DataFrame {
    df!["n" => (0..rows).collect::<Vec<_>>(), "s" => (0..rows).map(|n| format!("row number {n}")).collect::<Vec<_>>()]
        .unwrap()
}

/// Writes a frame in pieces, as one section; returns what was sealed.
fn written(store: &Arc<Store>, id: PartitionId, frame: &DataFrame) -> Output {
    let mut writer = store.writer(id, &Form::new(frame.schema()));
    for offset in (0..frame.height()).step_by(1000) {
        writer.write(0, frame.slice(offset as i64, 1000)).unwrap();
    }
    writer.seal().unwrap()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn wanted(ids: &[PartitionId], sections: std::ops::Range<u32>, rows: Option<RowRange>) -> Wanted {
    let parts = ids.iter().map(|id| Part { rows, ..Part::all(*id) }).collect();
    Wanted { query: ids[0].task.query, stage: ids[0].task.stage, sections, parts, machine: None }
}

fn whole(id: PartitionId) -> Wanted {
    wanted(&[id], 0..u32::MAX, None)
}

/// What a reader in this process gets.
fn here(store: &Arc<Store>, wanted: &Wanted, schema: &SchemaRef) -> Result<DataFrame, TaskFailure> {
    let form = Form::new(schema);
    let mut blocks = Vec::new();
    for part in &wanted.parts {
        let (of, worker) = (wanted.id(part), WorkerId(7));
        let (mark, homes) = store.find(wanted, part).ok_or_else(|| lost(of, worker, "gone"))?;
        assert_eq!(mark, form.mark());
        blocks.extend(homes.into_iter().map(|home| Source { home, of, worker }));
    }
    let reading = Reading::new(form, blocks, Arrivals::new(1), Vec::new());
    reading.all().now_or_never().expect("all of it is here")
}

/// The bytes that a peer is sent.
fn sent(store: &Store, ticket: &Ticket) -> Result<Vec<u8>, String> {
    let identity = regatta_remote::Authority::new().unwrap().issue(regatta_remote::Role::Worker).unwrap();
    sent_to(store, ticket, &identity)
}

fn sent_to(store: &Store, ticket: &Ticket, identity: &regatta_remote::Identity) -> Result<Vec<u8>, String> {
    let (cluster, role, node) = (identity.cluster(), identity.role(), identity.node());
    let peer = regatta_remote::PeerId { cluster, role, node };
    let mut reader = store.open(&encode(ticket).unwrap(), peer)?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < reader.total() {
        let more = reader.read(1 << 16).map_err(|e| e.to_string())?;
        assert!(!more.is_empty() && more.len() <= 1 << 16);
        bytes.extend_from_slice(&more);
    }
    store.delivered(&encode(ticket).unwrap(), peer);
    Ok(bytes)
}

/// What a reader elsewhere gets.
fn elsewhere(store: &Store, wanted: &Wanted, schema: &SchemaRef) -> Result<DataFrame, String> {
    let form = Form::new(schema);
    let bytes = sent(store, &Ticket::Blocks(wanted.clone()))?;
    let (prefix, bytes) = bytes.split_at(HEAD_PREFIX);
    let (head, mut bytes) = bytes.split_at(head_size(prefix.try_into().unwrap()));
    let mut all = DataFrame::empty_with_schema(schema);
    for listed in Head::decode(head, wanted.parts.len()).expect("a head").outputs {
        let Listed { mark, chosen, file } = listed.ok_or("gone")?;
        assert_eq!(file, None);
        assert_eq!(mark, form.mark());
        for Chosen { block, from, rows } in chosen {
            let (block_bytes, rest) = bytes.split_at(block.len as usize);
            bytes = rest;
            check(block_bytes, block.crc).map_err(|e| e.to_string())?;
            let frame = form.decode(block_bytes).map_err(|e| e.to_string())?;
            all.vstack_mut(&frame.slice(i64::from(from), rows as usize)).unwrap();
        }
    }
    assert!(bytes.is_empty());
    Ok(all)
}

/// Both must be what it should be.
#[track_caller]
fn assert_reads(store: &Arc<Store>, wanted: &Wanted, expected: &DataFrame) {
    let mapped = here(store, wanted, expected.schema()).unwrap();
    assert_eq!(mapped.schema(), expected.schema());
    assert!(mapped.equals_missing(expected), "{wanted:?}: {mapped} is not {expected}");
    let fetched = elsewhere(store, wanted, expected.schema()).unwrap();
    assert_eq!(fetched.schema(), expected.schema());
    assert!(fetched.equals_missing(expected), "{wanted:?}: {fetched} is not {expected}");
}

#[test]
fn small_outputs_stay_in_memory_large_ones_share_a_file_and_both_come_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    for (query, rows, on_disk) in [(1, 10, 0), (2, 100_000, 1)] {
        let frame = numbers(rows);
        for index in 0..3 {
            let left = written(&store, output(query, index), &frame);
            assert_eq!(left.rows, rows as u64);
        }
        assert_eq!(files(folder.path()), on_disk);
        for index in 0..3 {
            assert_reads(&store, &whole(output(query, index)), &frame);
        }
        store.drop_attempt(output(query, 1).task, Attempt(1));
        assert!(elsewhere(&store, &whole(output(query, 1)), frame.schema()).is_err());
        assert_reads(&store, &whole(output(query, 2)), &frame);
        store.drop_query(QueryId(query));
        assert_eq!((store.held(), store.files.len(), files(folder.path())), (0, 0, 0));
    }
}

#[test]
fn what_was_read_stays_what_it_was_when_its_query_and_its_attempt_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let frame = df!["n" => (0..2_000_000i64).collect::<Vec<_>>()].unwrap();
    (0..2).for_each(|index| _ = written(&store, output(1, index), &frame));
    let read = here(&store, &whole(output(1, 0)), frame.schema()).unwrap();
    store.drop_attempt(output(1, 0).task, Attempt(1));
    assert!(read.equals(&frame));
    let other = here(&store, &whole(output(1, 1)), frame.schema()).unwrap();
    store.drop_query(QueryId(1));
    assert!(read.equals(&frame) && other.equals(&frame));
}

#[test]
fn small_outputs_have_a_bound_for_all_of_them_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store { small: Allowance::new(1500), ..Arc::into_inner(Store::new(folder.path())).unwrap() };
    let (store, frame) = (Arc::new(store), numbers(10));
    let sizes: u64 = (0..4).map(|index| written(&store, output(1, index), &frame).bytes).sum();
    assert!(sizes > 1500);
    assert_eq!(files(folder.path()), 1, "what is more is on disk");
    (0..4).for_each(|index| assert_reads(&store, &whole(output(1, index)), &frame));
    store.drop_query(QueryId(1));
    (0..2).for_each(|index| _ = written(&store, output(2, index), &frame));
    assert_eq!(files(folder.path()), 0, "the room came back");
}

#[test]
fn an_output_that_is_not_sealed_is_not_seen_and_leaves_neither_file_nor_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    // Past a run.
    let frame = df!["n" => (0..5_000_000i64).collect::<Vec<_>>()].unwrap();
    let form = Form::new(frame.schema());
    let start = |index| {
        let mut writer = store.writer(output(1, index), &form);
        writer.write(0, frame.clone()).unwrap();
        // Waits for the run before.
        writer.write(0, frame.clone()).unwrap();
        writer
    };
    let on_disk = || {
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        entries.map(|file| std::os::unix::fs::MetadataExt::blocks(&file) * 512).sum::<u64>()
    };
    let (first, second) = (start(0), start(1));
    assert_eq!(files(folder.path()), 1);
    assert!(store.get(output(1, 0)).is_none());
    second.seal().unwrap();
    let both = on_disk();
    drop(first);
    crate::testing::eventually("what the first has written is given back", || on_disk() < both * 2 / 3);
    let expected = frame.vstack(&frame).unwrap();
    assert!(here(&store, &whole(output(1, 1)), frame.schema()).unwrap().equals(&expected));
    store.drop_query(QueryId(1));
    assert_eq!(files(folder.path()), 0);
}

#[test]
fn rows_without_a_column_are_as_many_as_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let frame = DataFrame::new(250_000, Vec::new()).unwrap();
    let mut writer = store.writer(output(1, 0), &Form::new(frame.schema()));
    writer.write(0, frame.clone()).unwrap();
    assert_eq!(writer.seal().unwrap().rows, 250_000);
    let read = here(&store, &whole(output(1, 0)), frame.schema()).unwrap();
    assert_eq!((read.height(), read.width()), (250_000, 0));
}

#[test]
fn an_empty_output_has_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let frame = numbers(0);
    written(&store, output(1, 0), &frame);
    assert_reads(&store, &whole(output(1, 0)), &frame);
}

#[test]
fn categories_that_grow_between_batches_come_back_and_enums_and_what_is_nested_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let batch = |words: &[Option<&str>]| {
        let dtype = DataType::from_categories(Categories::global());
        let frozen = DataType::from_frozen_categories(FrozenCategories::new(["oar", "mast", "keel"]).unwrap());
        let frame = df!["c" => words]
            .unwrap()
            .lazy()
            .with_columns([col("c").cast(dtype.clone()).alias("kind"), col("c").cast(frozen).alias("part")]);
        let nested = [
            concat_list([col("kind"), col("kind")]).unwrap().alias("list"),
            as_struct(vec![col("kind"), col("part")]).alias("both"),
            as_struct(vec![concat_list([col("part")]).unwrap()]).alias("deep"),
        ];
        frame.with_columns(nested).collect().unwrap()
    };
    let (first, second) = (batch(&[Some("oar"), None, Some("mast")]), batch(&[Some("keel"), Some("oar")]));
    let mut writer = store.writer(output(1, 0), &Form::new(first.schema()));
    writer.write(0, first.clone()).unwrap();
    writer.write(0, second.clone()).unwrap();
    writer.seal().unwrap();
    assert_reads(&store, &whole(output(1, 0)), &first.vstack(&second).unwrap());
}

#[test]
fn what_is_compressed_is_smaller_and_comes_back_whole_to_whoever_does_not_know_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    for (index, rows) in [(0, 10), (1, 300_000)] {
        let frame = numbers(rows);
        let id = output(1, index);
        let mut writer = store.writer(id, &Form::compressed(frame.schema()));
        writer.write(1, frame.clone()).unwrap();
        let (left, sizes) = writer.seal_sections().unwrap();
        let stored = store.get(id).unwrap().stored();
        assert!(left.rows == rows as u64 && (rows < 1000 || stored < left.bytes / 2), "{stored} of {}", left.bytes);
        assert_eq!(
            sizes,
            crate::sched::Sizes::of([(1, left.bytes)]),
            "who reads it is told what it takes when it is read"
        );
        assert_reads(&store, &whole(id), &frame);
        if rows > 1000 {
            assert_reads(
                &store,
                &wanted(&[id], 1..2, Some(RowRange { offset: 77_777, len: 99 })),
                &frame.slice(77_777, 99),
            );
        }
    }
}

#[test]
fn a_packed_block_that_claims_more_than_lz4_can_hold_is_an_error_before_memory_is_asked_for() {
    let frame = numbers(10_000);
    let form = Form::compressed(frame.schema());
    let mut encoded = form::Encoded::default();
    form.encode(frame.clone(), &mut encoded).unwrap();
    let [head, body] = encoded.parts();
    let whole = [head, body].concat();
    assert!(form.decode(&whole).unwrap().equals(&frame));
    let claimed = i64::from_le_bytes(body[..8].try_into().unwrap());
    assert_eq!(claimed, 80_000, "the numbers come first");
    // The next multiple that no reader refuses for another reason, up to what no machine has.
    for claim in [1 << 33, 1 << 50, i64::MAX - 7] {
        let mut block = whole.clone();
        block[head.len()..head.len() + 8].copy_from_slice(&i64::to_le_bytes(claim));
        let error = form.decode(&block).unwrap_err().to_string();
        assert!(error.contains(&format!("claims {claim} bytes")), "{error}");
    }
}

#[test]
fn a_slice_leaves_its_own_texts_and_no_others_nested_ones_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let texts: Vec<_> =
        (0..20_000).map(|n| format!("a text that is longer than a view has room for, number {n}")).collect();
    let frame = df!["text" => texts].unwrap().lazy().with_columns([
        concat_list([col("text"), lit(1).cast(DataType::String)]).unwrap().alias("list"),
        as_struct(vec![col("text")]).alias("struct"),
    ]);
    let frame = frame.collect().unwrap();
    for columns in ["text", "list", "struct"] {
        let column = frame.select([columns]).unwrap();
        let ten = column.slice(10_000, 10);
        let left = store.keep(output(1, 0), ten.clone()).unwrap();
        assert!(left.bytes < 8192, "{columns}: {} bytes", left.bytes);
        assert_reads(&store, &whole(output(1, 0)), &ten);
    }
}

#[test]
fn what_was_changed_or_cut_off_is_not_served_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let frame = numbers(100_000);
    written(&store, output(1, 0), &frame);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = elsewhere(&store, &whole(output(1, 0)), frame.schema()).unwrap_err();
    assert!(error.contains("changed"), "{error}");
    let error = here(&store, &whole(output(1, 0)), frame.schema()).unwrap_err();
    assert!(matches!(&error, TaskFailure::LostInput { attempt: 1, why, .. } if why.contains("changed")), "{error}");
}

#[test]
fn a_file_that_was_cut_off_is_an_error_and_no_signal() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let frame = numbers(100_000);
    written(&store, output(1, 0), &frame);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&path, "").unwrap();
    assert!(elsewhere(&store, &whole(output(1, 0)), frame.schema()).is_err());
    let error = here(&store, &whole(output(1, 0)), frame.schema()).unwrap_err();
    assert!(matches!(&error, TaskFailure::LostInput { why, .. } if why.contains("cut off")), "{error}");
}

#[test]
fn no_other_files_are_mapped_than_those_of_stores_beside_it() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path().canonicalize().unwrap();
    for folder in ["mine", "other", "far/store"] {
        std::fs::create_dir_all(base.join(folder)).unwrap();
        std::fs::write(base.join(folder).join("1.blocks"), "x").unwrap();
    }
    std::fs::write(base.join("other/secret"), "x").unwrap();
    std::os::unix::fs::symlink(base.join("other/secret"), base.join("other/2.blocks")).unwrap();
    std::fs::create_dir(base.join("other/3.blocks")).unwrap();
    let store = Store::new(&base.join("mine"));
    for (path, may) in [
        ("other/1.blocks", true),
        ("mine/1.blocks", true),
        ("far/store/1.blocks", false),
        ("other/secret", false),
        ("other/2.blocks", false),
        ("other/3.blocks", false),
        ("other/../far/store/1.blocks", false),
        ("other/4.blocks", false),
    ] {
        assert_eq!(store.beside(&base.join(path)).is_ok(), may, "{path}");
    }
}

#[test]
fn a_batch_is_served_once_and_goes_with_its_offer() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let reader = regatta_remote::Authority::new().unwrap().issue(regatta_remote::Role::Worker).unwrap();
    let offer = store.offer(Bytes::from_static(b"batch"), Some(reader.node()));
    assert!(sent(&store, &offer.ticket()).unwrap_err().contains("is not for"));
    assert_eq!(sent_to(&store, &offer.ticket(), &reader).unwrap(), b"batch");
    assert!(!offer.waits());
    assert!(sent_to(&store, &offer.ticket(), &reader).unwrap_err().contains("no such batch"));
    let offer = store.offer(Bytes::from_static(b"batch"), Some(reader.node()));
    assert_eq!(store.held(), 1);
    drop(offer);
    assert_eq!(store.held(), 0);
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// What the store should be: for each output, the rows of each section in order.
#[test]
fn whatever_is_written_any_sections_and_any_rows_of_any_outputs_come_back_as_in_a_model() {
    let rows = |from: u64, count: u64, wide: bool| {
        let ids: Vec<_> = (from..from + count).collect();
        let text =
            |id: &u64| (!id.is_multiple_of(5)).then(|| if wide { "wide".repeat(2000) } else { format!("text {id}") });
        df!["id" => &ids, "text" => ids.iter().map(text).collect::<Vec<_>>()].unwrap()
    };
    for seed in 1..=30 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::into_inner(Store::new(folder.path())).unwrap();
        let store = Arc::new(Store { small: Allowance::new(dice.below(2) * 40_000), ..store });
        let sections = dice.below(6) as u32 + 1;
        let outputs: Vec<_> = (0..=dice.below(3) as u32).map(|index| output(1, index)).collect();
        let mut model: Vec<Vec<DataFrame>> = Vec::new();
        let (mut id, schema) = (0, Arc::clone(rows(0, 0, false).schema()));
        for of in &outputs {
            let mut writer = store.writer(*of, &Form::new(&schema));
            let mut left = vec![rows(0, 0, false); sections as usize];
            // One output in a few has several runs.
            let wide = dice.below(4) == 0;
            for _ in 0..dice.below(40) {
                let count = dice.below(if wide { 400 } else { 3000 });
                let (section, batch) = (dice.below(sections.into()) as usize, rows(id, count, wide));
                id += count;
                left[section].vstack_mut(&batch).unwrap();
                writer.write(section as u32, batch).unwrap();
            }
            let total: usize = left.iter().map(DataFrame::height).sum();
            assert_eq!(writer.seal().unwrap().rows, total as u64);
            model.push(left);
        }
        for _ in 0..4 {
            let from = dice.below(sections.into()) as u32;
            let to = from + 1 + dice.below(u64::from(sections - from)) as u32;
            let mut expected = rows(0, 0, false);
            // Rows of several sections come run by run: their order is that of each section.
            for left in &model {
                left[from as usize..to as usize].iter().for_each(|rows| drop(expected.vstack_mut(rows)));
            }
            let read = here(&store, &wanted(&outputs, from..to, None), &schema).unwrap();
            assert!(
                read.sort(["id"], Default::default())
                    .unwrap()
                    .equals_missing(&expected.sort(["id"], Default::default()).unwrap()),
                "seed {seed}"
            );
            let fetched = elsewhere(&store, &wanted(&outputs, from..to, None), &schema).unwrap();
            assert!(fetched.equals_missing(&read), "seed {seed}: the same order here and elsewhere");
            let (at, section) = (dice.below(model.len() as u64) as usize, from as usize);
            let all = &model[at][section];
            let offset = dice.below(all.height() as u64 + 2);
            let len = dice.below(all.height() as u64 + 2);
            let some = wanted(&outputs[at..=at], from..from + 1, Some(RowRange { offset, len }));
            assert_reads(&store, &some, &all.slice(offset as i64, len as usize));
        }
        store.drop_query(QueryId(1));
        assert_eq!((store.held(), files(folder.path())), (0, 0));
    }
}

/// What a worker that takes these outputs over puts into its store, of so many of the bytes that come.
fn taken_over(
    from: &Store,
    ids: &[PartitionId],
    to: &Store,
    bytes: Option<usize>,
) -> Result<Vec<PartitionId>, TaskFailure> {
    let sent = sent(from, &Ticket::Whole(ids.to_vec())).unwrap();
    let (prefix, sent) = sent.split_at(HEAD_PREFIX);
    let (head, come) = sent.split_at(head_size(prefix.try_into().unwrap()));
    let mut come = Bytes::copy_from_slice(&come[..bytes.unwrap_or(come.len()).min(come.len())]);
    let mut taken = Vec::new();
    for listing in Listing::of(head).unwrap() {
        let mut taking = Taking::new(listing);
        while let Some(wanted) = taking.wants() {
            if come.len() < wanted {
                return Ok(taken);
            }
            taking.add(to, come.split_to(wanted))?;
        }
        taken.push(taking.seal(to)?);
    }
    assert!(come.is_empty());
    Ok(taken)
}

#[test]
fn outputs_that_move_have_the_same_rows_in_each_section_in_their_order() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (Store::new(folder.path()), Store::new(other.path()));
    let frame = numbers(300_000);
    let form = Form::new(frame.schema());
    // A large one in several runs and sections, a small one, an empty one, and one that is not there.
    let ids = [output(1, 0), output(1, 1), output(1, 2), output(1, 3)];
    let mut writer = from.writer(ids[0], &form);
    for round in 0..8 {
        for piece in 0..3u32 {
            let rows = frame.slice(i64::from(piece) * 100_000, 100_000);
            writer.write(2 - (piece + round) % 3, rows).unwrap();
        }
    }
    writer.seal().unwrap();
    written(&from, ids[1], &numbers(500));
    written(&from, ids[2], &numbers(0));
    assert_eq!(taken_over(&from, &ids, &to, None).unwrap(), ids[..3]);
    for sections in [0..1, 1..2, 2..3, 0..3, 1..u32::MAX] {
        for rows in [None, Some(RowRange { offset: 123_456, len: 654_321 })] {
            let wanted = wanted(&ids[..1], sections.clone(), rows);
            let [before, after] = [&from, &to].map(|store| here(store, &wanted, frame.schema()).unwrap());
            assert!(before.height() > 0 && before.equals(&after), "{wanted:?}");
            assert!(elsewhere(&to, &wanted, frame.schema()).unwrap().equals(&after), "{wanted:?}");
        }
    }
    for (id, rows) in [(ids[1], 500), (ids[2], 0)] {
        assert!(here(&to, &whole(id), frame.schema()).unwrap().equals(&numbers(rows)));
    }
    assert_eq!(files(other.path()), 1, "the small one is in memory");
    drop(to.drop_query(QueryId(1)));
    assert_eq!((to.held(), files(other.path())), (0, 0));
    // What does not come whole leaves nothing.
    assert!(taken_over(&from, &ids, &to, Some(9 << 20)).unwrap().is_empty());
    drop(to.drop_query(QueryId(1)));
    assert_eq!((to.held(), files(other.path())), (0, 0));
    // Nor does what was changed on its way.
    let sent = sent(&from, &Ticket::Whole(ids[1..2].to_vec())).unwrap();
    let (head, come) = sent[HEAD_PREFIX..].split_at(head_size(sent[..HEAD_PREFIX].try_into().unwrap()));
    let mut changed = come.to_vec();
    changed[1000] ^= 1;
    let mut taking = Taking::new(Listing::of(head).unwrap().remove(0));
    assert!(taking.add(&to, changed.into()).is_err() && to.held() == 0);
    assert!(Listing::of(&head[..head.len() - 1]).is_none());
}

#[test]
fn outputs_take_turns_among_folders_and_leave_out_one_that_is_full() {
    let disks = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = Store::over(disks.iter().map(|disk| disk.path().to_owned()).collect());
    let files = || disks.each_ref().map(|disk| files(disk.path()));
    let frame = numbers(100_000);
    let write = |query| (0..4).for_each(|index| _ = written(&store, output(query, index), &frame));
    write(1);
    assert_eq!(files(), [1, 1], "of all tasks of a stage, in each folder");
    let fill = |disk: &tempfile::TempDir| std::fs::write(disk.path().join(os::FULL), "").unwrap();
    fill(&disks[0]);
    write(2);
    assert_eq!(files(), [2, 2], "what makes it full, and another's in the other");
    for id in [1, 2].into_iter().flat_map(|query| (0..4).map(move |index| output(query, index))) {
        assert!(here(&store, &whole(id), frame.schema()).unwrap().equals(&frame));
        assert!(elsewhere(&store, &whole(id), frame.schema()).unwrap().equals(&frame));
    }
    fill(&disks[1]);
    let full = store.keep(output(3, 0), frame.clone()).unwrap_err();
    assert!(matches!(full, TaskFailure::DiskFull { .. }), "{full}");
    drop((store.drop_query(QueryId(1)), store.drop_query(QueryId(2)), store.drop_query(QueryId(3))));
    assert_eq!((store.held(), files()), (0, [1, 1]));
}
