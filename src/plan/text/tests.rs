use super::*;

/// A scan of a file that holds this, and what is known of it.
fn written(text: &str, format: impl FnOnce(&str) -> LazyFrame) -> (tempfile::TempDir, IR, Vec<u64>) {
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
    assert_eq!(ends.last(), Some(&(text.len() as u64)));
    for end in &ends {
        assert_eq!((end - 4) % LINE.len() as u64, 0, "{end}");
    }
    let (mut piece, whole) = (scan.clone(), text.clone());
    assert!(read_lines(&mut piece, &(ends[0]..ends[1])).unwrap().unwrap().ends_with("some.txt"));
    let IR::Scan { sources: ScanSources::Buffers(buffers), .. } = &piece else { panic!("bytes") };
    assert_eq!(&buffers[0][..], &whole.as_bytes()[ends[0] as usize..ends[1] as usize]);
}

#[test]
fn what_only_who_has_read_all_before_can_read_is_not_cut() {
    let text = format!("a,b\n{}", LINE.repeat(2000));
    let whole = [text.len() as u64];
    let comments = |path: &str| LazyCsvReader::new(path.into()).with_comment_prefix(Some("#".into())).finish().unwrap();
    assert_eq!(written(&text, comments).2, whole);
    let lenient = |path: &str| LazyCsvReader::new(path.into()).with_ignore_errors(true).finish().unwrap();
    assert_eq!(written(&text, lenient).2, whole);
    let no_names = |path: &str| {
        LazyCsvReader::new(path.into()).with_has_header(false).with_infer_schema_length(None).finish().unwrap()
    };
    assert!(written(&text, no_names).2.len() > 1, "Polars looks at all of it, and so does who cuts it");
    let long = format!("a,b\n{}", LINE.repeat(60_000));
    assert_eq!(written(&long, no_names).2, [long.len() as u64]);
    let short = format!("a,b\n{}", LINE.repeat(400));
    assert_eq!(written(&short, csv).2, [short.len() as u64], "a small file is one piece");
    let one_line = format!("a,b\n1,\"{}\"\n", "\n".repeat(40_000));
    assert_eq!(written(&one_line, csv).2, [one_line.len() as u64], "a line is never cut");
}

#[test]
fn a_file_that_has_changed_is_said_to_have() {
    let text = format!("a,b\n{}", LINE.repeat(2000));
    let (folder, scan, ends) = written(&text, csv);
    let path = folder.path().join("some.txt");
    let says = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_lines(&mut scan.clone(), &(ends[0]..ends[1])).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(says(&format!("{text}18,more\n")), Ok(()), "a log has grown");
    for other in [&text[..ends[1] as usize - 1], &format!("a,b\n1,2\n{}", LINE.repeat(2000)), ""] {
        let error = says(other).unwrap_err();
        assert!(error.contains("some.txt is not what it was") && error.contains("run the query again"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(read_lines(&mut scan.clone(), &(0..ends[0])).unwrap_err().to_string().contains("some.txt"));
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
