//! What a replica's process writes to its standard output and error: into the log, line by line.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Span;

use crate::os;

/// The target of these lines in the log.
pub(crate) const TARGET: &str = "regatta::output";
/// Lines of standard error that an error quotes.
const KEPT: usize = 5;
/// How long the rest of the output of a process that has ended may take. What the process has started may hold it open.
const REST: Duration = Duration::from_millis(500);

pub(super) struct Output {
    /// Whose its lines are: that of the call that runs.
    span: Arc<Mutex<Span>>,
    kept: Arc<Mutex<VecDeque<String>>>,
    /// Closed when standard error has ended.
    ended: Receiver<()>,
}

impl Output {
    /// Reads both to their end, on threads of their own. Lines belong to the current span.
    pub(super) fn read(stdout: Option<impl Read + Send + 'static>, stderr: Option<impl Read + Send + 'static>) -> Self {
        let kept: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let span = Arc::new(Mutex::new(Span::current()));
        let (open, ended) = channel();
        if let Some(stdout) = stdout {
            each_line(stdout, Arc::clone(&span), |line| tracing::info!(target: TARGET, "{line}"));
        }
        if let Some(stderr) = stderr {
            let kept = Arc::clone(&kept);
            each_line(stderr, Arc::clone(&span), move |line| {
                let _open = &open;
                tracing::info!(target: TARGET, stream = "stderr", "{line}");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                while kept.len() > KEPT {
                    kept.pop_front();
                }
            });
        }
        Self { span, kept, ended }
    }

    /// From here on lines belong to the current span.
    pub(super) fn belongs_here(&self) {
        *self.span.lock().unwrap_or_else(PoisonError::into_inner) = Span::current();
    }

    /// The last lines of standard error, of a process that has ended.
    pub(super) fn last_words(&self) -> String {
        let _ = self.ended.recv_timeout(REST);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

fn each_line(pipe: impl Read + Send + 'static, span: Arc<Mutex<Span>>, mut with: impl FnMut(String) + Send + 'static) {
    let read = move || {
        for line in os::lines(pipe) {
            let span = span.lock().unwrap_or_else(PoisonError::into_inner).clone();
            span.in_scope(|| with(line));
        }
    };
    // Without a thread the process ends when it has filled the pipe and is told that nobody reads: its output is lost.
    if let Err(error) = thread::Builder::new().name("regatta-output".to_owned()).spawn(read) {
        tracing::warn!(%error, "no thread for a replica's output");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_a_line_without_end_is_cut() {
        let lines = (0..100).map(|n| format!("line {n}\n")).collect::<String>() + &"x".repeat(1 << 20);
        let output = Output::read(None::<std::io::Empty>, Some(std::io::Cursor::new(lines)));
        let last = output.last_words();
        assert!(last.len() <= KEPT * (os::LINE as usize + 3), "{}", last.len());
        assert!(last.ends_with('x'));
        let output = Output::read(None::<std::io::Empty>, Some("one\ntwo\nno end".as_bytes()));
        assert_eq!(output.last_words(), "one | two | no end");
    }
}
