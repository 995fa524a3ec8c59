//! Where queries stand, while somebody waits for them: a block of lines at a terminal, lines of the log elsewhere.
//!
//! At a terminal the block appears on standard error once a query has run for half a second, and leaves one line when it has ended.
//! What others write there would go through it: let a subscriber of `tracing` write through [`stderr`], and do what else writes within
//! [`suspend`]. Elsewhere the same is said in lines of the log, on the level of information, by the target `regatta::progress`.
//! `DAFT_PROGRESS_BAR` or [`Config::progress`](crate::Config::progress) turns it off or into lines everywhere;
//! [`Session::on_progress`](crate::Session::on_progress) is for showing it oneself.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use regatta_observe::{Block, Lines, Progress, QueryState, Room};
use regatta_remote::ActorRef;
use tokio::time::sleep;
use tracing::Level;

use crate::actors::{CONTROL, ProgressOf, SchedulerActor};
use crate::os;
use crate::sched::QueryId;

/// Where it is shown where queries stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressBar {
    /// Nowhere.
    Off,
    /// At a terminal as a block, else in lines of the log.
    #[default]
    Auto,
    /// The same, and the block's last state stays to be seen.
    Persist,
    /// In lines of the log, at a terminal too.
    Log,
}

/// What a session shows of its queries.
pub(crate) struct Shows {
    way: Way,
    callback: Mutex<Option<Callback>>,
    /// Queries that have not ended: what was last heard of those that are shown, and what was said of them.
    queries: Mutex<BTreeMap<QueryId, Shown>>,
}

#[derive(Default)]
struct Shown {
    last: Option<Progress>,
    lines: Lines,
}

type Callback = Arc<dyn Fn(&Progress) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    No,
    Terminal,
    Lines,
}

/// What has run for less long is not shown.
const FIRST: Duration = Duration::from_millis(500);
/// How often it is asked where a query stands, of a scheduler in this process and of one elsewhere.
const EACH: Duration = Duration::from_millis(250);
const EACH_ELSEWHERE: Duration = Duration::from_secs(1);
/// How often the block is drawn, at most.
const DRAW: Duration = Duration::from_millis(100);
/// How long the last word on a query is waited for.
const LAST: Duration = Duration::from_secs(1);
const TARGET: &str = "regatta::progress";

impl Shows {
    pub(crate) fn new(bar: ProgressBar) -> Arc<Self> {
        let way = match bar {
            ProgressBar::Off => Way::No,
            ProgressBar::Auto | ProgressBar::Persist if is_terminal() => Way::Terminal,
            _ => Way::Lines,
        };
        if bar == ProgressBar::Persist {
            screen().block.persist = true;
        }
        Arc::new(Self { way, callback: Mutex::default(), queries: Mutex::default() })
    }

    pub(crate) fn call(&self, callback: Callback) {
        *self.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
    }

    /// Whether a block says what else notices would.
    pub(crate) fn has_block(&self) -> bool {
        self.way == Way::Terminal
    }

    /// Whether anybody would see it.
    fn is_seen(&self) -> bool {
        let is_said = self.way == Way::Lines && tracing::enabled!(target: "regatta::progress", Level::INFO);
        self.has_block() || is_said || self.callback().is_some()
    }

    fn callback(&self) -> Option<Callback> {
        self.callback.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn queries(&self) -> MutexGuard<'_, BTreeMap<QueryId, Shown>> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shown(&self, query: QueryId) -> bool {
        self.queries().get(&query).is_some_and(|shown| shown.last.is_some())
    }

    /// A query begins. Whoever has its result says that it has [`ended`](Self::ended), or is [`gone`](Self::gone).
    pub(crate) fn begins(&self, query: QueryId) {
        self.queries().insert(query, Shown::default());
    }

    /// Shows where a query stands, until it has ended.
    pub(crate) async fn follow(self: Arc<Self>, scheduler: ActorRef<SchedulerActor>, query: QueryId, is_here: bool) {
        sleep(FIRST).await;
        loop {
            if self.is_seen() {
                let Ok(Some(progress)) = scheduler.ask(ProgressOf(query), CONTROL).await else { return };
                let is_over = progress.state != QueryState::Running;
                // Nobody may take its result for a while.
                if !is_over || self.is_shown(query) {
                    self.show(query, *progress);
                }
                if is_over {
                    return;
                }
            }
            sleep(if is_here { EACH } else { EACH_ELSEWHERE }).await;
        }
    }

    /// A query has ended, whose result is taken now.
    pub(crate) async fn ended(&self, scheduler: &ActorRef<SchedulerActor>, query: QueryId) {
        if !self.is_shown(query) {
            self.queries().remove(&query);
            return;
        }
        match scheduler.ask(ProgressOf(query), LAST).await {
            Ok(Some(progress)) => self.show(query, *progress),
            _ => self.gone(query),
        }
    }

    /// Nobody wants a query any more. If it is shown still, it has not ended by itself.
    pub(crate) fn gone(&self, query: QueryId) {
        let last = self.queries().get(&query).and_then(|shown| shown.last.clone());
        if let Some(mut progress) = last {
            progress.state = QueryState::Cancelled;
            self.show(query, progress);
        }
        self.queries().remove(&query);
    }

    /// One at a time, so that what is said last is the end.
    fn show(&self, query: QueryId, progress: Progress) {
        let mut queries = self.queries();
        // Its end was told already.
        let Some(shown) = queries.get_mut(&query) else { return };
        shown.last = Some(progress.clone());
        if self.way == Way::Lines {
            let lines = shown.lines.next(&progress);
            lines.iter().for_each(|line| tracing::info!(target: TARGET, "{line}"));
        }
        if progress.state != QueryState::Running {
            queries.remove(&query);
        }
        if let Some(callback) = self.callback() {
            callback(&progress);
        }
        if self.has_block() {
            screen().show(progress);
        }
    }
}

impl fmt::Debug for Shows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shows").field("way", &self.way).finish_non_exhaustive()
    }
}

/// Notebooks have no terminal that lines can be drawn over.
fn is_terminal() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    io::stderr().is_terminal() && !is_dumb && std::env::var_os("EVCXR_IS_RUNTIME").is_none()
}

/// What is shown at the terminal, by all sessions of this process.
struct Screen {
    block: Block,
    queries: Vec<Progress>,
    drawn: Option<Instant>,
}

static SCREEN: Mutex<Screen> = Mutex::new(Screen { block: Block::new(), queries: Vec::new(), drawn: None });

/// The screen, for one to draw at a time.
fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    fn show(&mut self, progress: Progress) {
        let is_over = progress.state != QueryState::Running;
        match self.queries.iter_mut().find(|known| known.id == progress.id) {
            Some(known) => *known = progress,
            None => self.queries.push(progress),
        }
        if !is_over && self.drawn.is_some_and(|at| at.elapsed() < DRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let (width, height) = os::terminal_size().unwrap_or((80, 24));
        // A terminal that is gone shows nothing.
        let _ = self.block.show(&self.queries, Room { width, height, unicode: is_unicode() }, &mut io::stderr().lock());
        self.queries.retain(|query| query.state == QueryState::Running);
    }
}

fn is_unicode() -> bool {
    let says =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    says.is_some_and(|says| says.to_ascii_lowercase().replace('-', "").contains("utf8"))
}

/// Says something to people above what is shown; if nothing is, says that nothing was said.
pub(crate) fn say_above(line: &str) -> bool {
    let mut screen = screen();
    if screen.block.is_empty() {
        return false;
    }
    // Standard error that is gone hears nothing.
    let _ = screen.block.above(format!("{line}\n").as_bytes(), &mut io::stderr().lock());
    true
}

/// Runs something that writes to the terminal by itself, with the block taken away meanwhile. It must not call this itself.
pub fn suspend<T>(what: impl FnOnce() -> T) -> T {
    let mut screen = screen();
    let _ = screen.block.take_away(&mut io::stderr().lock());
    let made = what();
    screen.drawn = None;
    made
}

/// Standard error for a subscriber of `tracing`: what is written goes above the block that shows where queries stand.
///
/// ```no_run
/// tracing_subscriber::fmt().with_writer(regatta::progress::stderr).init();
/// ```
pub fn stderr() -> Stderr {
    Stderr(Vec::new())
}

/// See [`stderr`](fn@stderr): what is written to it goes on when it is flushed or dropped.
#[derive(Debug)]
pub struct Stderr(Vec<u8>);

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() { Ok(()) } else { screen().block.above(&bytes, &mut io::stderr().lock()) }
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}
