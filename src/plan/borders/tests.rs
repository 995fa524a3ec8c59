use super::*;

fn function(part: Part, descending: &[bool], nulls_last: &[bool], ranges: u32) -> Borders {
    Borders { part, descending: descending.to_vec(), nulls_last: nulls_last.to_vec(), ranges }
}

/// What leads from keys to numbers, as three tasks would, with what travels between them.
fn numbered(tasks: &[Vec<Column>], descending: &[bool], nulls_last: &[bool], ranges: u32) -> Vec<u32> {
    let call = |part, inputs: &mut [Column]| {
        let mut wire = Vec::new();
        function(part, descending, nulls_last, ranges).try_serialize(&mut wire).unwrap();
        Borders::from_wire(&wire).unwrap().call_udf(inputs).unwrap()
    };
    let mut samples = Column::new_empty("".into(), &DataType::Binary);
    for keys in tasks {
        samples.append(&call(Part::Sample, &mut keys.clone())).unwrap();
    }
    let borders = call(Part::Draw, &mut [samples]);
    let numbers = tasks.iter().flat_map(|keys| {
        let mut inputs = keys.clone();
        inputs.push(borders.new_from_index(0, keys[0].len()));
        call(Part::Number, &mut inputs).u32().unwrap().into_no_null_iter().collect::<Vec<_>>()
    });
    numbers.collect()
}

fn shares(column: &Column, tasks: usize) -> Vec<Vec<Column>> {
    let border = |task: usize| column.len() * task / tasks;
    (0..tasks).map(|task| vec![column.slice(border(task) as i64, border(task + 1) - border(task))]).collect()
}

/// Values of every type that rows are sorted by, with nulls and all that compares oddly.
fn columns() -> Vec<Column> {
    let rows = 3000i64;
    let id = |row: i64| row * 7919 % 997 - 500;
    let null = |row: i64| row % 13 == 0;
    let ints = || -> Vec<_> { (0..rows).map(|row| (!null(row)).then_some(id(row))).collect() };
    let float = |row: i64| match id(row) % 7 {
        0 => f64::NAN,
        1 => -0.0,
        2 => 0.0,
        3 => -f64::NAN,
        4 => f64::NEG_INFINITY,
        _ => id(row) as f64 / 3.0,
    };
    let floats = || -> Vec<_> { (0..rows).map(|row| (!null(row)).then_some(float(row))).collect() };
    let word = |row: i64| match id(row) % 5 {
        0 => String::new(),
        1 => format!("{}\0{}", "z".repeat((row % 300) as usize), id(row)),
        2 => "ψ船".repeat((row % 3) as usize),
        _ => id(row).to_string(),
    };
    let words = || -> Vec<_> { (0..rows).map(|row| (!null(row)).then(|| word(row))).collect() };
    let made = |of: Column, dtype: DataType| of.cast(&dtype).unwrap_or_else(|e| panic!("{dtype}: {e}"));
    let small = |dtype| {
        made(
            Column::new(
                "k".into(),
                (0..rows).map(|row| (!null(row)).then_some(id(row).rem_euclid(100))).collect::<Vec<_>>(),
            ),
            dtype,
        )
    };
    let names = ["oak", "ash", "elm", "box"];
    let named = Column::new(
        "k".into(),
        (0..rows).map(|row| (!null(row)).then_some(names[(row % 4) as usize])).collect::<Vec<_>>(),
    );
    vec![
        Column::new("k".into(), ints()),
        Column::new("k".into(), floats()),
        made(Column::new("k".into(), floats()), DataType::Float32),
        Column::new("k".into(), words()),
        made(Column::new("k".into(), words()), DataType::Binary),
        Column::new("k".into(), (0..rows).map(|row| (!null(row)).then_some(row % 2 == 0)).collect::<Vec<_>>()),
        small(DataType::UInt8),
        small(DataType::Int8),
        small(DataType::UInt64),
        small(DataType::Int128),
        small(DataType::Decimal(12, 2)),
        small(DataType::Date),
        small(DataType::Time),
        small(DataType::Datetime(TimeUnit::Nanoseconds, None)),
        small(DataType::Duration(TimeUnit::Milliseconds)),
        made(named.clone(), DataType::from_categories(Categories::random("".into(), CategoricalPhysical::U32))),
        made(named, DataType::from_frozen_categories(FrozenCategories::new(names).unwrap())),
    ]
}

#[test]
fn ranges_follow_each_other_as_sorted_rows_do_whatever_the_type_and_the_order() {
    for key in columns() {
        for (descending, last) in [(false, false), (false, true), (true, false), (true, true)] {
            let numbers = numbered(&shares(&key, 3), &[descending], &[last], 16);
            let most = numbers.iter().max().unwrap();
            assert!((1..16).contains(most) || key.dtype().is_bool(), "{}: {most}", key.dtype());
            let numbers = Column::new("n".into(), numbers);
            let frame = DataFrame::new(key.len(), vec![key.clone(), numbers]).unwrap();
            let order = SortMultipleOptions::default().with_order_descending(descending).with_nulls_last(last);
            let sorted = frame.sort(["k"], order).unwrap();
            let numbers: Vec<_> = sorted.column("n").unwrap().u32().unwrap().into_no_null_iter().collect();
            assert!(numbers.is_sorted(), "{} descending: {descending}, nulls last: {last}", key.dtype());
            // Equal ones, also zeros and NaNs of both signs, are in one range.
            let groups = sorted.lazy().group_by([col("k")]).agg([col("n").n_unique()]).collect().unwrap();
            assert_eq!(
                groups.column("n").unwrap().max_reduce().unwrap().value(),
                &AnyValue::UInt32(1),
                "{}",
                key.dtype()
            );
        }
    }
}

#[test]
fn several_keys_have_directions_and_null_places_of_their_own() {
    let columns = columns();
    let keys = [&columns[5], &columns[1], &columns[3]].map(Clone::clone);
    let names = ["a", "b", "c"];
    for bits in 0..64u32 {
        let descending: Vec<_> = (0..3).map(|bit| bits >> bit & 1 == 1).collect();
        let last: Vec<_> = (3..6).map(|bit| bits >> bit & 1 == 1).collect();
        let keys: Vec<_> = keys.iter().zip(names).map(|(key, name)| key.clone().with_name(name.into())).collect();
        let rows = keys[0].len();
        let tasks: Vec<Vec<_>> =
            (0..3).map(|task| keys.iter().map(|key| key.slice(task * 1000, 1000)).collect()).collect();
        let numbers = Column::new("n".into(), numbered(&tasks, &descending, &last, 16));
        let frame = DataFrame::new(rows, [keys, vec![numbers]].concat()).unwrap();
        let order = SortMultipleOptions::default().with_order_descending_multi(descending).with_nulls_last_multi(last);
        let sorted = frame.sort(names, order).unwrap();
        let numbers: Vec<_> = sorted.column("n").unwrap().u32().unwrap().into_no_null_iter().collect();
        assert!(numbers.is_sorted(), "{bits:06b}");
    }
}

#[test]
fn ranges_are_of_about_as_many_rows_however_the_keys_lie() {
    let rows = 40_000u64;
    let most = |keys: Vec<u64>, ranges: u32| {
        let numbers = numbered(&shares(&Column::new("k".into(), keys), 4), &[false], &[false], ranges);
        let mut counts = vec![0usize; ranges as usize];
        numbers.iter().for_each(|number| counts[*number as usize] += 1);
        *counts.iter().max().unwrap()
    };
    let fair = rows as usize / 16;
    let exponential = |row| 1 << (mixed(row) % 64);
    for (what, keys) in [
        ("sorted", (0..rows).collect::<Vec<_>>()),
        ("backwards", (0..rows).rev().collect()),
        ("mixed", (0..rows).map(mixed).collect()),
        ("in step", (0..rows).map(|row| row % 39).collect()),
        ("of all sizes", (0..rows).map(|row| exponential(row) + row % 1000).collect()),
    ] {
        let most = most(keys, 16);
        assert!(most < fair * 2, "{what}: {most} of {rows} rows in one range");
    }
    // Half of the rows have one key: the others are in ranges as before.
    let heavy = |row: u64| if row.is_multiple_of(2) { u64::MAX / 2 } else { mixed(row) };
    let most = most((0..rows).map(heavy).collect(), 16);
    assert!((rows as usize / 2..rows as usize / 2 + 2 * fair).contains(&most), "{most}");
    assert_eq!(numbered(&shares(&Column::new("k".into(), vec![7u64; 100]), 4), &[false], &[false], 16), vec![1; 100]);
    // A task without rows, and none with any.
    assert_eq!(numbered(&shares(&Column::new("k".into(), [1u64, 2]), 4), &[true], &[false], 16).len(), 2);
    assert_eq!(
        numbered(&shares(&Column::new_empty("k".into(), &DataType::Int64), 2), &[true], &[false], 16),
        Vec::<u32>::new()
    );
}

#[test]
fn what_is_no_sample_is_an_error() {
    let draw = function(Part::Draw, &[false], &[false], 16);
    let bytes = BinaryChunked::from_slice("".into(), &[&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..]]).into_column();
    assert!(draw.call_udf(&mut [bytes]).is_err());
    assert!(Borders::from_wire(b"regatta:borders!").is_none() && Borders::from_wire(b"PLNAMEDFNx!").is_none());
    let keys = Column::new("k".into(), [1i64]);
    assert!(function(Part::Sample, &[], &[], 16).call_udf(&mut [keys]).is_err());
}
