//! Threads of our own, so that this crate works inside any program, also under `#[tokio::main]`.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use actix::Actor;
use bytes::Bytes;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ambient::Ambient;
use crate::error::SpawnError;
use crate::fence;
use crate::local::{LocalRef, Place, start, supervise};
use crate::lockstep::wait_simulated;
#[cfg(feature = "sim")]
use crate::lockstep::{self, Pace};
use crate::net::{FOREVER, Net};
#[cfg(feature = "sim")]
use crate::network::Network;
use crate::supervise::Restarts;

/// How long starting or joining one thread may take.
const THREAD_DEADLINE: Duration = Duration::from_secs(5);

/// Threads for what may block. They come with their work and go when idle; those of the network wait for some of it.
const BLOCKING_THREADS: usize = 4096;

/// The threads of a process: a tokio runtime for the network, and an actix system whose arbiters run
/// actors. Clones share them; they end with [`shutdown`](Self::shutdown) or with the last clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
    build: Bytes,
}

/// A thread that runs actors. Dropping it stops its actors and the thread.
pub struct Arbiter {
    handle: actix_rt::ArbiterHandle,
    /// The thread, where it is this arbiter's own.
    thread: Option<(actix_rt::Arbiter, ThreadId)>,
    /// Where it is not, the actors end with this.
    shared: Option<watch::Sender<()>>,
    net: Net,
}

/// How long a thread for what blocks waits for more of it. The many of one burst do not stay for long.
const LINGER: Duration = Duration::from_secs(1);

impl Runtime {
    /// Starts the threads.
    ///
    /// # Errors
    /// The operating system gave no thread.
    pub fn new(name: &str, net_threads: usize) -> io::Result<Self> {
        #[cfg(test)]
        crate::panics::watch();
        fence::install();
        let net = Builder::new_multi_thread()
            .worker_threads(net_threads.max(1))
            .thread_name(format!("{name}-net"))
            .thread_keep_alive(LINGER)
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()?;
        let (system, ended) = start_system(name)?;
        let (closing, closed) = watch::channel(false);
        Ok(Self::of(Inner {
            net: Net::new(net.handle().clone(), closed, Ambient::System),
            #[cfg(feature = "sim")]
            network: None,
            #[cfg(feature = "sim")]
            pace: Pace::default(),
            closing,
            system,
            owned: Mutex::new(Some((net, ended))),
        }))
    }

    /// A process of a simulation: its threads are all the current one, whose system runs there too.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated(handle: Handle, network: Arc<Network>, ambient: Ambient) -> Self {
        #[cfg(test)]
        crate::panics::watch();
        fence::install();
        let (closing, closed) = watch::channel(false);
        Self::of(Inner {
            net: Net::new(handle, closed, ambient.clone()),
            network: Some(network),
            pace: Pace { ambient: Some(ambient), ..Pace::default() },
            closing,
            system: actix_rt::System::current(),
            owned: Mutex::new(None),
        })
    }

    fn of(inner: Inner) -> Self {
        Self { inner: Arc::new(inner), build: Bytes::new() }
    }

    /// The same threads, for nodes of this build of the application: bytes that say what it is, as the number of a commit
    /// does. Nodes meet, and let others join, only where these are the same. Without, they are none.
    #[must_use]
    pub fn with_build(&self, build: impl Into<Bytes>) -> Self {
        Self { inner: Arc::clone(&self.inner), build: build.into() }
    }

    pub(crate) fn build(&self) -> &Bytes {
        &self.build
    }

    /// The network's tokio runtime.
    pub fn handle(&self) -> &Handle {
        &self.inner.net.handle
    }

    /// Runs what may block, on a thread for that.
    pub fn spawn_blocking<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        #[cfg(feature = "sim")]
        if self.inner.network.is_some() {
            return self.handle().spawn(lockstep::run(self.inner.pace.clone(), f));
        }
        self.handle().spawn_blocking(f)
    }

    /// Waits for a future, on a thread that may block and runs no actors.
    ///
    /// # Panics
    /// The thread belongs to a tokio runtime.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        wait_simulated(future).unwrap_or_else(|future| self.handle().block_on(future))
    }

    /// Waits for a future on these threads, from any thread. `None` once they are gone.
    pub fn wait_anywhere<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (sender, result) = mpsc::sync_channel(1);
        let done = self.handle().spawn(async move { sender.send(future.await) });
        // Nobody hears of one that has panicked, in either way.
        match wait_simulated(done) {
            Ok(_) => result.try_recv().ok(),
            Err(_) => result.recv().ok(),
        }
    }

    /// In a simulation, a number by its seed.
    #[doc(hidden)]
    pub fn simulated_random(&self) -> Option<u64> {
        #[cfg(feature = "sim")]
        if self.inner.network.is_some() {
            return self.inner.net.ambient.random().ok().map(u64::from_le_bytes);
        }
        None
    }

    /// Lets each piece of what blocks in this process, between two waits, take so long from now on: the time is drawn from this range.
    #[cfg(feature = "sim")]
    pub fn take_time(&self, least: Duration, most: Duration) {
        *self.inner.pace.range.lock().unwrap_or_else(PoisonError::into_inner) = (least, most);
    }

    /// A new thread for actors.
    ///
    /// # Errors
    /// The runtime is shut down, or no thread could be started.
    pub fn arbiter(&self) -> Result<Arbiter, SpawnError> {
        if self.inner.net.is_closed() {
            return Err(SpawnError::ShutDown);
        }
        #[cfg(feature = "sim")]
        if self.inner.network.is_some() {
            let handle = self.inner.system.arbiter().clone();
            return Ok(Arbiter {
                handle,
                thread: None,
                shared: Some(watch::Sender::new(())),
                net: self.inner.net.clone(),
            });
        }
        let (reply, made) = mpsc::sync_channel(1);
        let asked = self.inner.system.arbiter().spawn_fn(move || {
            let (id, thread) = mpsc::sync_channel(1);
            let arbiter = actix_rt::Arbiter::try_with_tokio_rt(move || {
                // The receiver waits below, in the same closure.
                let _ = id.send(thread::current().id());
                Builder::new_current_thread().enable_all().build()
            });
            // Fails only if the asker gave up; dropping the arbiter's handle does not stop it.
            if let Err(mpsc::SendError(Ok((arbiter, _)))) =
                reply.send(arbiter.and_then(|arbiter| match thread.recv() {
                    Ok(id) => Ok((arbiter, id)),
                    Err(_) => Err(io::Error::other("the thread did not say its id")),
                }))
            {
                arbiter.stop();
            }
        });
        if !asked {
            return Err(SpawnError::ShutDown);
        }
        let (arbiter, thread) = made.recv_timeout(THREAD_DEADLINE).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => SpawnError::Deadline,
            mpsc::RecvTimeoutError::Disconnected => SpawnError::ShutDown,
        })??;
        Ok(Arbiter {
            handle: arbiter.handle(),
            thread: Some((arbiter, thread)),
            shared: None,
            net: self.inner.net.clone(),
        })
    }

    /// Stops all threads, for every clone, and waits for them until `deadline` at most. May be called
    /// from anywhere; it blocks the calling thread that long.
    pub fn shutdown(self, deadline: Duration) {
        self.inner.shutdown(Some(deadline));
    }

    pub(crate) fn net(&self) -> &Net {
        &self.inner.net
    }

    #[cfg(feature = "sim")]
    pub(crate) fn network(&self) -> Option<&Arc<Network>> {
        self.inner.network.as_ref()
    }
}

impl Arbiter {
    /// Starts an actor on this thread. At most `mailbox` messages are at it, waiting or being handled.
    ///
    /// The actor stops when the last [`LocalRef`] to it is gone.
    pub fn spawn<A, F>(&self, mailbox: usize, make: F) -> LocalRef<A>
    where
        A: Actor<Context = actix::Context<A>>,
        F: FnOnce(&mut actix::Context<A>) -> A + Send + 'static,
    {
        start(self.place(mailbox), make)
    }

    /// Starts an actor on this thread that is built again by `make` when it has panicked, after a short wait, and not
    /// oftener than `limit` allows. Its handles and publications stay good: the message that panicked is answered so, those
    /// that wait are handled by the new actor. [`down`](LocalRef::down) ends once, with the last panic or when it stops.
    pub fn supervise<A, F>(&self, mailbox: usize, limit: Restarts, make: F) -> LocalRef<A>
    where
        A: Actor<Context = actix::Context<A>>,
        F: Fn(&mut actix::Context<A>) -> A + Send + Sync + 'static,
    {
        supervise(self.place(mailbox), limit, Arc::new(make))
    }

    fn place(&self, mailbox: usize) -> Place<'_> {
        let end = self.shared.as_ref().map(watch::Sender::subscribe);
        Place { arbiter: &self.handle, end, net: &self.net, mailbox }
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        let Some((arbiter, thread)) = self.thread.take() else {
            return; // its actors end with `shared`
        };
        arbiter.stop();
        if thread::current().id() == thread {
            return; // a thread cannot join itself
        }
        // std's join has no deadline, so a helper thread joins and we wait for it.
        let (done, ended) = mpsc::sync_channel(1);
        let helper = thread::Builder::new().name("regatta-join".to_owned()).spawn(move || {
            let _ = arbiter.join();
            let _ = done.send(());
        });
        if helper.is_ok() && ended.recv_timeout(THREAD_DEADLINE).is_err() {
            tracing::warn!("an actor thread did not stop within {THREAD_DEADLINE:?}; left behind");
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl fmt::Debug for Arbiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arbiter").field("thread", &self.thread.as_ref().map(|(_, id)| id)).finish_non_exhaustive()
    }
}

struct Inner {
    net: Net,
    #[cfg(feature = "sim")]
    network: Option<Arc<Network>>,
    #[cfg(feature = "sim")]
    pace: Pace,
    closing: watch::Sender<bool>,
    system: actix_rt::System,
    owned: Mutex<Option<(tokio::runtime::Runtime, mpsc::Receiver<()>)>>,
}

impl Inner {
    /// With a deadline: waits for the threads. Without: only tells them.
    fn shutdown(&self, deadline: Option<Duration>) {
        self.closing.send_replace(true);
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((net, system_ended)) = owned else {
            return;
        };
        self.system.stop();
        let Some(deadline) = deadline else {
            net.shutdown_background();
            return;
        };
        let end = Instant::now() + deadline.min(FOREVER);
        let left = || end.saturating_duration_since(Instant::now());
        if system_ended.recv_timeout(left()).is_err() {
            tracing::warn!("the actor system did not stop within {deadline:?}");
        }
        // tokio forbids a blocking shutdown inside an async context, so a plain thread does it.
        let (done, ended) = mpsc::sync_channel(1);
        let wait = left();
        let helper = thread::Builder::new().name("regatta-shutdown".to_owned()).spawn(move || {
            net.shutdown_timeout(wait);
            let _ = done.send(());
        });
        if helper.is_ok() && ended.recv_timeout(left()).is_err() {
            tracing::warn!("the network threads did not stop within {deadline:?}");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown(None);
    }
}

/// One plain thread that runs an actix system; the receiver ends with it.
fn start_system(name: &str) -> io::Result<(actix_rt::System, mpsc::Receiver<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (started, system) = mpsc::sync_channel(1);
    let (alive, ended) = mpsc::sync_channel(1);
    thread::Builder::new().name(format!("{name}-actors")).spawn(move || {
        let runner = actix_rt::System::with_tokio_rt(|| runtime);
        let _ = started.send(actix_rt::System::current());
        if let Err(error) = runner.run() {
            tracing::warn!("the actor system ended: {error}");
        }
        let _ = alive.send(());
    })?;
    let system =
        system.recv_timeout(THREAD_DEADLINE).map_err(|_| io::Error::other("the actor system did not start"))?;
    Ok((system, ended))
}
