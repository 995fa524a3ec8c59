use super::*;

/// A scan of a file that holds this, and what is known of it.
fn written(text: &str, format: impl FnOnce(&str) -> LazyFrame) -> (tempfile::TempDir, IR, Vec<End>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.txt");
    std::fs::write(&path, text).unwrap();
    let plan = format(path.to_str().unwrap()).to_alp().unwrap();
    let scan = plan.lp_arena.get(plan.lp_top).clone();
    let IR::Scan { scan_type, .. } = &scan else { panic!("a scan") };
    let ends = ends(&path, scan_type).unwrap();
    (folder, scan, ends)
}

fn csv(path: &str) -> LazyFrame {
    LazyCsvReader::new(path.into()).finish().unwrap()
}

const LINE: &str = "17,\"a line\nof two\"\n";

#[test]
fn a_file_is_cut_between_its_lines_and_not_within_quotes() {
    let text = format!("a,b\n{}", LINE.repeat(2000));
    let (_folder, scan, ends) = written(&text, csv);
    assert_eq!(ends.len(), 9);
    assert_eq!(ends.last().map(|end| end.at), Some(text.len() as u64));
    for end in &ends {
        assert_eq!((end.at - 4) % LINE.len() as u64, 0, "{}", end.at);
    }
    let (mut piece, whole) = (scan.clone(), text.clone());
    assert!(read_lines(&mut piece, ends[0], ends[1]).unwrap().unwrap().ends_with("some.txt"));
    let IR::Scan { sources: ScanSources::Buffers(buffers), .. } = &piece else { panic!("bytes") };
    assert_eq!(&buffers[0][..], &whole.as_bytes()[ends[0].at as usize..ends[1].at as usize]);
}

/// How many pieces this is cut into.
fn pieces(text: &str, reader: impl Fn(LazyCsvReader) -> LazyCsvReader) -> usize {
    written(text, |path| reader(LazyCsvReader::new(path.into())).finish().unwrap()).2.len()
}

#[test]
fn what_only_who_has_read_all_before_can_read_is_not_cut() {
    let text = format!("a,b\n{}", LINE.repeat(2000));
    assert_eq!(pieces(&text, |reader| reader.with_comment_prefix(Some("#".into()))), 1);
    assert_eq!(pieces(&text, |reader| reader.with_ignore_errors(true)), 1);
    assert_eq!(
        pieces(&text, |reader| reader.with_ignore_errors(true).with_quote_char(None)),
        1,
        "dates depend on others"
    );
    assert_eq!(pieces(&text, |reader| reader.with_separator(b'"')), 1);
    let no_names = |reader: LazyCsvReader| reader.with_has_header(false).with_infer_schema_length(None);
    assert!(pieces(&text, no_names) > 1, "Polars looks at all of it, and so does who cuts it");
    assert_eq!(pieces(&format!("a,b\n{}", LINE.repeat(60_000)), no_names), 1);
    assert_eq!(pieces(&format!("a,b\n{}", LINE.repeat(400)), |reader| reader), 1, "a small file is one piece");
    assert_eq!(pieces(&format!("a,b\n1,\"{}\"\n", "\n".repeat(40_000)), |reader| reader), 1, "a line is never cut");
    // Who looks at no more of the first line than this takes it for one of a single column, as the others are.
    let long = format!("{},b\n{}", "a".repeat(HEAD as usize), "1\n".repeat(30_000));
    assert_eq!(pieces(&long, |reader| reader.with_has_header(false).with_infer_schema_length(Some(0))), 1);
    let names = ["q", "r"].map(|name| Field::new(name.into(), DataType::String));
    let schema = Some(Arc::new(Schema::from_iter(names)));
    assert_eq!(pieces(&long, |reader| reader.with_has_header(false).with_schema(schema.clone())), 1);
}

#[test]
fn a_piece_begins_with_a_line_all_of_which_has_been_seen() {
    // It has more fields than its beginning shows.
    let long = format!("7,\"{}\",more\n", "y\n".repeat(LOOKS[1] as usize / 2));
    assert_eq!(pieces(&format!("a,b\n{}", long.repeat(2)), |reader| reader), 1);
}

#[test]
fn a_file_whose_quotes_are_not_those_of_its_fields_is_not_cut() {
    let is_cut = |line: &str| {
        let text = format!("a,b\n{}", line.repeat(40_000 / line.len()));
        pieces(&text, |reader| reader.with_has_header(false)) > 1
    };
    for sound in ["7,\"a,\nb\"\n", "7,\"a\"\",\nb\"\n", "7,{\"a\": \"\"}\n", "\"\",\"\"\"\"\n", "7\" x 7\",8\n"] {
        assert!(is_cut(sound), "{sound}");
    }
    for stray in ["x\"y,\"a\nb,\"2\nc\"d,3\n", "7\" wide,8\n", "7, \"a,b\"\n", "x\"\"\"a,\"b\n"] {
        assert!(!is_cut(stray), "{stray}");
    }
}

#[test]
fn a_file_that_has_changed_is_said_to_have() {
    let text = format!("a,b\n{}", LINE.repeat(2000));
    let (folder, scan, ends) = written(&text, csv);
    let path = folder.path().join("some.txt");
    let says = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_lines(&mut scan.clone(), ends[0], ends[1]).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(says(&format!("{text}18,more\n")), Ok(()), "a log has grown");
    let other_lines = format!("a,b\n{}", "1,2\n".repeat(10_000));
    let other_values = text.replace("17", "18");
    let more_of_others = other_values.repeat(2);
    for other in [&text[..ends[1].at as usize - 1], &other_lines, &other_values, &more_of_others, ""] {
        let error = says(other).unwrap_err();
        assert!(error.contains("some.txt is not what it was") && error.contains("run the query again"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(read_lines(&mut scan.clone(), End::none(), ends[0]).unwrap_err().to_string().contains("some.txt"));
}

#[test]
fn what_is_no_file_is_not_opened() {
    let (folder, scan, _) = written(&format!("a,b\n{}", LINE.repeat(2000)), csv);
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let IR::Scan { scan_type, .. } = &scan else { panic!("a scan") };
    // Nobody writes into it: whoever opened it would wait.
    assert_eq!(ends(&pipe, scan_type).unwrap_err().kind(), std::io::ErrorKind::Unsupported);
}
