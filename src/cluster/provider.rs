//! Workers by a pilot: a thread that tells the fleet what happens, and does what it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regatta_remote::NodeId;
use serde_json::Value;

use super::fleet::{Action, Berth, Fleet, Limits, Waits};
use super::pilot::{Heard, Machine, Order, Pilot, Ready, Said, beginning, named};
use super::tokens::{Entrance, Tokens};
use super::{Host, Hosted};
use crate::actors::ClusterProvider;
use crate::error::ClusterError;
use crate::notice::notice;
use crate::sched::WorkerId;

/// How long a pilot may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until it takes orders.
    pub(crate) ready: Duration,
    /// Until it says that it is there.
    pub(crate) answer: Duration,
    /// Until a worker that it has started has joined.
    pub(crate) join: Duration,
}

/// What a worker is started as, and what is said to the pilot of each.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) options: Value,
}

/// A pilot that takes orders, and nobody gives any yet.
#[derive(Debug)]
pub(crate) struct Engaged {
    command: Vec<String>,
    patience: Patience,
    pilot: Pilot,
    to: SyncSender<Input>,
    inputs: Receiver<Input>,
    ready: Ready,
}

/// Workers by a pilot. They end when this is closed or dropped, and when this process ends in any way.
pub(crate) struct PilotedWorkers {
    to: SyncSender<Input>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

/// What is asked for from other threads.
struct Shared {
    tokens: Tokens,
    waits: Mutex<Waits>,
    /// How the pilot is called.
    name: String,
}

#[derive(Debug)]
enum Input {
    Demand(usize),
    Retire(NodeId),
    Joined(NodeId),
    /// From the pilot of this number.
    Heard(u64, Heard),
    Close,
}

/// What waits to be taken in: a pilot that says more is kept waiting.
const INPUTS: usize = 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a worker that was let go may take to end.
const LEAVE: Duration = Duration::from_secs(5);
/// How long before its deadline a pilot is asked whether it is there: it has this part of the time to answer.
const ASKED: u32 = 3;
/// How long after its end the last that a pilot has said may take to come.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Lines of a worker's output that are kept for an error, and letters of each.
const LINES: usize = 20;
const LETTERS: usize = 500;

impl Engaged {
    /// Starts a pilot and waits until it takes orders.
    ///
    /// # Errors
    /// It cannot be started, ends, says that it cannot work, or takes too long.
    pub(crate) fn start(
        command: Vec<String>,
        patience: Patience,
        failed: impl FnOnce(&str, String) -> ClusterError,
    ) -> Result<Self, ClusterError> {
        let (to, inputs) = sync_channel(INPUTS);
        let pilot = start(&command, 0, &to)?;
        let wrong = |why: String| ClusterError::pilot(&named(&command), format!("{why}{}", pilot.last_words()));
        let ready = match inputs.recv_timeout(patience.ready) {
            Ok(Input::Heard(_, Heard::Said(Said::Ready(ready)))) => Ok(ready),
            Ok(Input::Heard(_, Heard::Said(Said::Failed { kind, why }))) => {
                Err(failed(&kind, beginning(&why, LETTERS)))
            }
            Ok(Input::Heard(_, Heard::Nonsense(why) | Heard::Gone(why))) => Err(wrong(why)),
            Ok(_) => Err(wrong("does not say first that it is ready".to_owned())),
            Err(_) => {
                let why = format!("was not ready within {} s{}", patience.ready.as_secs_f64(), pilot.last_words());
                Err(failed("not_ready", why))
            }
        };
        match ready {
            Ok(ready) => Ok(Self { command, patience, pilot, to, inputs, ready }),
            Err(error) => {
                pilot.kill();
                Err(error)
            }
        }
    }

    pub(super) fn nodes(&self) -> &[Machine] {
        &self.ready.nodes
    }
}

impl Host for Engaged {
    fn host(&self) -> Option<&str> {
        self.ready.host.as_deref()
    }

    fn serve(self: Box<Self>, start: Start, entrance: Entrance) -> Result<Arc<dyn Hosted>, ClusterError> {
        let Self { command, patience, pilot, to, inputs, .. } = *self;
        let tokens = Tokens::new(Arc::clone(&entrance.authority));
        let shared = Arc::new(Shared { tokens, waits: Mutex::default(), name: named(&command) });
        let fleet = Fleet::new(Limits { join: patience.join, leave: LEAVE });
        let helm = Helm {
            fleet,
            engaged: Some(Running::new(pilot, 0, true)),
            number: 0,
            strangers: BTreeSet::new(),
            command,
            patience,
            start,
            entrance,
            shared: Arc::clone(&shared),
            to: to.clone(),
        };
        let thread = thread::Builder::new().name("regatta-pilot".to_owned()).spawn(move || helm.run(&inputs));
        let thread = thread.map_err(|e| ClusterError::os("start a thread for the pilot", e))?;
        Ok(Arc::new(PilotedWorkers { to, thread: Mutex::new(Some(thread)), shared }))
    }
}

fn start(command: &[String], number: u64, to: &SyncSender<Input>) -> Result<Pilot, ClusterError> {
    let to = to.clone();
    Pilot::start(command, move |heard| to.send(Input::Heard(number, heard)).is_ok())
}

impl PilotedWorkers {
    fn tell(&self, input: Input) {
        // Fails once it is closed: then nothing is wanted any more.
        drop(self.to.send(input));
    }
}

impl ClusterProvider for PilotedWorkers {
    fn demand(&self, workers: usize) {
        self.tell(Input::Demand(workers));
    }

    fn retire(&self, _: WorkerId, node: Option<NodeId>) {
        node.into_iter().for_each(|node| self.tell(Input::Retire(node)));
    }

    fn joined(&self, node: NodeId) {
        self.tell(Input::Joined(node));
    }

    fn has_started(&self, node: NodeId) -> bool {
        self.shared.tokens.berth_of(node).is_some()
    }

    fn waits(&self) -> Option<String> {
        let waits = *self.shared.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = waits.asked.map(|(count, since)| {
            let time = since.elapsed().as_secs();
            format!("for {count} of {}'s places, since {time} s ago", self.shared.name)
        });
        let placed = (waits.placed > 0).then(|| format!("for {} started by it to join", waits.placed));
        let all: Vec<_> = asked.into_iter().chain(placed).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

impl Hosted for PilotedWorkers {
    fn close(&self) {
        // Fails if it has ended already.
        drop(self.to.send(Input::Close));
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join());
        }
    }
}

impl Drop for PilotedWorkers {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for PilotedWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PilotedWorkers").field("pilot", &self.shared.name).finish_non_exhaustive()
    }
}

/// The thread's own.
struct Helm {
    fleet: Fleet,
    /// `None`: it is gone, and started again when workers are wanted.
    engaged: Option<Running>,
    /// Of the last that was started.
    number: u64,
    /// Workers that have joined by tokens of others.
    strangers: BTreeSet<NodeId>,
    command: Vec<String>,
    patience: Patience,
    start: Start,
    entrance: Entrance,
    shared: Arc<Shared>,
    to: SyncSender<Input>,
}

struct Running {
    pilot: Pilot,
    number: u64,
    is_ready: bool,
    /// When something was heard of it last; when it was started, if nothing was.
    heard: Instant,
    /// It was asked since whether it is there.
    is_asked: bool,
    /// When its process was seen to have ended.
    ended: Option<Instant>,
}

impl Running {
    fn new(pilot: Pilot, number: u64, is_ready: bool) -> Self {
        Self { pilot, number, is_ready, heard: Instant::now(), is_asked: false, ended: None }
    }
}

impl Helm {
    fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            match inputs.recv_timeout(TICK) {
                Ok(Input::Close) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => (),
            }
            let now = Instant::now();
            let actions = self.fleet.tick(now);
            self.act(actions);
            self.see_to_the_pilot(now);
            *self.shared.waits.lock().unwrap_or_else(PoisonError::into_inner) = self.fleet.waits();
        }
    }

    fn take(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Demand(workers) => self.demand(workers.saturating_sub(self.strangers.len()), now),
            Input::Retire(node) => {
                self.strangers.remove(&node);
                if let Some(berth) = self.shared.tokens.berth_of(node) {
                    self.fleet.retire(berth, now);
                }
            }
            Input::Joined(node) => match self.shared.tokens.berth_of(node) {
                Some(berth) => self.fleet.joined(berth),
                None => _ = self.strangers.insert(node),
            },
            Input::Heard(number, heard) => self.hear(number, heard, now),
            Input::Close => (),
        }
    }

    fn demand(&mut self, workers: usize, now: Instant) {
        if self.engaged.is_none() && workers > 0 {
            self.number += 1;
            match start(&self.command, self.number, &self.to) {
                Ok(pilot) => self.engaged = Some(Running::new(pilot, self.number, false)),
                Err(error) => return (self.entrance.on_end)(None, error.to_string()),
            }
        }
        let actions = self.fleet.demand(workers, now);
        self.act(actions);
    }

    fn hear(&mut self, number: u64, heard: Heard, now: Instant) {
        // What one said that was given up does not count any more.
        let Some(running) = self.engaged.as_mut().filter(|running| running.number == number) else { return };
        (running.heard, running.is_asked) = (now, false);
        let outcome = match heard {
            Heard::Said(Said::Ready(_)) if !running.is_ready => {
                running.is_ready = true;
                Ok(Vec::new())
            }
            Heard::Said(Said::Ready(_)) => Err("says twice that it is ready".to_owned()),
            Heard::Said(Said::Failed { why, .. }) => Err(format!("has failed: {}", beginning(&why, LETTERS))),
            Heard::Said(_) if !running.is_ready => Err("does not say first that it is ready".to_owned()),
            Heard::Said(Said::Pong) => Ok(Vec::new()),
            Heard::Said(Said::Placed { berth }) => self.fleet.placed(Berth(berth), now),
            Heard::Said(Said::Ended { berth, why, last }) => {
                let last = last.iter().rev().take(LINES).rev().map(|line| format!("\n  {}", beginning(line, LETTERS)));
                let last: String = last.collect();
                let words = if last.is_empty() { last } else { format!(". Its last words:{last}") };
                self.fleet.ended(Berth(berth), format!("{}{words}", beginning(&why, LETTERS)))
            }
            Heard::Nonsense(why) | Heard::Gone(why) => Err(why),
        };
        match outcome {
            Ok(actions) => self.act(actions),
            Err(why) => self.give_up_the_pilot(&why),
        }
    }

    /// Asks a pilot that was silent for long whether it is there, and gives up one that does not answer.
    fn see_to_the_pilot(&mut self, now: Instant) {
        let Some(running) = &mut self.engaged else { return };
        if let Some(how) = running.pilot.how_it_ended() {
            // What it has said before, and why, is under way.
            let since = *running.ended.get_or_insert(now);
            if now.saturating_duration_since(since) >= LAST_WORDS {
                self.give_up_the_pilot(&how);
            }
            return;
        }
        let silent = now.saturating_duration_since(running.heard);
        let limit = if running.is_ready { self.patience.answer } else { self.patience.ready };
        if silent >= limit {
            let what = if running.is_ready { "has not answered" } else { "was not ready" };
            self.give_up_the_pilot(&format!("{what} within {} s", limit.as_secs_f64()));
        } else if running.is_ready && !running.is_asked && silent >= limit / ASKED {
            running.is_asked = true;
            if let Err(why) = running.pilot.order(&Order::Ping) {
                self.give_up_the_pilot(&why);
            }
        }
    }

    /// Ends the pilot, and with it whatever it has placed. Another is started when workers are wanted again.
    fn give_up_the_pilot(&mut self, why: &str) {
        let Some(running) = self.engaged.take() else { return };
        let error = ClusterError::pilot(&self.shared.name, format!("{why}{}", running.pilot.last_words())).to_string();
        notice(&error);
        let actions = self.fleet.abandoned(&error);
        // Once for all that was only asked for: the head asks for them again.
        if !actions.iter().any(|action| matches!(action, Action::Lost { .. })) {
            (self.entrance.on_end)(None, error);
        }
        // First the workers that it may have left alive: they must not come back from berths that are no more.
        self.act(actions);
        running.pilot.kill();
    }

    fn act(&mut self, actions: Vec<Action>) {
        let (mut actions, mut broken) = (VecDeque::from(actions), None);
        while let Some(action) = actions.pop_front() {
            let ordered = match action {
                Action::Place(Berth(berth)) => self.order(&Order::Place { berth, options: &self.start.options }),
                // The fleet ends it no later than its token expires.
                Action::Run(berth) => match self.shared.tokens.make(berth, self.patience.join) {
                    Ok(token) => self.run_at(berth, &token),
                    Err(error) => {
                        // It is one: it was placed just now.
                        actions.extend(self.fleet.ended(berth, error.to_string()).unwrap_or_default());
                        self.order(&Order::End { berth: berth.0 })
                    }
                },
                Action::End(Berth(berth)) => self.order(&Order::End { berth }),
                Action::Lost { berth, had_joined, why } => {
                    self.shared.tokens.lose(&self.entrance, (berth, had_joined), why);
                    Ok(())
                }
                Action::Forget(berth) => {
                    self.shared.tokens.forget(&self.entrance, berth);
                    Ok(())
                }
            };
            broken = broken.or_else(|| ordered.err());
        }
        if let Some(why) = broken {
            self.give_up_the_pilot(&why);
        }
    }

    fn order(&self, order: &Order<'_>) -> Result<(), String> {
        self.engaged.as_ref().map_or(Ok(()), |running| running.pilot.order(order))
    }

    fn run_at(&self, berth: Berth, token: &str) -> Result<(), String> {
        let mut env = self.start.env.clone();
        env.insert("REGATTA_JOIN".to_owned(), self.entrance.address.to_string());
        env.insert("REGATTA_TOKEN".to_owned(), token.to_owned());
        self.order(&Order::Run { berth: berth.0, argv: &self.start.argv, env: &env })
    }
}
