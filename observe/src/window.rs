//! What observers and a head say to each other, as messages between nodes: JSON inside, so that a head and who looks at it may be of
//! different builds. The [`Window`] is the actor at the head that answers; `regatta-remote` checks who may ask it.
//!
//! ```
//! # use regatta_observe::{Ask, Refusal};
//! let look = regatta_observe::window::Look::new(&Ask::Query { query: "0007".to_owned() });
//! let refused = Refusal::NoSuch("there is no query whose number ends with 0007".to_owned());
//! let reply = regatta_observe::window::reply(Err(refused.clone()));
//! assert_eq!(regatta_observe::window::read(&reply), Err(refused));
//! ```

mod allowance;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use regatta_remote::actix::{Actor, Context, Handler, ResponseFuture};
use regatta_remote::{ActorId, LocalRef, Node, NodeId, Role, Runtime, Sender, messages};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use crate::Answering;
use crate::text::begins;
use crate::{Answer, Ask, Order, Profile, Refusal, Strips, VIEW};
use allowance::Allowance;

/// Where the window is found at a head.
pub const WINDOW: ActorId = ActorId(4);
/// Questions that it holds, waiting and answered.
pub const MAILBOX: usize = 256;
/// The most bytes of an answer. Of one that would be more, rows and records are left out.
pub const MAX_ANSWER: usize = 1 << 20;
/// The most bytes of a question.
const MAX_QUESTION: usize = 64 << 10;

messages! {
    0x0501 Look => String,
    0x0502 Act => String,
}

/// An observer's question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Look(String);

/// An operator's order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Act(String);

impl Look {
    /// A question.
    pub fn new(ask: &Ask) -> Self {
        Self(request(ask))
    }
}

impl Act {
    /// An order.
    pub fn new(order: &Order) -> Self {
        Self(request(order))
    }
}

#[derive(Serialize, Deserialize)]
struct Request<T> {
    regatta_view: u32,
    ask: T,
}

/// What all of either side's texts have, of whatever version.
#[derive(Deserialize)]
struct Version {
    regatta_view: u32,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    regatta_view: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refusal>,
}

/// Its keys are texts and its numbers are numbers: nothing in it cannot be written.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn request(ask: &impl Serialize) -> String {
    json(&Request { regatta_view: VIEW, ask })
}

fn question<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    let bad = |why: &dyn ToString| Refusal::Failed(format!("the question cannot be read: {}", why.to_string()));
    if text.len() > MAX_QUESTION {
        return Err(bad(&format!("it has {} bytes, and may have {MAX_QUESTION}", text.len())));
    }
    let Version { regatta_view } = serde_json::from_str(text).map_err(|error| bad(&error))?;
    if regatta_view != VIEW {
        return Err(Refusal::Version { head: VIEW });
    }
    serde_json::from_str(text).map(|request: Request<T>| request.ask).map_err(|error| bad(&error))
}

/// An answer as it travels. Of one that is too large, rows and records are left out.
pub fn reply(answer: Result<Answer, Refusal>) -> String {
    let text = |answer, refused| json(&Reply { regatta_view: VIEW, answer, refused });
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(refusal) => return text(None, Some(refusal)),
    };
    loop {
        let whole = text(Some(answer.clone()), None);
        if whole.len() <= MAX_ANSWER {
            return whole;
        }
        if !shorten(&mut answer) {
            let why = format!("the answer has {} bytes, and may have {MAX_ANSWER}", whole.len());
            return text(None, Some(Refusal::TooMuch(why)));
        }
    }
}

/// Bytes of a job's arguments in an answer that would be too large with all of them.
const ARGUMENTS: usize = 1 << 10;

/// Leaves some of an answer out; false if there is nothing to leave out.
fn shorten(answer: &mut Answer) -> bool {
    match answer {
        Answer::Cluster(view) => {
            let longest = view.queries.len().max(view.workers.len()).max(view.pools.len()) / 2;
            view.queries.truncate(longest);
            view.workers.truncate(longest);
            view.pools.truncate(longest);
            longest > 0
        }
        Answer::Profile(profile) => {
            let Profile { tasks, strips, dropped, .. } = &mut **profile;
            if !tasks.is_empty() {
                dropped.tasks += tasks.len() as u64;
                tasks.clear();
            } else if !strips.workers.is_empty() {
                dropped.strips += 1;
                *strips = Strips::default();
            } else {
                return false;
            }
            true
        }
        Answer::Logs(view) => {
            // The newest are what matters.
            let left_out = view.lines.len().div_ceil(2);
            view.lines.drain(..left_out);
            view.missed += left_out as u64;
            left_out > 0
        }
        Answer::Spans(view) => {
            let whole = view.spans.len();
            // The rest is asked for after these.
            for span in view.spans.drain(whole / 2..) {
                let next = view.next.iter_mut().find(|(worker, _)| Some(*worker) == span.worker);
                if let Some((_, next)) = next {
                    *next = (*next).min(span.number.saturating_sub(1));
                }
            }
            whole > 0
        }
        Answer::Jobs(rows) => {
            // Their arguments may be of any length: no job is left out for those.
            let mut long = rows
                .iter_mut()
                .filter(|row| row.arguments.iter().map(String::len).sum::<usize>() > ARGUMENTS)
                .peekable();
            if long.peek().is_some() {
                long.for_each(|row| row.arguments = vec![begins(&row.arguments.join(" "), ARGUMENTS)]);
                return true;
            }
            // The newest come first.
            let half = rows.len() / 2;
            rows.truncate(half);
            half > 0
        }
        Answer::JobLog(log) => {
            // The oldest come first, and the rest is asked for after them.
            let left_out = log.lines.len() / 2;
            log.lines.truncate(log.lines.len() - left_out);
            log.next -= left_out as u64;
            left_out > 0
        }
        _ => false,
    }
}

/// What a head has answered.
///
/// # Errors
/// It has refused, or cannot be understood.
pub fn read(text: &str) -> Result<Answer, Refusal> {
    let bad = |why: String| Refusal::Failed(format!("the head's answer cannot be read: {why}"));
    let Version { regatta_view } = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    if regatta_view != VIEW {
        return Err(Refusal::Version { head: regatta_view });
    }
    let reply: Reply = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    match (reply.answer, reply.refused) {
        (_, Some(refusal)) => Err(refusal),
        (Some(answer), None) => Ok(answer),
        (None, None) => Err(bad("there is nothing in it".to_owned())),
    }
}

/// Who knows the cluster, and may do something about it.
pub trait Head: Send + Sync + 'static {
    /// Answers a question.
    fn look(&self, ask: Ask) -> Answering;

    /// Does what an operator wants.
    fn act(&self, order: Order, operator: NodeId) -> Answering;
}

/// Answers observers at a head, on the runtime's threads: none of them costs another anything, however slow it is.
pub struct Window {
    head: Arc<dyn Head>,
    runtime: Runtime,
    viewers: Viewers,
    began: Instant,
}

impl Window {
    /// The window of a head.
    pub fn new(head: Arc<dyn Head>, runtime: Runtime) -> Self {
        Self { head, runtime, viewers: Arc::default(), began: Instant::now() }
    }

    /// Makes a window reachable for observers, and for operators that have orders.
    pub fn publish(node: &Node, window: &LocalRef<Self>) {
        let publication = node.publish(WINDOW, window);
        publication.on::<Look>(&[Role::Observer, Role::Operator]).on::<Act>(&[Role::Operator]);
    }

    /// Answers by `make`, unless the viewer has had too much already.
    fn serve(&self, make: impl FnOnce(&dyn Head, NodeId) -> Result<Answering, Refusal>) -> ResponseFuture<String> {
        let Some(viewer) = Sender::current().node() else {
            return ready(Refusal::Failed("whoever asks must be another node".to_owned()));
        };
        let under_way = match UnderWay::begin(&self.viewers, viewer, self.began) {
            Ok(under_way) => under_way,
            Err(why) => return ready(Refusal::TooMuch(why)),
        };
        let answering = match make(&*self.head, viewer) {
            Ok(answering) => answering,
            Err(refusal) => return ready(refusal),
        };
        let answer = self.runtime.handle().spawn(async move {
            let text = reply(answering.await);
            under_way.ends(text.len());
            text
        });
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| reply(Err(Refusal::Failed("the head could not make an answer".to_owned()))))
        })
    }
}

fn ready(refusal: Refusal) -> ResponseFuture<String> {
    Box::pin(async move { reply(Err(refusal)) })
}

/// A question that is being answered: until it is, whether or not somebody still waits for that.
struct UnderWay {
    viewers: Viewers,
    viewer: NodeId,
    began: Instant,
    bytes: usize,
}

type Viewers = Arc<Mutex<Allowance<NodeId>>>;

impl UnderWay {
    fn begin(viewers: &Viewers, viewer: NodeId, began: Instant) -> Result<Self, String> {
        lock(viewers).begin(viewer, began.elapsed())?;
        Ok(Self { viewers: Arc::clone(viewers), viewer, began, bytes: 0 })
    }

    /// It is answered, by so many bytes.
    fn ends(mut self, bytes: usize) {
        self.bytes = bytes;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.viewers).end(self.viewer, self.bytes, self.began.elapsed());
    }
}

fn lock(viewers: &Viewers) -> MutexGuard<'_, Allowance<NodeId>> {
    viewers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actor for Window {
    type Context = Context<Self>;
}

impl Handler<Look> for Window {
    type Result = ResponseFuture<String>;

    fn handle(&mut self, Look(text): Look, _: &mut Context<Self>) -> Self::Result {
        self.serve(|head, _| question(&text).map(|ask| head.look(ask)))
    }
}

impl Handler<Act> for Window {
    type Result = ResponseFuture<String>;

    fn handle(&mut self, Act(text): Act, _: &mut Context<Self>) -> Self::Result {
        self.serve(|head, operator| question(&text).map(|order| head.act(order, operator)))
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
