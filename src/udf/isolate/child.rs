//! The process of an isolated replica.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
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

/// Serves one replica until the parent says that it is enough, or is gone. Never returns in another state.
pub(crate) fn serve() -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What the UDF reads from standard input must not be our words.
    os::replace_stdin(&File::open("/dev/null")?)?;
    let words = Rc::new(RefCell::new(Link::new(stream.try_clone()?)));
    let inbox = listen(Link::new(stream))?;
    let Ok(ToChild::Start(start)) = inbox.recv() else {
        return Err(io::Error::other("the first word is not what to start"));
    };
    if let Some(memory) = start.memory {
        os::limit_memory(memory)?;
    }
    let say = |word: FromChild| words.borrow_mut().send(&word);
    let mut replica = match begin(&start, &words) {
        Ok((replica, metrics)) => {
            say(FromChild::Started(Ok(metrics)))?;
            Some(replica)
        }
        Err(error) => return say(FromChild::Started(Err(error))),
    };
    let seat = Arc::new(start.seat);
    while let Ok(word) = inbox.recv() {
        match word {
            ToChild::Run { number, call } => {
                let meter = Meter::default();
                let result = run(&mut replica, number, call, Context::new(&seat, &meter), &seat.scratch);
                let panicked = replica.is_none();
                say(FromChild::Done(result.map(|()| meter.take()).map_err(|error| (error, panicked))))?;
            }
            ToChild::Stop | ToChild::Start(_) => {
                let meter = Meter::default();
                if let Some(replica) = replica.take() {
                    let cx = Context::new(&seat, &meter);
                    log_stop(catch(|| replica.stop(&cx)));
                }
                return say(FromChild::Stopped(meter.take()));
            }
        }
    }
    Ok(())
}

/// Reads the parent's words. When the parent is gone, however, so are we, whatever the UDF does.
fn listen(mut link: Link) -> io::Result<Receiver<ToChild>> {
    let (words, inbox) = channel();
    thread::Builder::new().name("regatta-life".to_owned()).spawn(move || {
        loop {
            match link.receive(WAIT) {
                Ok(Some(word)) => drop(words.send(word)),
                Ok(None) => (),
                Err(_) => std::process::exit(0),
            }
        }
    })?;
    Ok(inbox)
}

fn begin(start: &StartChild, words: &Rc<RefCell<Link>>) -> UdfResult<(Box<dyn Replica>, Metrics)> {
    let (meter, words) = (Meter::default(), Rc::clone(words));
    // A word that is lost is of no consequence: the parent that does not listen has gone.
    let progress = move |doing: &str| drop(words.borrow_mut().send(&FromChild::Progress(doing.to_owned())));
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
    folder: &std::path::Path,
) -> UdfResult<()> {
    let batch = Batch::new(wire::map(&inputs_file(folder, number))?, call, context);
    let column = run_fenced(replica, &batch);
    // What the UDF has printed belongs before its answer.
    let _ = io::stdout().flush();
    Ok(wire::write(&result_file(folder, number), &column?.into_frame())?)
}
