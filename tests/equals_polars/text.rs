//! Text that is cut between its lines, of every shape that Polars reads.

use std::fmt::Write;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::testing::difference;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A file, how it is read, and whether quotes stand in it that nothing closes: what is read of them depends on where Polars' threads
/// split a file, and so does whether it is refused.
fn csv(rng: &mut Rng, path: &Path) -> (LazyCsvReader, bool) {
    let separator = rng.pick(b",;|\t");
    let quote = rng.pick(&[Some(b'"'), Some(b'"'), Some(b'\''), None]);
    let end = rng.pick(&["\n", "\n", "\r\n", "!"]);
    let (has_header, columns) = (!rng.one_in(3), rng.pick(&[1, 2, 3, 5]));
    let (is_ragged, truncates) = (rng.one_in(4), rng.one_in(3));
    let (before, lines, after) = match rng.below(5) {
        0 => (rng.below(3), 0, 0),
        1 => (0, rng.below(3), 0),
        2 => (0, 0, rng.below(3)),
        _ => (0, 0, 0),
    };
    let mut text = String::new();
    if rng.one_in(6) {
        text.push('\u{feff}');
    }
    for _ in 0..before + lines {
        text += "what stands above";
        text += end;
    }
    let separated = |fields: Vec<String>| fields.join(&(separator as char).to_string());
    if has_header {
        text += &separated((0..columns).map(|c| format!("c{c}")).collect());
        text += end;
    }
    let size = rng.pick(&[9_000, 30_000, 60_000, 200_000]);
    // Some files have no end of a line within quotes.
    let (is_nasty, is_broken) = (rng.one_in(2), rng.one_in(20));
    while text.len() < size {
        let mut fields: Vec<String> =
            (0..columns).map(|column| field(rng, column, separator, quote, end, is_nasty)).collect();
        if is_ragged && rng.one_in(5) {
            fields.truncate(1 + rng.below(columns) as usize);
        }
        // The longest lines may come late.
        if is_ragged && text.len() < size / rng.pick(&[3, 9]) {
            fields.truncate(1);
        }
        if is_ragged && truncates && rng.one_in(5) {
            fields.push("more".into());
        }
        text += &separated(fields);
        if is_broken && rng.one_in(40) {
            text.push(quote.unwrap_or(b'"') as char);
        }
        text += end;
        if rng.one_in(400) {
            text += end;
        }
    }
    if rng.one_in(2) {
        text.truncate(text.len() - end.len());
    }
    if text.starts_with("x^") {
        text.replace_range(..1, "y");
    }
    fs::write(path, text).unwrap();
    let schema = (0..columns).map(|c| {
        let dtype = if c % 3 == 1 { DataType::Int64 } else { DataType::String };
        Field::new(format!("c{c}").into(), dtype)
    });
    let schema = rng.one_in(2).then(|| SchemaRef::new(schema.collect()));
    let reader = LazyCsvReader::new(path.to_str().unwrap().into())
        .with_separator(separator)
        .with_quote_char(quote)
        .with_eol_char(*end.as_bytes().last().unwrap())
        .with_has_header(has_header)
        .with_skip_rows(before as usize)
        .with_skip_lines(lines as usize)
        .with_skip_rows_after_header(after as usize)
        .with_truncate_ragged_lines(truncates)
        .with_missing_is_null(!rng.one_in(4))
        .with_ignore_errors(rng.one_in(8))
        .with_try_parse_dates(rng.one_in(4))
        .with_infer_schema_length(rng.pick(&[Some(100), Some(1), Some(0), None]))
        .with_schema(schema);
    (reader, is_broken)
}

/// A value, of one kind in each column.
fn field(rng: &mut Rng, column: u64, separator: u8, quote: Option<u8>, end: &str, is_nasty: bool) -> String {
    let number = rng.below(100_000);
    if rng.one_in(15) {
        return String::new();
    }
    if column % 3 == 1 {
        return number.to_string();
    }
    // What Polars takes for compressed, and for the mark of UTF-8.
    let begin = rng.pick(&["", "", "", "x^", "\u{feff}", "ä", "2024-01-02"]);
    let length = if is_nasty && rng.one_in(300) { 9_000 } else { rng.below(12) as usize };
    let mut text = format!("{begin}{}{number}", "o".repeat(length));
    let Some(quote) = quote.map(char::from).filter(|_| rng.one_in(3)) else { return text };
    if is_nasty {
        for _ in 0..rng.below(4) {
            text += rng.pick(&[end, "\n", &format!("{quote}{quote}"), &(separator as char).to_string(), "7"]);
        }
    }
    format!("{quote}{text}{quote}")
}

fn ndjson(rng: &mut Rng, path: &Path) -> LazyJsonLineReader {
    let mut text = String::new();
    for id in 0..rng.pick(&[400, 2_000]) {
        let _ = match rng.below(5) {
            0 => write!(text, r#"{{"id": {id}}}"#),
            1 => write!(text, r#"{{"id": {id}, "of": {{"x": [{}, null]}}, "s": "a\nb\"}}{{"}}"#, rng.below(9)),
            2 => write!(text, r#"{{"s": null, "id": {id}, "more": true}}"#),
            _ => write!(text, r#"{{"id": {id}, "s": "{}"}}"#, "ö".repeat(rng.below(30) as usize)),
        };
        text += rng.pick(&["\n", "\n", "\r\n", "\n\n"]);
    }
    fs::write(path, text).unwrap();
    LazyJsonLineReader::new(path.to_str().unwrap().into()).with_infer_schema_length(NonZeroUsize::new(200))
}

#[test]
fn text_that_is_cut_on_three_worker_processes() {
    let (session, folder) = (Session::local(3).unwrap(), tempfile::tempdir().unwrap());
    let seeds = std::env::var("REGATTA_TEST_TEXT").map_or(0..100, |range| {
        let (from, to) = range.split_once("..").expect("a range of seeds");
        from.parse().unwrap()..to.parse().unwrap()
    });
    let (many, mut cut, mut answered) = (seeds.end - seeds.start, 0, 0);
    for seed in seeds {
        let rng = &mut Rng(seed);
        let path = folder.path().join(format!("{seed}.txt"));
        let (query, is_broken) = match rng.one_in(5) {
            true => (ndjson(rng, &path).finish(), false),
            false => {
                let (reader, is_broken) = csv(rng, &path);
                (reader.finish(), is_broken)
            }
        };
        // What Polars refuses at once nobody runs.
        let Ok(query) = query else { continue };
        let query = match rng.below(4) {
            0 => query.filter(nth(0).as_expr().is_not_null()),
            1 => query.select([nth(-1).as_expr()]),
            _ => query,
        };
        cut += usize::from(
            query.clone().explain_on(&session).is_ok_and(|plan| plan.to_string().contains("cut between lines")),
        );
        match (query.clone().collect(), query.collect_on(&session)) {
            (Ok(plain), Ok(ours)) => {
                answered += 1;
                let differs = difference(&ours, &plain, true, &[]);
                assert_eq!(differs, None, "REGATTA_TEST_TEXT={seed}..{}", seed + 1);
            }
            (Err(_), Err(_)) => (),
            (Ok(_), Err(_)) if is_broken => (),
            (plain, ours) => panic!("REGATTA_TEST_TEXT={seed}..{}: {plain:?}, but {ours:?}", seed + 1),
        }
        fs::remove_file(path).unwrap();
    }
    println!("{many} files, {cut} of them cut, {answered} read");
    assert!(many < 100 || cut as u64 > many / 2 && answered as u64 > many / 2, "{cut} cut, {answered} read");
}

/// Lines that are made of their numbers, below a header.
fn lines(header: &str, many: usize, line: impl Fn(usize) -> String) -> Vec<u8> {
    let lines: String = (0..many).map(line).collect();
    format!("{header}{lines}").into_bytes()
}

type Reader = fn(LazyCsvReader) -> LazyCsvReader;

/// Name, a file, how it is read, the only column that is read, and whether the file is cut.
type Shape = (&'static str, Vec<u8>, Reader, Option<&'static str>, bool);

/// What random files do not hold.
fn shapes() -> Vec<Shape> {
    let plain = |i: usize| format!("{i},{}\n", i % 7);
    // Quotes that open within a field, and by chance are closed before Polars sees that lines are missing.
    let stray = |_| "x\"y,\"a\nb,\"2\nc\"d,3\n".to_owned();
    let two_kinds = |i: usize| if i < 2000 { "2024-01-15\n".to_owned() } else { "15-01-2024\n".to_owned() };
    let mut latin = lines("a,b\n", 3000, plain);
    let last = latin.len() - 2;
    latin[last] = 0xe4;
    vec![
        ("bytes that are no UTF-8 in a number that nobody reads", latin, |r| r, Some("a"), true),
        ("stray quotes, of which one column is read", lines("a,b,c\n", 1500, stray), |r| r, Some("a"), false),
        ("stray quotes", lines("a,b,c\n", 1500, stray), |r| r, None, false),
        (
            "dates of two kinds, and errors ignored",
            lines("d\n", 4000, two_kinds),
            |r| r.with_try_parse_dates(true).with_ignore_errors(true).with_quote_char(None),
            None,
            false,
        ),
        (
            "a byte order mark in each line",
            lines("\u{feff}a\n", 4000, |i| format!("\u{feff}{i}\n")),
            |r| r,
            None,
            false,
        ),
        ("lone carriage returns", lines("a,b\n", 4000, |i| format!("{i}\r,x\r{i}\n")), |r| r, None, true),
        ("zero bytes", lines("a,b\n", 4000, |i| format!("{i},x\0{i}\n")), |r| r, None, true),
        ("a header within quotes", lines("\"a\nb,c\",d\n", 4000, plain), |r| r, None, true),
        (
            "headers again and again",
            lines("a,b\n", 4000, |i| ["a,b\n".into(), plain(i)][i % 2].clone()),
            |r| r,
            None,
            true,
        ),
        ("names that Polars gives to others", lines("column_2,column_1\n", 4000, plain), |r| r, None, true),
        ("objects within fields", lines("a,b\n", 4000, |i| format!("{i},{{\"k\": \"{i}\"}}\n")), |r| r, None, true),
        ("blank lines", lines("a\n", 4000, |i| format!("{i}\n{}", "\n".repeat(i % 9))), |r| r, None, true),
        ("only blank lines", lines("a,b\n", 40_000, |_| "\n".into()), |r| r, None, false),
        ("one line", lines("a,b\n1,", 50_000, |_| "x".into()), |r| r, None, false),
        ("separators that end lines", lines("a,b\n", 4000, plain), |r| r.with_separator(b'\n'), None, true),
        ("separators that are quotes", lines("a,b\n", 4000, plain), |r| r.with_separator(b'"'), None, false),
        (
            "line ends that are separators",
            lines("a,b,", 4000, |i| format!("{i},")),
            |r| r.with_eol_char(b','),
            None,
            true,
        ),
        (
            "fewer names",
            lines("a,b\n", 4000, plain),
            |r| r.with_column_names_overwrite(["x".into()].into_iter().collect()),
            None,
            true,
        ),
        ("more skipped than there is", lines("a\n", 9000, plain), |r| r.with_skip_rows_after_header(9001), None, false),
    ]
}

#[test]
fn text_of_unusual_shapes_on_three_worker_processes() {
    let (session, folder) = (Session::local(3).unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("some.csv");
    for (name, text, reader, column, is_cut) in shapes() {
        fs::write(&path, text).unwrap();
        let query = reader(LazyCsvReader::new(path.to_str().unwrap().into())).finish().unwrap();
        let query = if let Some(column) = column { query.select([col(column)]) } else { query };
        let plan = query.clone().explain_on(&session).unwrap_or_else(|error| panic!("{name}: {error}")).to_string();
        assert_eq!(plan.contains("cut between lines"), is_cut, "{name}: {plan}");
        match (query.clone().collect(), query.collect_on(&session)) {
            (Ok(plain), Ok(ours)) => assert_eq!(difference(&ours, &plain, true, &[]), None, "{name}"),
            (Err(_), Err(_)) => (),
            (plain, ours) => panic!("{name}: {plain:?}, but {ours:?}"),
        }
    }
}
