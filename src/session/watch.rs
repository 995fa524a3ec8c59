//! Says of a query that takes long what it does and waits for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use regatta_observe::QueryState;
use regatta_remote::ActorRef;
use tokio::time::sleep;

use crate::actors::{CONTROL, SchedulerActor, Status};
use crate::notice::notice;
use crate::os;
use crate::plan::QueryPlan;
use crate::sched::{QueryId, QueryStatus, WaitsFor};

/// After so long it is said for the first time, and then whenever three times as much has passed.
const FIRST: Duration = Duration::from_secs(10);
const TIMES: u32 = 3;
/// Of all queries of this process so many are spoken of in such a time.
const LINES: usize = 5;
const WITHIN: Duration = Duration::from_secs(10);

static SPOKEN: Mutex<Spoken> = Mutex::new(Spoken { since: None, lines: 0, left_out: 0 });

/// Keeps hundreds of queries that wait for one another from as many lines.
struct Spoken {
    since: Option<Instant>,
    lines: usize,
    left_out: usize,
}

impl Spoken {
    /// Whether a query may be spoken of now, and of how many others nothing was said before.
    fn of_one_more(&mut self, now: Instant) -> Option<usize> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WITHIN) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Why each stage has the tasks that it has.
pub(super) fn reasons(plan: &QueryPlan) -> Vec<String> {
    plan.stages.iter().map(|stage| stage.why.clone()).collect()
}

/// Looks at a query until it has ended.
pub(super) async fn watch(scheduler: ActorRef<SchedulerActor>, query: QueryId, why: Vec<String>) {
    let (began, mut pause) = (os::now(), FIRST);
    loop {
        sleep(pause).await;
        // A scheduler that does not answer is an error of the query, not of this.
        let Ok(Some(status)) = scheduler.ask(Status(query), CONTROL).await else { return };
        let Some(stands) = stands(&status, &why) else { return };
        pause *= TIMES;
        let spoken = SPOKEN.lock().unwrap_or_else(PoisonError::into_inner).of_one_more(os::now());
        let Some(left_out) = spoken else { continue };
        let others = match left_out {
            0 => String::new(),
            1 => " (another one takes as long)".to_owned(),
            more => format!(" ({more} others take as long)"),
        };
        notice(format_args!("{query} runs for {:.0} s: {stands}{others}", os::since(began).as_secs_f64()));
    }
}

/// What of a query runs, and what it waits for; `None` if it has ended.
fn stands(status: &QueryStatus, why: &[String]) -> Option<String> {
    if status.state != QueryState::Running {
        return None;
    }
    let mut parts = Vec::new();
    for (index, stage) in status.stages.iter().enumerate() {
        let (pending, running, done) = stage.tasks;
        let waits = stage.waits.iter().filter(|wait| !matches!(wait.on, WaitsFor::Inputs(_) | WaitsFor::TaskBefore));
        let waits: Vec<_> = waits.map(|wait| format!("; {wait}")).collect();
        if running == 0 && waits.is_empty() {
            continue;
        }
        let why = match (pending + running + done, why.get(index)) {
            (1, Some(why)) => format!(" ({why})"),
            _ => String::new(),
        };
        let of = pending + running + done;
        parts.push(format!("stage {index}: {done} of {of} tasks are done, {running} run{why}{}", waits.concat()));
    }
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{StageId, StageStatus, Wait};
    use crate::udf::MetricsByUdf;

    #[test]
    fn of_many_queries_that_take_long_few_are_spoken_of_and_the_others_counted() {
        let (mut spoken, now) = (Spoken { since: None, lines: 0, left_out: 0 }, Instant::now());
        let said: Vec<_> = (0..200).map(|_| spoken.of_one_more(now)).collect();
        assert_eq!(said[..LINES], [Some(0); LINES]);
        assert_eq!(said[LINES..], [None; 200 - LINES]);
        assert_eq!([(); 2].map(|()| spoken.of_one_more(now + WITHIN)), [Some(195), Some(0)]);
    }

    #[test]
    fn what_runs_and_what_waits_is_said_in_a_line_and_what_is_done_is_not() {
        let wait = |on| Wait { count: 2, of: "task".into(), on, time: Duration::from_secs(12) };
        let stage =
            |tasks, waits| StageStatus { waits, time: Duration::ZERO, output: (0, 0), tasks, pools: Vec::new() };
        let mut status = QueryStatus {
            state: QueryState::Running,
            stages: vec![
                stage((0, 0, 4), vec![]),
                stage((2, 1, 0), vec![wait(WaitsFor::Capacity("4 CPU".to_owned()))]),
                stage((0, 1, 0), vec![]),
                stage((1, 0, 0), vec![wait(WaitsFor::Inputs(vec![StageId(1)]))]),
            ],
            metrics: MetricsByUdf::new(),
        };
        let why = ["", "", "a sort sees all rows at once", ""].map(str::to_owned);
        assert_eq!(
            stands(&status, &why).unwrap(),
            "stage 1: 0 of 3 tasks are done, 1 run; 2 tasks wait for room on a worker (4 CPU), for 12.00 s, \
             stage 2: 0 of 1 tasks are done, 1 run (a sort sees all rows at once)"
        );
        status.state = QueryState::Done;
        assert_eq!(stands(&status, &why), None);
    }
}
