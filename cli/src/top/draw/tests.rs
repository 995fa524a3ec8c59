use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::termion::event::Key;
use regatta_observe::{Answer, Ask, Order, Progress, QueryView};

use super::*;
use crate::Failure;
use crate::testing::{HOSTILE, view};
use crate::top::screen::Wish;

fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(screen, frame)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let lines = buffer.content.chunks(width.into()).map(|cells| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

/// Compares with a file. `REGATTA_TEST_GOLDEN=write` writes it: look at what has changed.
fn is_golden(name: &str, screen: &Screen, (width, height): (u16, u16)) {
    let (path, text) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name), drawn(screen, width, height));
    if std::env::var_os("REGATTA_TEST_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == text, "{} differs from:\n{text}", path.display());
}

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (132, 40);

/// It has looked a few times.
fn screen(unicode: bool) -> Screen {
    let mut screen = Screen::new("head:7700", unicode);
    for look in 0..14 {
        let mut view = view();
        for worker in &mut view.workers {
            worker.busy = Some(f64::from((look * (worker.worker + 1)) % 5));
        }
        screen.saw(Ok(vec![Answer::Cluster(Box::new(view))]));
    }
    screen
}

fn query() -> Answer {
    let row = view().queries[0].clone();
    let progress = Progress::default();
    let mut view = QueryView { waits: vec![(1, row.waits[0].clone())], row, progress };
    (view.progress.id, view.progress.cpus) = (view.row.id.clone(), 12.0);
    Answer::Query(Box::new(view))
}

#[test]
fn each_page_is_the_golden_screen() {
    let mut top = screen(true);
    is_golden("overview.txt", &top, SMALL);
    is_golden("overview_large.txt", &top, LARGE);
    is_golden("overview_ascii.txt", &screen(false), SMALL);
    for (key, name) in [('2', "workers"), ('3', "pools"), ('4', "waits"), ('?', "help")] {
        top.key(Key::Char(key));
        is_golden(&format!("{name}.txt"), &top, SMALL);
    }
    top.key(Key::Char('x'));
    top.key(Key::Char('1'));
    top.key(Key::Char('\n'));
    top.saw(Ok(vec![query()]));
    is_golden("query.txt", &top, SMALL);
    is_golden("first.txt", &Screen::new("head:7700", true), SMALL);
}

#[test]
fn keys_select_open_filter_and_cancel_only_what_runs_and_only_after_a_yes() {
    let mut top = screen(true);
    let key = |top: &mut Screen, key| top.key(key);
    assert_eq!(top.asks(24), [Ask::Cluster { queries: 24, from: 0, workers: 24 }]);
    for _ in 0..5 {
        key(&mut top, Key::Down);
    }
    // The last one has failed.
    assert_eq!(key(&mut top, Key::Char('c')), Wish::Nothing);
    assert!(drawn(&top, 80, 24).contains("! that query does not run any more"));
    key(&mut top, Key::Up);
    assert_eq!(key(&mut top, Key::Char('\n')), Wish::Look);
    let id = view().queries[1].id.clone();
    assert_eq!(top.asks(24)[1], Ask::Query { query: id.clone() });
    key(&mut top, Key::Esc);
    for (answer, wish) in [('n', Wish::Nothing), ('\n', Wish::Nothing), ('y', Wish::Act(Order::Cancel { query: id }))] {
        assert_eq!(key(&mut top, Key::Char('c')), Wish::Nothing);
        assert!(drawn(&top, 80, 24).contains("cancel query 00000008? y: yes; anything else: no"));
        assert_eq!(key(&mut top, Key::Char(answer)), wish);
    }
    top.done(Err(Failure::Refused("this token may look and do nothing else".to_owned())));
    assert!(drawn(&top, 80, 24).contains("! refused: this token may look and do nothing else"));
    key(&mut top, Key::Char('/'));
    "nigh".chars().for_each(|c| assert_eq!(top.key(Key::Char(c)), Wish::Look));
    let shown = drawn(&top, 80, 24);
    assert!(shown.contains("00000007") && !shown.contains("00000008") && shown.contains("/nigh_"), "{shown}");
    assert_eq!(top.asks(24), [Ask::Cluster { queries: 256, from: 0, workers: 256 }]);
    // While it is typed, q is a letter.
    assert_eq!(key(&mut top, Key::Char('q')), Wish::Look);
    key(&mut top, Key::Esc);
    assert_eq!((key(&mut top, Key::Char('q')), key(&mut top, Key::Ctrl('c'))), (Wish::Quit, Wish::Quit));
}

#[test]
fn a_head_that_does_not_answer_is_named_and_what_was_seen_stays() {
    let mut top = screen(true);
    top.saw(Err(Failure::Unreachable("the head does not answer".to_owned())));
    let shown = drawn(&top, 80, 24);
    assert!(
        shown.contains("! cannot reach the head: the head does not answer") && shown.contains("nightly"),
        "{shown}"
    );
    top.saw(Ok(vec![Answer::Cluster(Box::new(view()))]));
    assert!(!drawn(&top, 80, 24).contains("cannot reach"));
}

#[test]
fn whatever_the_room_and_the_names_nothing_panics_or_moves_the_cursor() {
    let mut hostile = view();
    for row in &mut hostile.queries {
        (row.id, row.name, row.doing) = (HOSTILE.to_owned(), Some("船荷".repeat(20)), HOSTILE.to_owned());
        (row.waits, row.error) = (vec![HOSTILE.to_owned()], Some(HOSTILE.to_owned()));
    }
    hostile.pools.iter_mut().for_each(|row| row.udf = HOSTILE.to_owned());
    hostile.workers.extend((3..2000).map(|worker| WorkerRow { worker, ..WorkerRow::default() }));
    hostile.fleet.workers = 2000;
    let mut top = Screen::new(HOSTILE, true);
    top.saw(Ok(vec![Answer::Cluster(Box::new(hostile))]));
    top.word = Some(Err(HOSTILE.to_owned()));
    for page in ['1', '2', '3', '4', '\n', '?', '?', '/'] {
        top.key(Key::Char(page));
        for (width, height) in [(1, 1), (2, 3), (10, 4), (80, 24), (300, 100)] {
            let shown = drawn(&top, width, height);
            assert!(
                shown.chars().all(|c| c == '\n' || !c.is_control() && !('\u{202a}'..='\u{202e}').contains(&c)),
                "{shown:?}"
            );
        }
    }
}
