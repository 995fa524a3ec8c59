//! What a fold costs: an attempt that is placed and ends. `cargo bench -p regatta-observe`.

use std::hint::black_box;
use std::time::Instant;

use regatta_observe::{End, Explain, Limits, QueryId, Recorder, Seen, StageId, StagePlan, Submitted, TaskId, WorkerId};

const TASKS: u32 = 1_000_000;

fn main() {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let mut recorder = Recorder::new(Limits::default(), "", 0);
        let plan = Explain::new(vec![StagePlan { stage: 0, tasks: Some(TASKS), ..StagePlan::default() }], Vec::new());
        let query = QueryId(1);
        recorder.saw(Seen::Submitted(Submitted { query, name: None, plan: &plan, planned: 0 }), 0);
        let began = Instant::now();
        // So many run at once.
        for index in 0..TASKS + 256 {
            let now = u64::from(index) * 11_000;
            let task = |index| TaskId { query, stage: StageId(0), index };
            if index < TASKS {
                recorder.saw(Seen::Placed { task: task(index), attempt: 1, worker: WorkerId(index % 64) }, now);
            }
            if index >= 256 {
                let end = End::Done { rows: u64::from(index % 1000), bytes: u64::from(index) };
                let ended = Seen::Ended { task: task(index - 256), attempt: 1, end, ran: Some(2_000_000) };
                recorder.saw(black_box(ended), now);
            }
        }
        best = best.min(began.elapsed().as_secs_f64() / f64::from(TASKS));
        let began = Instant::now();
        black_box(recorder.profile(query, 20_000_000_000));
        println!("{:.3} us an end; a profile takes {:.2} ms", best * 1e6, began.elapsed().as_secs_f64() * 1e3);
    }
}
