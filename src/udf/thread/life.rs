//! The life of a replica that takes one batch after the other.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use polars::prelude::{Column, DataFrame};
use regatta_remote::catch;
use tokio::sync::{mpsc, watch};

use super::ending::{AtRest, ends};
use super::turns::Turns;
use super::{Call, Ends, Fault, Job, ReplicaSpec, Reply, Said, Tell, is_wanted};
use crate::sched::QueryId;
use crate::udf::context::Seat;
use crate::udf::drive::block_on;
use crate::udf::found::Keeps;
use crate::udf::isolate::{Ended, Isolated, NotStarted};
use crate::udf::registry::{Replica, as_high_as, open, run_fenced, start_fenced};
use crate::udf::{Batch, Context, Meter, Metrics, Report, Start, UdfError, UdfResult};

/// Starts the replica and serves its calls until nobody can call any more.
pub(super) fn live(spec: ReplicaSpec, seat: Arc<Seat>, mut inbox: mpsc::Receiver<Job>, tell: Tell) {
    let tell = Rc::new(RefCell::new(tell));
    let say = |said: Said<'_>| (tell.borrow_mut())(said);
    let mut life = Life {
        alone: spec.options.isolated,
        spec,
        seat,
        tell: Rc::clone(&tell),
        running: None,
        ends: Ends::default(),
        carried: Metrics::default(),
        keeps: Keeps::default(),
    };
    let span = life.spec.span(life.seat.step, None);
    let started = span.in_scope(|| life.start(&mut || !inbox.is_closed()));
    let failed = started.is_err();
    say(Said::Started(started));
    if failed {
        return;
    }
    let (mut turns, mut served, mut ends) = (Turns::new(), life.seat.step, ends());
    let mut rest = Some(AtRest::new());
    while let Some(job) = next(&mut turns, &mut inbox, &mut ends) {
        drop(rest.take());
        let Job { inputs, call, mut asker, began, done } = job;
        let wanted = &mut || is_wanted(&mut asker);
        // A call whose asker is gone is not begun. To start the replica anew is not part of the call's time.
        if wanted() {
            served = call.of.or(served);
            let _span = life.spec.span(served, call.by).entered();
            let ready = life.ready(call, wanted);
            let mut began = Some(began);
            let begins = &mut || _ = began.take().map(|began| began());
            let outcome = ready.map_err(Fault::from).and_then(|()| life.run(inputs, call, wanted, begins));
            begins(); // if nothing was to begin
            done(outcome);
        }
        rest = Some(AtRest::new());
    }
    let left = life.spec.span(served, None).in_scope(|| life.stop());
    say(Said::Stopped(served, left));
    drop(rest);
}

/// The next call, of the query whose turn it is; `None` when nobody can call any more, or the process ends.
fn next(
    turns: &mut Turns<Option<QueryId>, Job>,
    inbox: &mut mpsc::Receiver<Job>,
    ends: &mut watch::Receiver<bool>,
) -> Option<Job> {
    if *ends.borrow() {
        return None;
    }
    let query = |job: &Job| job.call.of.map(|step| step.query);
    while let Ok(job) = inbox.try_recv() {
        turns.push(query(&job), job);
    }
    turns.pop().or_else(|| {
        block_on(async {
            tokio::select! {
                biased;
                _ = ends.wait_for(|ends| *ends) => None,
                job = inbox.recv() => job,
            }
        })
    })
}

enum Running {
    Here(Box<dyn Replica>),
    Isolated(Box<Isolated>),
}

struct Life {
    spec: ReplicaSpec,
    seat: Arc<Seat>,
    tell: Rc<RefCell<Tell>>,
    /// `None` after a panic: what the panic left is not trusted.
    running: Option<Running>,
    /// How often it has panicked, or ended when no batch was in it.
    ends: Ends,
    /// It shares its process with no other replica. So it is once one that it shared has died.
    alone: bool,
    /// What `start` has reported: goes with the next reply.
    carried: Metrics,
    /// And found.
    keeps: Keeps,
}

impl Life {
    fn start(&mut self, wanted: &mut dyn FnMut() -> bool) -> UdfResult<()> {
        let tell = Rc::clone(&self.tell);
        let progress = move |doing: &str| (tell.borrow_mut())(Said::Progress(doing));
        let gpu = open(&self.spec.udf, &self.spec.arguments)?.gpu_for(&self.spec.options, &self.seat)?;
        let (running, metrics, found) = if self.spec.options.isolated || gpu.is_some() {
            let mut start = |alone| Isolated::start(&self.spec, &self.seat, &progress, wanted, gpu.clone(), alone);
            let (child, metrics, found) = match start(self.alone) {
                Err(NotStarted::WithOthers(why)) => {
                    tracing::info!(why, "starts again, in a process of its own");
                    self.alone = true;
                    start(true)?
                }
                started => started?,
            };
            (Running::Isolated(Box::new(child)), metrics, found)
        } else {
            let meter = Meter::default();
            let mut cx = Start::new(Context::new(&self.seat, &meter), self.spec.directory.clone(), progress);
            let replica = start_fenced(&self.spec.udf, &self.spec.arguments, &mut cx)?;
            (Running::Here(replica), meter.take(), cx.found())
        };
        self.running = Some(running);
        self.keeps = Keeps::new(found);
        self.carried.merge(&metrics);
        Ok(())
    }

    /// Starts the replica anew if it has ended, has outlived an actor that it found in `start`, or if this call is to have a
    /// process for itself.
    fn ready(&mut self, call: Call, wanted: &mut dyn FnMut() -> bool) -> UdfResult<()> {
        if let Some(found) = self.keeps.to_look_at(call)
            && self.running.is_some()
        {
            if found.stands_blocking(&self.spec.directory)? {
                self.keeps.looked(call);
            } else {
                tracing::debug!("an actor that it has found has ended: starts anew");
                self.carried = self.stop();
            }
        }
        match &mut self.running {
            Some(Running::Isolated(child)) if child.has_ended() || (call.alone && child.is_shared()) => {
                if child.is_shared() {
                    self.alone = true;
                } else {
                    self.ends.note(call.of, "its process ended between two batches".to_owned());
                }
                self.carried = self.stop();
            }
            Some(_) => return Ok(()),
            None => (),
        }
        if let Some(error) = self.ends.spent(call.of) {
            return Err(error);
        }
        let started = self.start(wanted);
        if let Err(error) = &started {
            self.ends.note(call.of, error.to_string());
        }
        started
    }

    /// Runs one batch. `begins` may be called more than once: a process that dies before it has begun is started anew.
    fn run(
        &mut self,
        inputs: DataFrame,
        call: Call,
        wanted: &mut dyn FnMut() -> bool,
        begins: &mut dyn FnMut(),
    ) -> Result<Reply, Fault> {
        let (column, report) = match self.running.take() {
            Some(Running::Here(replica)) => {
                begins();
                self.run_here(replica, inputs, call)?
            }
            Some(Running::Isolated(child)) => self.run_isolated(child, &inputs, call, wanted, begins)?,
            None => return Err(UdfError::new("the replica is gone").into()),
        };
        let mut metrics = std::mem::take(&mut self.carried);
        metrics.merge(&report.metrics);
        Ok(Reply { column, report: Report { metrics, ..report } })
    }

    fn run_here(&mut self, replica: Box<dyn Replica>, inputs: DataFrame, call: Call) -> UdfResult<(Column, Report)> {
        let meter = Meter::default();
        let batch = Batch::new(inputs, call, Context::new(&self.seat, &meter));
        let mut replica = Some(replica);
        let result = run_fenced(&mut replica, &batch);
        self.running = replica.map(Running::Here);
        if let (None, Err(panic)) = (&self.running, &result) {
            self.ends.note(call.of, panic.to_string());
        }
        Ok((result?, meter.report_of_call()))
    }

    fn run_isolated(
        &mut self,
        mut child: Box<Isolated>,
        inputs: &DataFrame,
        call: Call,
        wanted: &mut dyn FnMut() -> bool,
        begins: &mut dyn FnMut(),
    ) -> Result<(Column, Report), Fault> {
        let child_was_shared = child.is_shared();
        match child.run(inputs, call, wanted, begins) {
            Ok((column, report)) => {
                self.running = Some(Running::Isolated(child));
                Ok((as_high_as(column, inputs.height())?, report))
            }
            Err(Ended::Failed(error, panicked)) => {
                if panicked {
                    self.ends.note(call.of, error.to_string());
                } else {
                    self.running = Some(Running::Isolated(child));
                }
                Err(error.into())
            }
            // That is the batch's doing, or of what ran beside it: it has a second try, alone, and no third.
            Err(Ended::Died(why)) => {
                self.alone = true;
                Err(Fault::Died(why))
            }
            Err(Ended::DiedBefore(why)) => {
                if !child_was_shared {
                    self.ends.note(call.of, why);
                }
                self.alone = true;
                self.ready(call, wanted)?;
                match self.running.take() {
                    Some(Running::Isolated(child)) => self.run_isolated(child, inputs, call, wanted, begins),
                    _ => Err(UdfError::new("the replica is gone").into()),
                }
            }
            // Perhaps it waited for what another one does on the GPU.
            Err(Ended::Late) if child_was_shared => {
                self.alone = true;
                Err(Fault::Died("was killed, since a call took too long in a process of several replicas".to_owned()))
            }
            // What it holds goes with it here; the next call has a new one.
            Err(Ended::Late) => {
                let limit = call.timeout.unwrap_or_default();
                Err(UdfError::timed_out(limit, "its process was killed, and the next batch has a new one").into())
            }
        }
    }

    fn stop(&mut self) -> Metrics {
        let mut metrics = std::mem::take(&mut self.carried);
        match self.running.take() {
            Some(Running::Here(replica)) => {
                let meter = Meter::default();
                let cx = Context::new(&self.seat, &meter);
                log_stop(catch(|| replica.stop(&cx)));
                metrics.merge(&meter.take());
            }
            Some(Running::Isolated(child)) => metrics.merge(&child.stop()),
            None => (),
        }
        metrics
    }
}

pub(in crate::udf) fn log_stop(stopped: Result<UdfResult<()>, String>) {
    match stopped {
        Ok(Ok(())) => (),
        Ok(Err(error)) => tracing::warn!(%error, "stop failed"),
        Err(panic) => tracing::warn!(panic, "stop panicked"),
    }
}
