//! What the guide lists is what there is: pages, code, links, waits, errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::sched::{StageId, WaitsFor, WorkerId};

/// Where this repository is read by others.
const HERE: &str = "https://github.com/regatta/regatta/blob/main/";
const BOOK: &str = "docs/book/src";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder that end so, from the root.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A block of code: what is behind the backticks that begin it, its lines, and the file that the line before says they are of.
struct Block<'a> {
    info: &'a str,
    lines: Vec<&'a str>,
    source: Option<&'a str>,
}

/// What a line says that the block after it is of: `<!-- examples/voyage/main.rs:program -->`. The text itself is in the page, so
/// that it is there also where the page is read as Markdown.
fn source_of(line: &str) -> Option<&str> {
    line.strip_prefix("<!-- ")
        .and_then(|rest| rest.strip_suffix(" -->"))
        .filter(|source| source.starts_with("examples/"))
}

/// A page's blocks of code, and its text without them.
fn parts(page: &str) -> (Vec<Block<'_>>, String) {
    let (mut blocks, mut prose, mut open, mut before) = (Vec::new(), String::new(), None::<Block<'_>>, "");
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Block { info, lines: Vec::new(), source: source_of(before) }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => prose.extend([line, "\n"]),
        }
        before = line;
    }
    assert!(open.is_none(), "a block of code has no end");
    (blocks, prose)
}

/// Where a page's links lead, pictures too.
fn links(page: &str) -> Vec<String> {
    let (_, prose) = parts(page);
    // What stands between backticks is no link.
    let text: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(link, _)| link.to_owned()).collect()
}

/// What links into a page may name: its headings, as mdBook and GitHub call them.
fn anchors(page: &str) -> BTreeSet<String> {
    let (_, prose) = parts(page);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let mut name = |heading: &str| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' '));
        let name = kept.collect::<String>().to_lowercase().replace(' ', "-");
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 { name } else { format!("{name}-{}", *times - 1) }
    };
    headings.map(&mut name).collect()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            assert!(plain.pop(), "{} leads out of the repository", path.display());
        } else {
            plain.push(part);
        }
    }
    plain
}

#[test]
fn every_page_is_in_the_summary_and_its_code_is_compiled_or_compared() {
    let compiled = include_str!("../book.rs");
    let listed = links(&read(format!("{BOOK}/SUMMARY.md")));
    let mut unlisted: BTreeSet<_> = listed.iter().map(|link| Path::new(BOOK).join(link)).collect();
    assert_eq!(unlisted.len(), listed.len(), "a page is in SUMMARY.md twice");
    for path in files(BOOK, ".md").into_iter().filter(|path| !path.ends_with("SUMMARY.md")) {
        assert!(unlisted.remove(&path), "{} is not in SUMMARY.md", path.display());
        let page = read(&path);
        assert!(!page.contains("{{#"), "{} includes something: not where it is read as Markdown", path.display());
        for Block { info, lines, source } in parts(&page).0 {
            let is_fine = match info.split(',').next() {
                Some("rust") => compiled.contains(&format!("../{}\"", path.display())) && !info.contains("ignore"),
                // Coloured by mdBook, and no test of documentation.
                Some("rs") => source.is_some(),
                _ => true,
            };
            assert!(is_fine, "{}: nobody compiles this:\n{}", path.display(), lines.join("\n"));
        }
    }
    assert!(unlisted.is_empty(), "SUMMARY.md has pages that do not exist: {unlisted:?}");
}

#[test]
fn what_is_of_a_file_in_a_page_is_what_the_file_has() {
    for path in files("docs", ".md").into_iter().chain(["README.md".into()]) {
        let page = read(&path);
        let now = parts(&page).0.iter().fold(page.clone(), |page, Block { info, lines, source }| {
            let Some(source) = source else { return page };
            let of = |text: &str| format!("<!-- {source} -->\n```{info}\n{text}```\n");
            let was: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            page.replace(&of(&was), &of(&part_of(source)))
        });
        if page != now && std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
            fs::write(root().join(&path), &now).unwrap();
            continue;
        }
        let differs = page.lines().zip(now.lines()).find(|(was, is)| was != is);
        assert!(
            page == now,
            "{} differs from what it says it has of a file: run this with REGATTA_TEST_GOLDEN=write. Page and file: {differs:#?}",
            path.display()
        );
    }
}

/// A file, or the part of it between two lines that name it.
fn part_of(source: &str) -> String {
    let (file, anchor) = source.split_once(':').unwrap_or((source, ""));
    let text = read(file);
    let is = |line: &str, word: &str| line.trim_end().ends_with(&format!(" {word}: {anchor}"));
    let skipped = if anchor.is_empty() { 0 } else { 1 + text.lines().take_while(|line| !is(line, "ANCHOR")).count() };
    let ends = anchor.is_empty() || text.lines().any(|line| is(line, "ANCHOR_END"));
    assert!(ends && skipped <= text.lines().count(), "{source} is not there");
    text.lines().skip(skipped).take_while(|line| !is(line, "ANCHOR_END")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_link_leads_to_what_is_there() {
    let mut pages = files("docs", ".md");
    pages.extend(["README.md", "CHANGELOG.md", "remote/README.md"].map(PathBuf::from));
    let mut broken = Vec::new();
    for page in &pages {
        let text = read(page);
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path.strip_prefix(HERE) {
                Some(file) => PathBuf::from(file),
                None if path.contains("://") => continue,
                None if path.is_empty() => page.clone(),
                None => plain(&page.with_file_name(path)),
            };
            let is_in_book = !page.starts_with(BOOK) || path.starts_with(HERE) || target.starts_with(BOOK);
            let has_anchor = || anchor.is_empty() || anchors(&read(&target)).contains(anchor);
            if !(is_in_book && root().join(&target).exists() && has_anchor()) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    // Documentation of the code leads here, too.
    for file in ["src", "observe/src", "remote/src", "cli/src", "macros/src", "dashboard/src"]
        .iter()
        .flat_map(|folder| files(folder, ".rs"))
    {
        for link in read(&file).split(HERE).skip(1) {
            let path = link.split([')', ' ', '`', '"', '\n', '#', '>']).next().unwrap_or_default();
            if !root().join(path).exists() {
                broken.push(format!("{}: {path}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The section of a page that begins with each heading, by the first code in it.
fn sections(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in page.lines() {
        match line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')) {
            Some(title) => {
                let code = title.strip_prefix('`').and_then(|title| title.split_once('`'));
                found.push((code.map_or("", |(code, _)| code).to_owned(), String::new()));
            }
            None => found.last_mut().into_iter().for_each(|(_, text)| text.extend([line, "\n"])),
        }
    }
    found.retain(|(name, _)| !name.is_empty());
    found
}

#[test]
fn each_kind_of_wait_is_on_its_page_in_its_words() {
    let udf = || "demo::Embed".to_owned();
    let all = [
        WaitsFor::Inputs(vec![StageId(0)]),
        WaitsFor::Workers,
        WaitsFor::Alone,
        WaitsFor::Capacity("0.5 CPU".to_owned()),
        WaitsFor::Worker(WorkerId(2)),
        WaitsFor::TaskBefore,
        WaitsFor::BackOff,
        WaitsFor::Replica(udf()),
        WaitsFor::Start(udf(), WorkerId(2), Some("loading weights".to_owned())),
        WaitsFor::Credit(udf(), WorkerId(2)),
    ];
    let named = texts_of(include_str!("../sched/status.rs"), "WaitsFor");
    let said = sections(&read(format!("{BOOK}/waits.md")));
    let names: Vec<_> = said.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    assert_eq!(all.len(), named.len());
    for (on, (name, text)) in all.iter().zip(&said) {
        assert!(format!("{on:?}").starts_with(name) && text.contains(&format!("for {on}")), "{name}: {on}");
    }
}

#[test]
fn each_error_is_on_its_page_in_its_words() {
    let mut coded = BTreeMap::new();
    for (source, types) in [
        (
            include_str!("../error.rs"),
            &["ConfigError", "Error", "PlanError", "SinkError", "MadeOtherwise", "PoolError", "PoolFailure"][..],
        ),
        (include_str!("../error/task.rs"), &["TaskError", "TaskFailure"]),
        (include_str!("../error/cluster.rs"), &["ClusterError", "ActorError"]),
        (include_str!("../error/ray.rs"), &["RayError"]),
        (include_str!("../error/kube.rs"), &["KubeError"]),
        (include_str!("../../remote/src/join.rs"), &["JoinError"]),
        (include_str!("../../remote/src/token.rs"), &["JoinTokenError"]),
        (include_str!("../../remote/src/names.rs"), &["NameError"]),
    ] {
        for name in types {
            let texts = texts_of(source, name);
            assert!(!texts.is_empty(), "{name} is no longer found");
            // Who only passes on another error says nothing of its own.
            let own = texts.into_iter().filter(|(_, text)| text.as_deref() != Some(""));
            coded.extend(own.map(|(variant, text)| {
                (format!("{name}::{variant}").trim_end_matches("::").to_owned(), text.unwrap())
            }));
        }
    }
    let mut page: BTreeMap<_, _> = sections(&read(format!("{BOOK}/errors.md"))).into_iter().collect();
    for (name, text) in coded {
        let said = page.remove(&name).unwrap_or_else(|| panic!("{name} is not on the page: {text}"));
        let (quotes, advice) = parts(&said);
        let quote = quotes.first().map(|block| block.lines.join(" ")).unwrap_or_default();
        assert_eq!(words(&quote), words(&text), "{name}");
        assert!(words(&advice).len() > 10, "{name}: what is to be done?");
    }
    assert!(page.is_empty(), "there are no such errors: {:?}", page.keys());
}

/// Without what differs where lines are broken.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The variants of an enum, or a struct by no name, with what `#[error]` says of them, `…` for what is put in. Empty if that is only
/// what is put in.
fn texts_of(source: &str, name: &str) -> Vec<(String, Option<String>)> {
    if let Some((before, _)) = source.split_once(&format!("pub struct {name} ")) {
        let (_, error) = before.rsplit_once("#[error(").unwrap();
        return vec![(String::new(), Some(text_of(error)))];
    }
    let (_, rest) = source.split_once(&format!("pub enum {name} {{\n")).unwrap_or_else(|| panic!("no {name}"));
    let (body, _) = rest.split_once("\n}\n").unwrap();
    let (mut found, mut error) = (Vec::new(), None);
    for (at, line) in body.lines().map(|line| (line.as_ptr() as usize - body.as_ptr() as usize, line)) {
        if line.starts_with("    #[error(") {
            error = Some(text_of(&body[at..]));
        } else if line.starts_with("    ") && line[4..].starts_with(|c: char| c.is_ascii_uppercase()) {
            let variant = line.trim().split(|c: char| !c.is_alphanumeric()).next().unwrap();
            found.push((variant.to_owned(), error.take()));
        }
    }
    found
}

/// The first literal of a text of code, as people read it.
fn text_of(code: &str) -> String {
    let literal =
        code.split_once('"').filter(|(before, _)| !before.contains("transparent")).map_or("", |(_, literal)| literal);
    let (mut text, mut put_in, mut chars) = (String::new(), false, literal.chars().peekable());
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('"', _) => break,
            ('\\', Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
            ('\\', Some('n')) => {
                chars.next();
                text.push(' ');
            }
            ('\\', _) => text.extend(chars.next()),
            ('{', Some('{')) | ('}', Some('}')) => text.extend(chars.next()),
            ('{', _) => put_in = true,
            ('}', _) => {
                put_in = false;
                text.push('…');
            }
            (_, _) if put_in => (),
            (c, _) => text.push(c),
        }
    }
    if text.chars().any(char::is_alphabetic) { text } else { String::new() }
}
