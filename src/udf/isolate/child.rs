//! The process of isolated replicas: each has a thread.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use regatta_remote::catch;

use super::wire::{self, FromChild, Link, StartChild, ToChild};
use super::{inputs_file, result_file};
use crate::os;
use crate::udf::registry::{Replica, run_fenced, start_fenced, start_on_gpu};
use crate::udf::thread::log_stop;
use crate::udf::{Batch, Call, Context, Meter, Metrics, Start, UdfResult};

/// How long a read waits; then it waits again.
const WAIT: Duration = Duration::from_secs(3600);

/// Serves replicas until the parent is gone, whatever UDFs do then. Never returns in another state.
pub(crate) fn serve() -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What a UDF reads from standard input must not be our words.
    os::replace_stdin(&File::open("/dev/null")?)?;
    let words = Arc::new(Mutex::new(Link::new(stream.try_clone()?)));
    let mut link = Link::new(stream);
    let mut replicas: HashMap<u64, Sender<ToChild>> = HashMap::new();
    loop {
        let (number, word) = match link.receive(WAIT) {
            Ok(Some(word)) => word,
            Ok(None) => continue,
            Err(_) => return Ok(()),
        };
        if let ToChild::Start(start) = word {
            let (tell, inbox) = channel();
            replicas.insert(number, tell);
            let say = Say { number, words: Arc::clone(&words) };
            thread::Builder::new().name(format!("udf {}", start.udf)).spawn(move || live(*start, &inbox, &say))?;
        } else if let Some(replica) = replicas.get(&number) {
            let last = matches!(word, ToChild::Stop);
            // One that has ended does not listen.
            let _ = replica.send(word);
            if last {
                replicas.remove(&number);
            }
        }
    }
}

/// A replica's words to its parent.
#[derive(Clone)]
struct Say {
    number: u64,
    words: Arc<Mutex<Link>>,
}

impl Say {
    /// A word that is lost is of no consequence: the parent that does not listen has gone.
    fn say(&self, word: FromChild) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = words.send(&(self.number, word));
    }
}

/// Batches run beside each other, but for one that was there when a process died: it runs alone, so that if it does it again
/// no other is to blame.
static TOGETHER: RwLock<()> = RwLock::new(());

fn live(start: StartChild, inbox: &Receiver<ToChild>, say: &Say) {
    if let Some(Err(error)) = start.memory.map(os::limit_memory) {
        return say.say(FromChild::Started(Err(error.into())));
    }
    let mut replica = match begin(&start, say) {
        Ok((replica, metrics)) => {
            say.say(FromChild::Started(Ok(metrics)));
            Some(replica)
        }
        Err(error) => return say.say(FromChild::Started(Err(error))),
    };
    let seat = Arc::new(start.seat);
    while let Ok(word) = inbox.recv() {
        match word {
            ToChild::Run { number, call } => {
                let (alone, together) = match call.alone {
                    true => (Some(TOGETHER.write().unwrap_or_else(PoisonError::into_inner)), None),
                    false => (None, Some(TOGETHER.read().unwrap_or_else(PoisonError::into_inner))),
                };
                say.say(FromChild::Began);
                let meter = Meter::default();
                let result = run(&mut replica, number, call, Context::new(&seat, &meter), &seat.scratch);
                let panicked = replica.is_none();
                say.say(FromChild::Done(result.map(|()| meter.take()).map_err(|error| (error, panicked))));
                drop((alone, together));
            }
            ToChild::Stop | ToChild::Start(_) => {
                let meter = Meter::default();
                if let Some(replica) = replica.take() {
                    let cx = Context::new(&seat, &meter);
                    log_stop(catch(|| replica.stop(&cx)));
                }
                return say.say(FromChild::Stopped(meter.take()));
            }
        }
    }
}

fn begin(start: &StartChild, say: &Say) -> UdfResult<(Box<dyn Replica>, Metrics)> {
    let (meter, say) = (Meter::default(), say.clone());
    let progress = move |doing: &str| say.say(FromChild::Progress(doing.to_owned()));
    let mut cx = Start::new(Context::new(&Arc::new(start.seat.clone()), &meter), None, progress);
    let replica = match &start.gpu {
        Some(gpu) => start_on_gpu(&start.udf, &start.arguments, gpu, &mut cx)?,
        None => start_fenced(&start.udf, &start.arguments, &mut cx)?,
    };
    Ok((replica, meter.take()))
}

fn run(
    replica: &mut Option<Box<dyn Replica>>,
    number: u64,
    call: Call,
    context: Context,
    folder: &Path,
) -> UdfResult<()> {
    let batch = Batch::new(wire::map(&inputs_file(folder, number))?, call, context);
    let column = run_fenced(replica, &batch);
    // What the UDF has printed belongs before its answer.
    let _ = io::stdout().flush();
    Ok(wire::write(&result_file(folder, number), &column?.into_frame())?)
}
