//! The process of replicas.

mod entry;
mod many;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use polars::prelude::Column;
use regatta_remote::{catch, detached_in};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::entry::{Entry, Way};
use super::slab::{Known, Parcel, Visit};
use super::wire::{FromChild, Link, Outcome, Place, StartChild, ToChild};
use crate::actor::ActorDirectory;
use crate::os;
use crate::sched::StepId;
use crate::spans;
use crate::udf::found::Found;
use crate::udf::registry::{Replica, open, run_fenced, start_fenced, start_on_gpu};
use crate::udf::thread::log_stop;
use crate::udf::{Batch, Call, Context, Meter, Metrics, Start, UdfError, UdfResult};
use crate::whose;

/// How long a read waits; then it waits again.
const WAIT: Duration = Duration::from_secs(3600);

/// Serves one replica until the parent says that it is enough, or is gone. Never returns in another state. `way`: how it comes to
/// actors, if it looks for some.
pub(crate) fn serve(way: Way) -> io::Result<()> {
    serve_on(take_stdin()?, true, way)
}

/// Serves all replicas whose sockets come through standard input, each on a thread, until the parent is gone.
#[cfg(feature = "gpu")]
pub(crate) fn serve_several(way: Way) -> io::Result<()> {
    let door = take_stdin()?;
    loop {
        // Without the driver's part of an end, in which it may hang: nobody is left to see to that.
        let (_, Some(socket)) = os::receive_with_file(&door, &mut [0])? else { os::exit_now(0) };
        thread::Builder::new().name("udf".to_owned()).spawn(move || {
            if let Err(error) = serve_on(socket.into(), false, way) {
                tracing::warn!(%error, "a replica is gone");
            }
        })?;
    }
}

fn take_stdin() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What the UDF reads from standard input must not be our words.
    os::replace_stdin(&File::open("/dev/null")?)?;
    Ok(stream)
}

/// `alone`: it is the only one in this process, which then ends with it.
fn serve_on(stream: UnixStream, alone: bool, way: Way) -> io::Result<()> {
    let words = Rc::new(RefCell::new(Link::new(stream.try_clone()?)));
    let entry = Arc::new(Entry::new(Link::new(stream.try_clone()?), way));
    let mut inbox = listen(Link::new(stream), alone, Arc::clone(&entry))?;
    let served = serve_through(words, &mut inbox, &entry);
    entry.leave();
    served
}

fn serve_through(
    words: Rc<RefCell<Link>>,
    inbox: &mut UnboundedReceiver<ToChild>,
    entry: &Arc<Entry>,
) -> io::Result<()> {
    let Some(ToChild::Start(start)) = inbox.blocking_recv() else {
        return Err(io::Error::other("the first word is not what to start"));
    };
    if let Some(memory) = start.memory {
        os::limit_memory(memory)?;
    }
    let (udf, holds_actors) = detached_in(|| open(&start.udf, &start.arguments));
    let entered = if holds_actors { entry.names().map(drop) } else { Ok(()) };
    spans::note(start.noted);
    let udf = match entered.map_err(UdfError::from).and(udf) {
        Ok(udf) => udf,
        Err(error) => return words.borrow_mut().send(&FromChild::Started(Err(error))),
    };
    if udf.is_async() {
        return many::serve(*start, words, inbox, entry);
    }
    let say = |word: FromChild| words.borrow_mut().send(&word);
    let begun = start.span(None, None).in_scope(|| begin(&start, &words, entry));
    let mut replica = match begun {
        Ok((replica, reported)) => {
            say(FromChild::Started(Ok(reported)))?;
            Some(replica)
        }
        Err(error) => return say(FromChild::Started(Err(error))),
    };
    let (seat, mut slabs) = (Arc::new(start.seat.clone()), Known::default());
    while let Some(word) = inbox.blocking_recv() {
        match word {
            ToChild::Run { number, call, inputs, noted } => {
                say(FromChild::Began)?;
                spans::note(noted);
                let span = start.span(call.of, call.by).entered();
                let (outcome, spent) = on_slab(&mut slabs, inputs, |visit| {
                    let meter = Meter::default();
                    let result = run(&mut replica, visit, call, Context::new(&seat, &meter));
                    let panicked = replica.is_none();
                    result.map(|place| (meter.report_of_call(), place)).map_err(|error| (error, panicked))
                });
                drop(span);
                say_ended(&words)?;
                say(FromChild::Done { number, outcome, spent })?;
            }
            // Its parent would kill it; and the other goes to who waits for it.
            ToChild::Forget { .. } | ToChild::Admitted(_) => (),
            ToChild::Stop | ToChild::Start(_) => {
                let meter = Meter::default();
                if let Some(replica) = replica.take() {
                    let cx = Context::new(&seat, &meter);
                    start.span(None, None).in_scope(|| log_stop(catch(|| replica.stop(&cx))));
                }
                say_ended(&words)?;
                return say(FromChild::Stopped(meter.take()));
            }
        }
    }
    Ok(())
}

/// Reads the parent's words. When the parent is gone, however, so is this process if the replica is alone in it, whatever the
/// UDF does; else the replica, after its batch.
fn listen(mut link: Link, alone: bool, entry: Arc<Entry>) -> io::Result<UnboundedReceiver<ToChild>> {
    // The parent has no more calls under way than its callers have credits for.
    let (words, inbox) = unbounded_channel();
    thread::Builder::new().name("regatta-life".to_owned()).spawn(move || {
        loop {
            match link.receive(WAIT) {
                Ok(Some(ToChild::Admitted(admitted))) => entry.admitted(admitted),
                Ok(Some(ToChild::Run { number, call, mut inputs, noted })) => {
                    inputs.file = if inputs.fresh { link.file().ok() } else { None };
                    drop(words.send(ToChild::Run { number, call, inputs, noted }));
                }
                Ok(Some(word)) => drop(words.send(word)),
                Ok(None) => (),
                Err(_) if alone => {
                    entry.leave();
                    os::exit_now(0)
                }
                Err(_) => return,
            }
        }
    })?;
    Ok(inbox)
}

/// What a replica has reported in `start`, and found.
type Reported = (Metrics, Found);

fn begin(start: &StartChild, words: &Rc<RefCell<Link>>, entry: &Arc<Entry>) -> UdfResult<(Box<dyn Replica>, Reported)> {
    let meter = Meter::default();
    let mut cx = told(start, words, entry, &meter);
    let replica = match &start.gpu {
        Some(gpu) => start_on_gpu(&start.udf, &start.arguments, gpu, &mut cx)?,
        None => start_fenced(&start.udf, &start.arguments, &mut cx)?,
    };
    Ok((replica, (meter.take(), cx.found())))
}

impl StartChild {
    /// The span of what the replica does, in which its author's are.
    fn span(&self, of: Option<StepId>, by: Option<(u32, u32)>) -> tracing::Span {
        whose::replica(&self.udf, self.seat.rank, of.or(self.seat.step), by)
    }
}

/// What `start` is told here.
fn told(start: &StartChild, words: &Rc<RefCell<Link>>, entry: &Arc<Entry>, meter: &Meter) -> Start {
    let words = Rc::clone(words);
    // A word that is lost is of no consequence: the parent that does not listen has gone.
    let progress = move |doing: &str| drop(words.borrow_mut().send(&FromChild::Progress(doing.to_owned())));
    let directory: Arc<dyn ActorDirectory> = Arc::<Entry>::clone(entry);
    Start::new(Context::new(&Arc::new(start.seat.clone()), meter), Some(directory), progress)
}

/// Hands the worker what spans of the author's have ended.
fn say_ended(words: &RefCell<Link>) -> io::Result<()> {
    let (ended, forgotten) = spans::take();
    if ended.is_empty() { Ok(()) } else { words.borrow_mut().send(&FromChild::Spans(ended, forgotten)) }
}

/// A call on its slab: how it ended, and whether no other call is to have the slab.
fn on_slab(slabs: &mut Known, inputs: Parcel, call: impl FnOnce(&mut Visit) -> Outcome) -> (Outcome, bool) {
    match slabs.open(inputs) {
        Ok(mut visit) => (call(&mut visit), slabs.close(visit)),
        Err(error) => (Err((unseen(&error), false)), true),
    }
}

fn unseen(error: &io::Error) -> UdfError {
    UdfError::new(format!("the memory with its inputs cannot be mapped: {error}"))
}

fn run(replica: &mut Option<Box<dyn Replica>>, visit: &mut Visit, call: Call, context: Context) -> UdfResult<Place> {
    let batch = Batch::new(visit.inputs()?, call, context);
    #[cfg(feature = "gpu")]
    let batch = batch.in_memory(visit.memory());
    let result = run_fenced(replica, &batch);
    drop(batch);
    leave(result, visit)
}

/// Leaves the result of a call in its slab.
fn leave(result: UdfResult<Column>, visit: &mut Visit) -> UdfResult<Place> {
    // What the UDF has printed belongs before its answer.
    let _ = io::stdout().flush();
    Ok(visit.leave(result?)?)
}
