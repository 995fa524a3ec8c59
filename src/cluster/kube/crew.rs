//! Workers as pods: a thread that tells the fleet what is asked and seen, and asks the API server for what it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regatta_remote::NodeId;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{interval, timeout};

use super::api::{Api, Failure};
use super::pod::{Blueprint, Pod, Stands};
use super::watch::{PAUSES, Sight, look};
use crate::actors::ClusterProvider;
use crate::cluster::Hosted;
use crate::cluster::fleet::{Action, Berth, Fleet, Limits, Waits};
use crate::cluster::tokens::{Entrance, Tokens};
use crate::error::ClusterError;
use crate::notice::notice;
use crate::sched::WorkerId;

/// How long pods may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From when a worker runs until it has joined.
    pub(super) join: Duration,
    /// While its image cannot be had, or its container not be made.
    pub(super) stuck: Duration,
}

/// Workers as pods. They are deleted when this is closed or dropped; when this process ends otherwise they end of that, and
/// Kubernetes deletes them with this pod.
pub(super) struct KubeWorkers {
    to: UnboundedSender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

/// What is asked for from other threads.
struct Shared {
    tokens: Tokens,
    waits: Mutex<Option<String>>,
}

#[derive(Debug)]
enum Order {
    Demand(usize),
    Retire(NodeId),
    Joined(NodeId),
    Close,
}

/// What requests have come to.
enum Done {
    Created(Berth, Result<(), Failure>),
    /// The Secret; and the pod, if it was asked for.
    Deleted(Berth, bool, Result<(), Failure>),
}

/// Pods that are asked for at once, and how often.
const BATCH: usize = 10;
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a worker that was let go may take to end, before its pod is deleted.
const LEAVE: Duration = Duration::from_secs(5);
/// A pod may wait for a node for as long as that takes, and its token with it.
const TOKEN: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the end may take: then Kubernetes deletes with the head's pod what is left. And how long of it is for answers that have not
/// come yet.
const END: Duration = Duration::from_secs(5);
const ANSWERS: Duration = Duration::from_secs(2);
/// What was seen and is not taken in yet.
const SIGHTS: usize = 256;

impl KubeWorkers {
    /// # Errors
    /// There is no thread.
    pub(super) fn start(
        api: Arc<Api>,
        blueprint: Blueprint,
        patience: Patience,
        entrance: Entrance,
    ) -> Result<Arc<Self>, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| ClusterError::os("start a runtime for Kubernetes", e))?;
        let (to, orders) = unbounded_channel();
        let tokens = Tokens::new(Arc::clone(&entrance.authority));
        let shared = Arc::new(Shared { tokens, waits: Mutex::default() });
        let (seen, sights) = channel(SIGHTS);
        let crew = Crew {
            fleet: Fleet::new(Limits { join: patience.join, leave: LEAVE }),
            api,
            blueprint: Arc::new(blueprint),
            stuck: patience.stuck,
            entrance,
            shared: Arc::clone(&shared),
            strangers: BTreeSet::new(),
            queue: VecDeque::new(),
            creating: BTreeSet::new(),
            pods: BTreeMap::new(),
            doomed: BTreeMap::new(),
            next_batch: Instant::now(),
            pause: PAUSES.0,
            is_late: false,
            away: None,
            requests: JoinSet::new(),
        };
        let thread = thread::Builder::new().name("regatta-kube".to_owned());
        let thread = thread.spawn(move || run(&runtime, crew, orders, seen, sights));
        let thread = thread.map_err(|e| ClusterError::os("start a thread for Kubernetes", e))?;
        Ok(Arc::new(Self { to, thread: Mutex::new(Some(thread)), shared }))
    }

    fn tell(&self, order: Order) {
        // Fails once it is closed: then nothing is wanted any more.
        drop(self.to.send(order));
    }
}

impl ClusterProvider for KubeWorkers {
    fn demand(&self, workers: usize) {
        self.tell(Order::Demand(workers));
    }

    fn retire(&self, _: WorkerId, node: Option<NodeId>) {
        node.into_iter().for_each(|node| self.tell(Order::Retire(node)));
    }

    fn joined(&self, node: NodeId) {
        self.tell(Order::Joined(node));
    }

    fn has_started(&self, node: NodeId) -> bool {
        self.shared.tokens.berth_of(node).is_some()
    }

    fn waits(&self) -> Option<String> {
        self.shared.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Hosted for KubeWorkers {
    fn close(&self) {
        self.tell(Order::Close);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join());
        }
    }
}

impl Drop for KubeWorkers {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for KubeWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeWorkers").finish_non_exhaustive()
    }
}

/// The thread's own.
struct Crew {
    fleet: Fleet,
    api: Arc<Api>,
    blueprint: Arc<Blueprint>,
    stuck: Duration,
    entrance: Entrance,
    shared: Arc<Shared>,
    /// Workers that have joined by tokens of others.
    strangers: BTreeSet<NodeId>,
    /// Berths whose pods are to be asked for.
    queue: VecDeque<Berth>,
    /// Those of which a request is under way.
    creating: BTreeSet<Berth>,
    /// Those that were asked for, and are wanted.
    pods: BTreeMap<Berth, Asked>,
    /// What is to be deleted.
    doomed: BTreeMap<Berth, Doom>,
    next_batch: Instant,
    /// After an attempt that did not reach the API server.
    pause: Duration,
    /// One of the last batch did not: they wait together.
    is_late: bool,
    /// What it did when it was asked last, if it did not answer.
    away: Option<String>,
    requests: JoinSet<Done>,
}

/// A pod that was asked for.
struct Asked {
    token: String,
    /// Since when it surely is there; `None`: its request is under way, or is to be made again.
    there: Option<Instant>,
    /// Since when nothing helps it.
    stuck: Option<Instant>,
    /// Why it does not run.
    why: Option<String>,
}

struct Doom {
    /// Else only its Secret.
    pod: bool,
    next: Instant,
    pause: Duration,
    is_under_way: bool,
}

fn run(
    runtime: &Runtime,
    mut crew: Crew,
    mut orders: UnboundedReceiver<Order>,
    seen: Sender<Sight>,
    mut sights: Receiver<Sight>,
) {
    let tasks = LocalSet::new();
    let watch = tasks.spawn_local(look(Arc::clone(&crew.api), crew.blueprint.labels(), seen));
    tasks.block_on(runtime, async {
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Close) | None => break,
                    Some(order) => crew.take(order),
                },
                Some(sight) = sights.recv() => crew.see(sight),
                Some(Ok(done)) = crew.requests.join_next() => crew.take_in(done),
                _ = ticks.tick() => crew.tick(),
            }
            let waits = crew.waits();
            *crew.shared.waits.lock().unwrap_or_else(PoisonError::into_inner) = waits;
        }
        watch.abort();
        if timeout(END, crew.end()).await.is_err() {
            notice("the API server of Kubernetes has not taken back all workers' pods; it deletes them with this pod");
        }
    });
}

impl Crew {
    fn take(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Demand(workers) => {
                let actions = self.fleet.demand(workers.saturating_sub(self.strangers.len()), now);
                self.act(actions);
            }
            Order::Retire(node) => {
                self.strangers.remove(&node);
                if let Some(berth) = self.shared.tokens.berth_of(node) {
                    self.fleet.retire(berth, now);
                }
            }
            Order::Joined(node) => match self.shared.tokens.berth_of(node) {
                Some(berth) => {
                    self.fleet.joined(berth);
                    // Whatever was answered, it is there; and its token is used up.
                    self.pods.entry(berth).and_modify(|asked| asked.there = Some(now));
                    self.queue.retain(|queued| *queued != berth);
                    self.doom(berth, false);
                }
                None => _ = self.strangers.insert(node),
            },
            Order::Close => (),
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Place(berth) => self.queue.push_back(berth),
                // It runs already; and what is to end is forgotten next.
                Action::Run(_) | Action::End(_) => (),
                Action::Lost { berth, had_joined, why } => {
                    self.shared.tokens.lose(&self.entrance, (berth, had_joined), why);
                }
                Action::Forget(berth) => {
                    self.shared.tokens.forget(&self.entrance, berth);
                    self.queue.retain(|queued| *queued != berth);
                    if self.pods.remove(&berth).is_some() {
                        self.doom(berth, true);
                    }
                }
            }
        }
    }

    fn doom(&mut self, berth: Berth, pod: bool) {
        let new = || Doom { pod, next: Instant::now(), pause: PAUSES.0, is_under_way: false };
        let doom = self.doomed.entry(berth).or_insert_with(new);
        doom.pod |= pod;
    }

    /// The worker of a berth is no more, or never comes.
    fn lose(&mut self, berth: Berth, why: String) {
        // It is one of ours: its pod was asked for.
        let actions = self.fleet.ended(berth, why).unwrap_or_default();
        self.act(actions);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let actions = self.fleet.tick(now);
        self.act(actions);
        let overdue =
            |asked: &Asked| asked.stuck.is_some_and(|since| now.saturating_duration_since(since) >= self.stuck);
        let stuck: Vec<_> = self.pods.iter().filter(|(_, asked)| overdue(asked)).map(|(berth, _)| *berth).collect();
        for berth in stuck {
            let why = self.pods.get(&berth).and_then(|asked| asked.why.clone()).unwrap_or_default();
            let name = self.blueprint.name(berth);
            self.lose(berth, format!("its pod {name} could not start within {} s: {why}", self.stuck.as_secs_f64()));
        }
        self.delete(now);
        if now >= self.next_batch && !self.queue.is_empty() {
            (self.next_batch, self.is_late) = (now + BATCH_EVERY, false);
            let batch: Vec<_> = self.queue.drain(..self.queue.len().min(BATCH)).collect();
            batch.into_iter().for_each(|berth| self.create(berth));
        }
    }

    fn create(&mut self, berth: Berth) {
        let again = self.pods.get(&berth).map(|asked| Ok(asked.token.clone()));
        let token = match again.unwrap_or_else(|| self.shared.tokens.make(berth, TOKEN)) {
            Ok(token) => token,
            Err(error) => return self.lose(berth, error.to_string()),
        };
        let asked = Asked { token: token.clone(), there: None, stuck: None, why: None };
        self.pods.entry(berth).or_insert(asked);
        self.creating.insert(berth);
        let (api, blueprint) = (Arc::clone(&self.api), Arc::clone(&self.blueprint));
        self.requests.spawn(async move {
            // The Secret first: its pod would wait for it.
            let done = match api.create("secrets", &blueprint.secret(berth, &token)).await {
                Ok(()) => api.create("pods", &blueprint.pod(berth)).await,
                failed => failed,
            };
            Done::Created(berth, done)
        });
    }

    fn delete(&mut self, now: Instant) {
        for (berth, doom) in &mut self.doomed {
            // What is being made would come after it was deleted.
            if doom.is_under_way || doom.next > now || self.creating.contains(berth) {
                continue;
            }
            doom.is_under_way = true;
            let (api, name, berth, pod) = (Arc::clone(&self.api), self.blueprint.name(*berth), *berth, doom.pod);
            self.requests.spawn(async move {
                let deleted = match api.delete("secrets", &name).await {
                    Ok(()) if pod => api.delete("pods", &name).await,
                    done => done,
                };
                Done::Deleted(berth, pod, deleted)
            });
        }
    }

    fn take_in(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Created(berth, outcome) => {
                self.creating.remove(&berth);
                let waits = self.pods.get(&berth).is_some_and(|asked| asked.there.is_none());
                match outcome {
                    Ok(()) => {
                        self.answers();
                        self.pods.entry(berth).and_modify(|asked| asked.there = Some(now));
                    }
                    Err(Failure::Away(why)) if waits => {
                        self.queue.push_front(berth);
                        self.is_away(&why, now);
                    }
                    Err(failure) if waits => {
                        let name = self.blueprint.name(berth);
                        self.lose(berth, format!("Kubernetes refuses its pod {name}: {failure}"));
                    }
                    // It has joined all the same, or was taken back.
                    Err(_) => (),
                }
            }
            Done::Deleted(berth, pod, outcome) => {
                let Some(doom) = self.doomed.get_mut(&berth) else { return };
                doom.is_under_way = false;
                match outcome {
                    Ok(()) if pod || !doom.pod => _ = self.doomed.remove(&berth),
                    // More is to be deleted than was asked for.
                    Ok(()) => (),
                    Err(failure) => {
                        doom.next = now + doom.pause;
                        doom.pause = (doom.pause * 2).min(PAUSES.1);
                        if let Failure::Refused(..) = failure {
                            notice(format_args!(
                                "Kubernetes refuses to delete pod {}: {failure}",
                                self.blueprint.name(berth)
                            ));
                        }
                    }
                }
            }
        }
    }

    fn answers(&mut self) {
        (self.away, self.pause) = (None, PAUSES.0);
    }

    fn is_away(&mut self, why: &str, now: Instant) {
        let server = &self.api.access.server;
        self.away = Some(format!("for the API server of Kubernetes at {server} ({why})"));
        if !std::mem::replace(&mut self.is_late, true) {
            self.next_batch = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
    }

    fn see(&mut self, sight: Sight) {
        match sight {
            Sight::Away(Failure::Away(why) | Failure::Refused(_, why)) => {
                self.away = Some(format!("for the API server of Kubernetes at {} ({why})", self.api.access.server));
            }
            Sight::One(pod) => self.look_at(&pod),
            Sight::Gone(pod) => {
                if let Some(berth) = pod.berth().filter(|berth| self.pods.contains_key(berth)) {
                    // What it left says more than that it is gone.
                    let why = match pod.stands() {
                        Stands::Ended(why) => why,
                        _ => format!("its pod {} was deleted", pod.metadata.name),
                    };
                    self.lose(berth, why);
                }
            }
            Sight::All(pods, since) => {
                if self.away.is_some() {
                    self.answers();
                    self.next_batch = Instant::now();
                }
                pods.iter().for_each(|pod| self.look_at(pod));
                let seen: BTreeSet<_> = pods.iter().filter_map(Pod::berth).collect();
                let was_there = |asked: &Asked| asked.there.is_some_and(|there| there < since);
                let gone = self.pods.iter().filter(|(berth, asked)| was_there(asked) && !seen.contains(berth));
                for berth in gone.map(|(berth, _)| *berth).collect::<Vec<_>>() {
                    self.lose(berth, format!("its pod {} was deleted", self.blueprint.name(berth)));
                }
            }
        }
    }

    fn look_at(&mut self, pod: &Pod) {
        let now = Instant::now();
        let Some(berth) = pod.berth() else { return };
        let Some(asked) = self.pods.get_mut(&berth) else {
            // Its end was not heard, or the end of it did not come through.
            if !pod.is_going() && pod.metadata.name == self.blueprint.name(berth) {
                self.doom(berth, true);
            }
            return;
        };
        asked.why = None;
        match pod.stands() {
            Stands::Ended(why) => return self.lose(berth, why),
            // A worker that has joined says itself that it leaves.
            _ if pod.is_going() && self.shared.tokens.let_in(berth).is_none() => {
                return self.lose(berth, format!("its pod {} was deleted before it joined", pod.metadata.name));
            }
            Stands::Runs => self.fleet.runs(berth, now),
            Stands::Waits { why, is_stuck } => {
                asked.why = why;
                if is_stuck {
                    asked.stuck.get_or_insert(now);
                    return;
                }
            }
        }
        asked.stuck = None;
    }

    fn waits(&self) -> Option<String> {
        let Waits { asked, placed } = self.fleet.waits();
        let asked = asked.map(|(count, since)| {
            let time = since.elapsed().as_secs();
            let why = self.pods.values().rev().find_map(|asked| asked.why.as_ref());
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            format!("for {count} of Kubernetes' pods, since {time} s ago{why}")
        });
        let placed = (placed > 0).then(|| format!("for {placed} that run to join"));
        let all: Vec<_> = asked.into_iter().chain(placed).collect();
        (!all.is_empty()).then(|| all.into_iter().chain(self.away.clone()).collect::<Vec<_>>().join(", "))
    }

    async fn end(mut self) {
        // What is under way may make pods.
        let answers = async { while self.requests.join_next().await.is_some() {} };
        if timeout(ANSWERS, answers).await.is_err() {
            self.requests.shutdown().await;
        }
        let berths = self.pods.keys().chain(self.doomed.keys()).copied().collect::<BTreeSet<_>>();
        if berths.is_empty() {
            return;
        }
        // Neither waits for the other.
        for berth in berths {
            let (api, name) = (Arc::clone(&self.api), self.blueprint.name(berth));
            self.requests.spawn(async move { Done::Deleted(berth, false, api.delete("secrets", &name).await) });
        }
        let pods = self.api.delete_pods(&self.blueprint.labels()).await;
        while self.requests.join_next().await.is_some() {}
        if let Err(failure) = pods {
            notice(format_args!(
                "the pods of this cluster's workers could not be deleted, and go with this pod: {failure}"
            ));
        }
    }
}
