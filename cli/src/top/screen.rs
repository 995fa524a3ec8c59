//! What is on the screen, and what keys do to it. Pure.

use std::collections::{BTreeMap, VecDeque};

use ratatui::termion::event::Key;
use regatta_observe::{Answer, Ask, ClusterView, Order, QueryRow, QueryState, QueryView, line};

use crate::Failure;

/// Looks that are remembered of a worker.
const REMEMBERED: usize = 60;

/// The screen.
pub(crate) struct Screen {
    pub(super) address: String,
    pub(super) unicode: bool,
    pub(super) page: Page,
    /// The line that is selected, among those that are shown.
    pub(super) at: usize,
    /// Lines of an opened query that are above the screen.
    pub(super) above: usize,
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) view: Option<ClusterView>,
    pub(super) query: Option<QueryView>,
    /// The last word of the head, or of this.
    pub(super) word: Option<Result<String, String>>,
    /// CPUs that were busy, in parts of what a worker has.
    pub(super) busy: BTreeMap<u32, VecDeque<f64>>,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    Overview,
    Workers,
    Pools,
    Waits,
    /// The query with this number.
    Query(String),
}

/// What keys mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Commands,
    Filter,
    /// Whether to cancel this query.
    Cancel(String),
    Help,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Nothing,
    Look,
    Act(Order),
    Quit,
}

impl Screen {
    pub(crate) fn new(address: &str, unicode: bool) -> Self {
        Self {
            address: line(address),
            unicode,
            page: Page::Overview,
            at: 0,
            above: 0,
            filter: String::new(),
            mode: Mode::Commands,
            view: None,
            query: None,
            word: None,
            busy: BTreeMap::new(),
        }
    }

    /// What it takes to show it, on so many lines: no more than those.
    pub(crate) fn asks(&self, rows: u32) -> Vec<Ask> {
        // Who filters sees what does not fit.
        let rows = if self.filter.is_empty() { rows } else { 256 };
        let mut asks = vec![Ask::Cluster { queries: rows, from: 0, workers: rows }];
        if let Page::Query(query) = &self.page {
            asks.push(Ask::Query { query: query.clone() });
        }
        asks
    }

    /// The head has answered.
    pub(crate) fn saw(&mut self, seen: Result<Vec<Answer>, Failure>) {
        match seen {
            Ok(answers) => {
                self.word = self.word.take().filter(Result::is_ok);
                for answer in answers {
                    match answer {
                        Answer::Cluster(view) => self.look(*view),
                        Answer::Query(view) => self.query = Some(*view),
                        _ => (),
                    }
                }
            }
            Err(failure) => self.word = Some(Err(failure.to_string())),
        }
    }

    fn look(&mut self, view: ClusterView) {
        self.busy.retain(|worker, _| view.workers.iter().any(|row| row.worker == *worker));
        for row in &view.workers {
            let of = self.busy.entry(row.worker).or_default();
            of.push_back(row.busy.map_or(0.0, |busy| busy / row.cpus.0.max(0.01)));
            if of.len() > REMEMBERED {
                of.pop_front();
            }
        }
        self.view = Some(view);
        self.at = self.at.min(self.queries().count().saturating_sub(1));
    }

    /// An order was carried out, or not.
    pub(crate) fn done(&mut self, done: Result<Answer, Failure>) {
        self.word = Some(match done {
            Ok(Answer::Cancelled(row)) => Ok(row.to_string()),
            Ok(_) => Err("the head has answered something else".to_owned()),
            Err(failure) => Err(failure.to_string()),
        });
    }

    /// The queries that are shown.
    pub(super) fn queries(&self) -> impl Iterator<Item = &QueryRow> {
        let all = self.view.iter().flat_map(|view| &view.queries);
        all.filter(|row| {
            let name = row.name.as_deref().unwrap_or_default();
            [&row.id, name, row.state(), &row.doing].iter().any(|text| text.contains(&self.filter))
        })
    }

    fn selected(&self) -> Option<&QueryRow> {
        match &self.page {
            Page::Query(id) => self.query.as_ref().map(|view| &view.row).filter(|row| row.id == *id),
            Page::Overview => self.queries().nth(self.at),
            _ => None,
        }
    }

    /// A key.
    pub(crate) fn key(&mut self, key: Key) -> Wish {
        if key == Key::Ctrl('c') {
            return Wish::Quit;
        }
        match &mut self.mode {
            Mode::Help => {
                self.mode = Mode::Commands;
                Wish::Nothing
            }
            Mode::Filter => {
                match key {
                    Key::Char('\n') => self.mode = Mode::Commands,
                    Key::Esc => (self.mode, self.filter) = (Mode::Commands, String::new()),
                    Key::Backspace => drop(self.filter.pop()),
                    Key::Char(c) if !c.is_control() && self.filter.len() < 64 => self.filter.push(c),
                    _ => return Wish::Nothing,
                }
                self.at = 0;
                Wish::Look
            }
            Mode::Cancel(query) => {
                let query = std::mem::take(query);
                self.mode = Mode::Commands;
                if key == Key::Char('y') { Wish::Act(Order::Cancel { query }) } else { Wish::Nothing }
            }
            Mode::Commands => self.command(key),
        }
    }

    fn command(&mut self, key: Key) -> Wish {
        let is_query = matches!(self.page, Page::Query(_));
        match key {
            Key::Char('q') => return Wish::Quit,
            Key::Char('?') => self.mode = Mode::Help,
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Char('1') | Key::Esc => self.open(Page::Overview),
            Key::Char('2') => self.open(Page::Workers),
            Key::Char('3') => self.open(Page::Pools),
            Key::Char('4') => self.open(Page::Waits),
            Key::Down | Key::Char('j') if is_query => self.above += 1,
            Key::Up | Key::Char('k') if is_query => self.above = self.above.saturating_sub(1),
            Key::Down | Key::Char('j') => self.at = (self.at + 1).min(self.queries().count().saturating_sub(1)),
            Key::Up | Key::Char('k') => self.at = self.at.saturating_sub(1),
            Key::Char('\n') => {
                if let Some(id) = self.selected().map(|row| row.id.clone()) {
                    self.open(Page::Query(id));
                    return Wish::Look;
                }
            }
            Key::Char('c') => match self.selected() {
                Some(row) if row.state == QueryState::Running => self.mode = Mode::Cancel(row.id.clone()),
                Some(_) => self.word = Some(Err("that query does not run any more".to_owned())),
                None => (),
            },
            _ => (),
        }
        Wish::Nothing
    }

    fn open(&mut self, page: Page) {
        if self.page != page {
            (self.page, self.above, self.query, self.word) = (page, 0, None, None);
        }
    }
}
