//! How a worker's process ends: with its head, or because it is asked to.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use regatta_remote::{ActorRef, NodeId, PeerEvent, PeerEvents};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, sleep_until};

use crate::actors::{Departs, SchedulerActor, insist};
use crate::os;

/// How long a worker takes to leave its cluster, at most, when it is asked to end. Kubernetes, systemd and others kill it after 30 s.
const GRACE: Duration = Duration::from_secs(25);
/// It then is let go by its head; if it is not, it goes by itself.
const OVERDUE: Duration = Duration::from_secs(2);

/// With so many silent peers it is this worker that nobody hears.
const CUT_OFF: usize = 3;

/// One that has stood still is heard again so soon.
const COMES_BACK: Duration = Duration::from_millis(500);

/// A worker is asked to leave, and to end by a signal or because it has not left: no more than that.
const ASKS: usize = 3;
/// How long replicas may take to stop when their worker ends.
pub(super) const STOP: Duration = Duration::from_secs(1);
/// How long a goodbye may take.
pub(super) const GOODBYE: Duration = Duration::from_millis(300);

/// What a process is asked by signals.
#[derive(Debug, Clone, Copy)]
pub(super) enum AskedTo {
    /// Leave the cluster in order.
    Leave,
    /// End with this status.
    End(i32),
}

/// What a worker is asked from now on.
pub(crate) struct Asks {
    to: Sender<AskedTo>,
    asked: Receiver<AskedTo>,
}

#[cfg(test)]
impl Asks {
    /// Nobody asks it anything.
    pub(crate) fn none() -> Self {
        let (to, asked) = channel(ASKS);
        Self { to, asked }
    }
}

/// Has signals ask this process, a worker, what it is to do: the first SIGTERM to leave, the second to end at once. So does a SIGINT
/// where it was started `by_hand`; else that is its driver's, which a terminal has sent it, too, and with which it ends.
///
/// # Errors
/// The system refuses it.
pub(super) fn asked(by_hand: bool) -> io::Result<Asks> {
    let (to, asked) = channel(ASKS);
    let (asks, leaves, ends) = (to.clone(), AtomicBool::new(false), AtomicBool::new(false));
    os::heed(&[libc::SIGTERM, libc::SIGINT], move |signal| {
        let first = signal == libc::SIGTERM && !leaves.swap(true, Ordering::Relaxed);
        // What comes after it was told to end is of no more use.
        if (signal == libc::SIGINT && !by_hand) || (!first && ends.swap(true, Ordering::Relaxed)) {
            return;
        }
        let code = 128 + signal;
        // Fails only when the process ends already.
        let _ = asks.try_send(if first { AskedTo::Leave } else { AskedTo::End(code) });
        if !first {
            // It may still be joining, or waiting for what does not end.
            let overdue = thread::Builder::new().spawn(move || {
                thread::sleep(GOODBYE + 2 * STOP);
                std::process::exit(code);
            });
            // Without a thread for that there is no time for a goodbye.
            overdue.map_or_else(|_| std::process::exit(code), drop);
        }
    })?;
    Ok(Asks { to, asked })
}

/// An isolated replica ends with its worker, which may be sent a signal together with all that it has started.
///
/// # Errors
/// The system refuses it.
pub(super) fn ends_with_its_worker() -> io::Result<()> {
    os::heed(&[libc::SIGTERM, libc::SIGINT], |_| ())
}

/// Waits for the end of a worker: the status of its process.
pub(super) async fn until_it_ends(
    mut events: PeerEvents,
    head: NodeId,
    scheduler: ActorRef<SchedulerActor>,
    Asks { to, mut asked }: Asks,
) -> i32 {
    let (mut leaves, mut silent, mut ends_at) = (false, BTreeSet::new(), None::<Instant>);
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Some(PeerEvent::Suspect(peer)) => drop(silent.insert(peer.node)),
                Some(PeerEvent::Recovered(peer)) => drop(silent.remove(&peer.node)),
                // It may have given away what was done here. With others it is rather this worker that is cut off, and may come back.
                Some(PeerEvent::LeaseLost(peer)) if peer.node == head && silent.len() < CUT_OFF => {
                    ends_at = Some(Instant::now() + COMES_BACK);
                }
                Some(PeerEvent::LeaseBack(peer)) if peer.node == head => ends_at = None,
                Some(PeerEvent::Down { peer, cause }) if peer.node == head => {
                    let why = if leaves { "this worker has left" } else { "the head has ended, or has let this worker go, which ends" };
                    tracing::info!(%cause, "{why}");
                    return 0;
                }
                Some(PeerEvent::Down { peer, .. }) => drop(silent.remove(&peer.node)),
                Some(_) => (),
                None => return 0,
            },
            () = sleep_until(ends_at.unwrap_or_else(Instant::now)), if ends_at.is_some() => {
                tracing::info!("the head has not been heard of: this worker ends with it");
                return 0;
            }
            Some(ask) = asked.recv() => match ask {
                AskedTo::End(code) => return code,
                AskedTo::Leave => {
                    tracing::info!("asked to end: leaves the cluster within {GRACE:?}; asked again, ends at once");
                    leaves = true;
                    tokio::spawn(leave(scheduler.clone(), to.clone()));
                }
            },
        }
    }
}

/// Tells the head that this worker is to leave, and sees to it that it does.
async fn leave(scheduler: ActorRef<SchedulerActor>, to: Sender<AskedTo>) {
    match insist(&scheduler, Departs { within: GRACE }).await {
        Ok(true) => sleep(GRACE + OVERDUE).await,
        Ok(false) => (),
        Err(error) => {
            // One that has nothing to do is let go before it hears the answer.
            sleep(OVERDUE).await;
            tracing::warn!(%error, "could not tell the head that this worker is to leave");
        }
    }
    let _ = to.send(AskedTo::End(128 + libc::SIGTERM)).await;
}
