use super::super::files::Part;
use super::*;

fn end(at: u64) -> End {
    End::new(at, &[])
}

/// Rows that the splits cover, in order: (file, row).
fn covered(files: &[Layout], splits: &[Split]) -> Vec<(usize, usize)> {
    let whole = |f: usize| (0..files[f].rows().unwrap_or_default()).map(move |row| (f, row)).collect::<Vec<_>>();
    let rows = splits.iter().flat_map(|split| match split {
        Split::Whole => (0..files.len()).flat_map(whole).collect(),
        Split::Files { files, .. } => files.iter().flat_map(|f| whole(*f)).collect(),
        Split::Rows { file, offset, len, .. } => (*offset..offset + len).map(|row| (*file, row)).collect::<Vec<_>>(),
        other => panic!("no split of files: {other}"),
    });
    rows.collect()
}

/// Files of random parts, some empty, a few without counts.
fn some_files(seed: u64, uncounted: bool) -> (Vec<Layout>, u64, usize) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n) as usize
    };
    let files = (0..=next(6)).map(|_| match next(8) {
        0 if uncounted => Layout::Unknown,
        1 if uncounted => Layout::Text(vec![end(next(3000) as u64)]),
        _ => Layout::Parts((0..next(9)).map(|_| next(30)).map(|rows| Part { rows, bytes: rows as u64 * 9 }).collect()),
    });
    (files.collect(), 1 + next(500) as u64, next(300))
}

#[test]
fn splits_cover_every_row_once_in_order_and_end_where_a_part_ends() {
    for seed in 0..500u64 {
        let (files, share, _) = some_files(seed, true);
        let splits = group(&files, share, 1, None);
        let all: Vec<_> = covered(&files, &[Split::Whole]);
        assert_eq!(covered(&files, &splits), all, "seed {seed}");
        let named: Vec<_> =
            splits.iter().filter_map(|s| if let Split::Files { files, .. } = s { Some(files) } else { None }).collect();
        for (file, layout) in files.iter().enumerate() {
            let Layout::Parts(parts) = layout else {
                assert_eq!(named.iter().filter(|f| f.contains(&file)).count(), 1, "seed {seed}: file {file}, once");
                continue;
            };
            let ends: Vec<usize> = parts
                .iter()
                .scan(0, |sum, part| {
                    *sum += part.rows;
                    Some(*sum)
                })
                .collect();
            for split in &splits {
                if let Split::Rows { file: of, offset, len, .. } = split
                    && *of == file
                {
                    assert!(ends.contains(&(offset + len)), "seed {seed}: {split} is no part's end of {ends:?}");
                }
            }
        }
    }
}

#[test]
fn a_window_is_covered_exactly_and_every_split_knows_the_rows_before_its_files() {
    for seed in 0..500u64 {
        let (files, share, offset) = some_files(seed, false);
        let total: usize = files.iter().filter_map(Layout::rows).sum();
        for slice in [Slice::Positive { offset, len: 40 }, Slice::Negative { offset_from_end: offset, len: 25 }] {
            let window = window(Some(&slice), total);
            let splits = group(&files, share, 1, Some(window.clone()));
            let all = covered(&files, &[Split::Whole]);
            if window.is_empty() {
                assert_eq!(splits, [Split::Whole], "seed {seed}: Polars slices what is left");
                continue;
            }
            assert_eq!(covered(&files, &splits), all[window], "seed {seed}: {slice:?}");
            for split in &splits {
                let (first, before) = match split {
                    Split::Files { files, rows_before } => (files[0], *rows_before),
                    Split::Rows { file, rows_before, .. } => (*file, *rows_before),
                    other => panic!("{other}"),
                };
                assert_eq!(
                    before,
                    files[..first].iter().filter_map(Layout::rows).sum::<usize>(),
                    "seed {seed}: {split}"
                );
            }
        }
    }
}

#[test]
fn pieces_are_about_their_share() {
    let even = |n| Layout::Parts(vec![Part { rows: 10, bytes: 100 }; n]);
    assert_eq!(group(&[even(8)], 200, 1, None).len(), 4);
    let small: Vec<_> = (0..20).map(|_| even(1)).collect();
    assert_eq!(group(&small, 500, 1, None).len(), 4, "small files are put together");
    let text: Vec<_> = (0..6).map(|_| Layout::Text(vec![end(1000)])).collect();
    assert_eq!(group(&text, 2000, 1, None).len(), 3, "text files too");
    let lines: Vec<_> = group(&[Layout::Text([90, 210, 300, 320, 395].map(end).to_vec())], 100, 1, None);
    let lines = lines.iter().map(|split| match split {
        Split::Lines { file: 0, from, to } => (from.at, to.at),
        other => panic!("{other}"),
    });
    assert_eq!(lines.collect::<Vec<_>>(), [(0, 90), (90, 210), (210, 300), (300, 395)], "a large one is cut");
}

#[test]
fn there_are_as_many_tasks_in_each_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let mut frame = df!["a" => [1i64; 45], "b" => ["text"; 45]].unwrap();
    ParquetWriter::new(file).with_row_group_size(Some(1)).finish(&mut frame).unwrap();
    let scan = |columns: &[&str]| {
        let all = LazyFrame::scan_parquet(path.to_str().unwrap().into(), Default::default()).unwrap();
        let plan = all.select(columns.iter().map(|name| col(*name)).collect::<Vec<_>>()).to_alp_optimized().unwrap();
        plan.lp_arena.iter(plan.lp_top).find(|(_, ir)| matches!(ir, IR::Scan { .. })).unwrap().1.clone()
    };
    let bytes = |scan: &IR| layouts(scan, 4).iter().filter_map(Layout::bytes).sum::<u64>();
    let (one, both) = (scan(&["a"]), scan(&["a", "b"]));
    assert!(bytes(&one) < bytes(&both) && bytes(&one) >= 45 * 8, "only columns that are wanted count");
    let Layout::Parts(parts) = &layouts(&one, 4)[0] else { panic!("row groups") };
    let large = parts.iter().map(|part| Part { bytes: 40 << 20, ..*part }).collect();
    let splits = split(&one, &[Layout::Parts(large)], 4).splits;
    let sizes: Vec<_> = splits.iter().map(|split| if let Split::Rows { len, .. } = split { *len } else { 0 }).collect();
    assert_eq!(sizes.len(), 8, "1.8 GB are five tasks at least, and as many in each turn: {sizes:?}");
    assert!(sizes.iter().all(|rows| (5..=6).contains(rows)), "{sizes:?}");
}

#[test]
fn of_many_files_of_text_only_those_that_are_cut_are_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    for (file, lines) in [4000, 4000, 90_000].into_iter().enumerate() {
        std::fs::write(folder.path().join(format!("{file}.csv")), "a,b\n".to_owned() + &"1,2\n".repeat(lines)).unwrap();
    }
    let plan = LazyCsvReader::new(folder.path().to_str().unwrap().into()).finish().unwrap().to_alp().unwrap();
    let scan = plan.lp_arena.get(plan.lp_top);
    let parts = |tasks| {
        layouts(scan, tasks)
            .iter()
            .map(|file| if let Layout::Text(ends) = file { ends.len() } else { 0 })
            .collect::<Vec<_>>()
    };
    assert_eq!(parts(1), [1, 1, 1]);
    let [small, other, large] = parts(4)[..] else { panic!("three files") };
    assert!(small == 1 && other == 1 && large > 4, "{small}, {other}, {large}");
}
