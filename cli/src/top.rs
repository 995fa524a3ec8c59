//! A screen that follows the cluster.

mod draw;
mod screen;

use std::io::{IsTerminal, stdin, stdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use ratatui::termion::event::Key;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::IntoRawMode;
use ratatui::termion::screen::IntoAlternateScreen;
use regatta_observe::{Answer, Ask, Order};

use crate::Failure;
use crate::client::Client;
use screen::{Screen, Wish};

/// How often the head is asked.
const LOOK: Duration = Duration::from_secs(1);

/// What the screen's thread hears.
enum Heard {
    Key(Key),
    Seen(Result<Vec<Answer>, Failure>),
    Done(Result<Answer, Failure>),
}

/// What is asked of the head, on a thread of its own: it may be slow.
enum Wanted {
    Look(Vec<Ask>),
    Act(Order),
}

/// Follows the cluster until somebody has seen enough.
///
/// # Errors
/// There is no terminal, or none any more.
pub(crate) fn run(client: &Client, address: &str) -> Result<(), Failure> {
    if !stdout().is_terminal() || !stdin().is_terminal() {
        return Err(Failure::Usage("top needs a terminal; `regatta status` says the same in lines".to_owned()));
    }
    let (tell, heard) = mpsc::channel();
    let (want, wanted) = mpsc::channel();
    // It ends with the program: nothing else ends a read of the terminal.
    let keys = tell.clone();
    thread::Builder::new().name("regatta-keys".to_owned()).spawn(move || read_keys(&keys))?;
    thread::scope(|scope| {
        scope.spawn(move || ask_head(client, &wanted, &tell));
        follow(address, &heard, want)
    })
}

fn read_keys(tell: &Sender<Heard>) {
    for key in stdin().keys() {
        let Ok(key) = key else { return };
        if tell.send(Heard::Key(key)).is_err() {
            return;
        }
    }
}

fn ask_head(client: &Client, wanted: &Receiver<Wanted>, tell: &Sender<Heard>) {
    for want in wanted {
        let said = match want {
            Wanted::Look(asks) => Heard::Seen(asks.iter().map(|ask| client.look(ask)).collect()),
            Wanted::Act(order) => Heard::Done(client.act(&order)),
        };
        if tell.send(said).is_err() {
            return;
        }
    }
}

fn follow(address: &str, heard: &Receiver<Heard>, want: Sender<Wanted>) -> Result<(), Failure> {
    // Both are undone when they are dropped, whatever happens.
    let screen = stdout().into_raw_mode()?.into_alternate_screen()?;
    let mut terminal = Terminal::new(TermionBackend::new(screen))?;
    terminal.hide_cursor()?;
    let mut screen = Screen::new(address, is_unicode());
    let gone = |_| Failure::Failed("the thread that asks the head has ended".to_owned());
    let (mut next, mut asked) = (Instant::now(), false);
    loop {
        if !asked && Instant::now() >= next {
            let rows = u32::from(terminal.size()?.height);
            want.send(Wanted::Look(screen.asks(rows))).map_err(gone)?;
            asked = true;
        }
        terminal.draw(|frame| draw::draw(&screen, frame))?;
        let said = match heard.recv_timeout(next.saturating_duration_since(Instant::now()).clamp(SOON, LOOK)) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match said {
            Heard::Seen(seen) => {
                (asked, next) = (false, Instant::now() + LOOK);
                screen.saw(seen);
            }
            Heard::Done(done) => {
                screen.done(done);
                next = Instant::now();
            }
            Heard::Key(key) => match screen.key(key) {
                Wish::Nothing => (),
                Wish::Look => next = Instant::now(),
                Wish::Act(order) => want.send(Wanted::Act(order)).map_err(gone)?,
                Wish::Quit => break,
            },
        }
    }
    terminal.show_cursor()?;
    Ok(())
}

/// The terminal is looked after at least so seldom.
const SOON: Duration = Duration::from_millis(20);

/// Whether the terminal shows more than ASCII, by the variables that say so.
fn is_unicode() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| std::env::var(name).ok());
    set.map(|value| value.to_ascii_uppercase()).find(|value| !value.is_empty()).is_some_and(|v| v.contains("UTF"))
}
