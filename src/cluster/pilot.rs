//! A pilot: a program of another's that gives places for workers, and speaks of them in lines of JSON.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::local::{LastWords, relay};
use crate::error::ClusterError;
use crate::os;

/// What a pilot is told.
#[derive(Debug, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Order<'a> {
    /// Find room for a worker, however long it takes.
    Place {
        berth: u32,
        /// What the pilot's own side has said of each worker.
        options: &'a Value,
    },
    /// Start this there.
    Run { berth: u32, argv: &'a [String], env: &'a BTreeMap<String, String> },
    /// End what is there, if anything is, and give the place back.
    End { berth: u32 },
    /// Say that you are there.
    Ping,
}

/// What a pilot says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Said {
    /// It takes orders. The first that it says.
    Ready(Ready),
    /// It cannot work, and ends.
    Failed {
        /// What kind of failure, for who knows this pilot.
        #[serde(default)]
        kind: String,
        why: String,
    },
    /// There is room.
    Placed {
        berth: u32,
    },
    /// What was there has ended, or there will be no room.
    Ended {
        berth: u32,
        why: String,
        /// The last lines that it printed.
        #[serde(default)]
        last: Vec<String>,
    },
    Pong,
}

/// What a pilot says of where it is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Ready {
    /// The address at which workers that it places find this machine.
    pub(super) host: Option<String>,
    /// What machines there are, as far as it is known.
    pub(super) nodes: Vec<Machine>,
}

/// What a machine has for workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Machine {
    pub(super) cpus: f64,
    pub(super) gpus: f64,
    pub(super) memory: u64,
}

/// What is heard of a pilot: its words, or that they have no sense; that it is gone comes last.
#[derive(Debug)]
pub(super) enum Heard {
    Said(Said),
    Nonsense(String),
    Gone(String),
}

/// A pilot that runs. It is ended when this is dropped, with all that it has started itself.
#[derive(Debug)]
pub(super) struct Pilot {
    child: Child,
    /// `None`: it is to end.
    orders: Option<SyncSender<String>>,
    last_words: LastWords,
}

/// Bytes of a line that a pilot may write.
const LINE: u64 = 64 << 10;
/// Orders that wait for a pilot that does not read them.
const ORDERS: usize = 4096;
/// How long it may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// How soon after its output a process has ended, if it does.
const SOON: Duration = Duration::from_secs(1);

impl Pilot {
    /// Starts one; what it says goes to `hear`, until that no longer wants it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn start(
        command: &[String],
        hear: impl Fn(Heard) -> bool + Send + 'static,
    ) -> Result<Self, ClusterError> {
        let failed =
            |why: &dyn std::fmt::Display| ClusterError::pilot(&named(command), format!("cannot be started: {why}"));
        let (program, arguments) = command.split_first().ok_or_else(|| failed(&"its command is empty"))?;
        // A group of its own: a terminal's interrupt is for this process, with which it ends.
        let mut child = Command::new(program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        let last_words = LastWords::default();
        let stderr = child.stderr.take().map(|pipe| relay(pipe, "pilot", Some(LastWords::clone(&last_words)), |_| ()));
        let (orders, to_write) = sync_channel(ORDERS);
        let process = child.id();
        if let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
            thread::spawn(move || write(stdin, &to_write));
            thread::spawn(move || {
                if listen(stdout, &hear) {
                    let how = os::how_it_ended(process, SOON);
                    let until = Instant::now() + SOON;
                    // The rest of what it said is in the pipe, which others may hold open.
                    while stderr.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < until {
                        thread::sleep(Duration::from_millis(2));
                    }
                    let how =
                        how.map_or_else(|| "has closed its output".to_owned(), |how| format!("has ended ({how})"));
                    hear(Heard::Gone(how));
                }
            });
        }
        Ok(Self { child, orders: Some(orders), last_words })
    }

    /// Gives it an order, which it reads when it does.
    ///
    /// # Errors
    /// It reads none any more.
    pub(super) fn order(&self, order: &Order<'_>) -> Result<(), String> {
        let line = serde_json::to_string(order).map_err(|error| error.to_string())?;
        let sent = self.orders.as_ref().map(|orders| orders.try_send(line));
        match sent {
            Some(Err(TrySendError::Full(_))) => Err(format!("has left {ORDERS} orders unread")),
            // That it is gone is told by its output.
            _ => Ok(()),
        }
    }

    /// Ends it at once, with what it has started in its group: it is broken.
    pub(super) fn kill(&self) {
        // Fails if all is gone.
        drop(os::signal_group(self.child.id(), libc::SIGKILL));
    }

    /// How its process has ended, if it has. Its output may go on: others may hold that.
    pub(super) fn how_it_ended(&self) -> Option<String> {
        os::how_it_ended(self.child.id(), Duration::ZERO).map(|how| format!("has ended ({how})"))
    }

    /// The end of what it wrote on its standard error, for an error: a line each, after a beginning for them all.
    pub(super) fn last_words(&self) -> String {
        let lines = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
        if lines.is_empty() { lines } else { format!(". Its last words:{lines}") }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        // The end of its input is what it ends by.
        self.orders = None;
        let deadline = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        // Also what it has left in its group: it may have been a shell.
        self.kill();
        drop(self.child.wait());
    }
}

/// How a pilot is called in errors: its script may be one of its arguments.
pub(super) fn named(command: &[String]) -> String {
    beginning(&command.join(" "), 80)
}

/// The first line of a text of somebody else's, and no more than so many letters of it.
pub(super) fn beginning(text: &str, letters: usize) -> String {
    let first = text.trim().lines().next().unwrap_or_default();
    let mut kept: String = first.chars().take(letters).collect();
    if kept.len() < text.trim().len() {
        kept.push_str(" ...");
    }
    kept
}

fn write(mut stdin: ChildStdin, orders: &Receiver<String>) {
    while let Ok(order) = orders.recv() {
        // One that is gone says so by its output.
        if stdin.write_all(format!("{order}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// Passes on what a pilot writes, to its end; false if nobody wants it any more, as after nonsense.
fn listen(stdout: impl Read, hear: &impl Fn(Heard) -> bool) -> bool {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        match stdout.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return true,
            Ok(_) => (),
        }
        let heard = if line.len() as u64 == LINE && line.last() != Some(&b'\n') {
            Heard::Nonsense(format!("has written a line of more than {LINE} bytes"))
        } else {
            serde_json::from_slice(&line).map_or_else(
                |error| {
                    let line = String::from_utf8_lossy(&line);
                    Heard::Nonsense(format!("has written what is no event ({error}): {:?}", beginning(&line, 200)))
                },
                Heard::Said,
            )
        };
        let is_nonsense = matches!(heard, Heard::Nonsense(_));
        if !hear(heard) || is_nonsense {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn heard(text: impl Read) -> (Vec<Heard>, bool) {
        let all = Mutex::new(Vec::new());
        let to_its_end = listen(text, &|heard| {
            all.lock().unwrap().push(heard);
            true
        });
        (all.into_inner().unwrap(), to_its_end)
    }

    #[test]
    fn events_are_read_one_a_line_and_what_is_not_known_of_them_is_passed_over() {
        let text = r#"{"event":"ready","host":"10.0.0.1","nodes":[{"cpus":4,"memory":1024}],"ray":"2.60.0"}
{"event":"placed","berth":7,"node":"abc"}
{"event":"ended","berth":7,"why":"exit 1","last":["oh"]}
{"event":"pong"}"#;
        let (all, to_its_end) = heard(text.as_bytes());
        assert!(to_its_end);
        let nodes = vec![Machine { cpus: 4.0, gpus: 0.0, memory: 1024 }];
        let expected = [
            Said::Ready(Ready { host: Some("10.0.0.1".into()), nodes }),
            Said::Placed { berth: 7 },
            Said::Ended { berth: 7, why: "exit 1".into(), last: vec!["oh".into()] },
            Said::Pong,
        ];
        let all: Vec<_> =
            all.into_iter().map(|heard| if let Heard::Said(said) = heard { said } else { panic!() }).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn rubbish_and_lines_without_end_are_told_once_and_nothing_after_them_is_read() {
        for (text, why) in [
            ("hello\n{\"event\":\"pong\"}\n", "no event"),
            ("{\"event\":\"sinks\"}\n", "no event"),
            ("{\"event\":\"placed\"}\n", "missing field `berth`"),
            ("{\"event\":\"placed\",\"berth\":-1}\n", "no event"),
            ("\n", "no event"),
            ("\u{1b}[2J\0\n", r#""\u{1b}[2J\0""#),
        ] {
            let (all, to_its_end) = heard(text.as_bytes());
            assert!(
                !to_its_end && matches!(&all[..], [Heard::Nonsense(said)] if said.contains(why)),
                "{text:?}: {all:?}"
            );
        }
        // A gibibyte, of which no more than a line's bytes are kept.
        let (all, _) = heard(std::io::repeat(b'x').take(1 << 30));
        assert!(matches!(&all[..], [Heard::Nonsense(said)] if said.contains("more than 65536 bytes")), "{all:?}");
        let (all, _) = heard([b'['; 60_000].as_slice());
        assert!(matches!(&all[..], [Heard::Nonsense(said)] if said.len() < 600), "{all:?}");
    }
}
