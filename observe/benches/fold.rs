//! What a fold costs, an attempt that is placed and ends; and what it costs to be asked meanwhile. `cargo bench -p regatta-observe`.

use std::hint::black_box;
use std::time::Instant;

use regatta_observe::{
    End, Explain, Limits, MetricsByUdf, QueryId, Recorder, Seen, StageId, StagePlan, Submitted, TaskId, WorkerId,
};

const TASKS: u32 = 1_000_000;

fn main() {
    // Workers, and tasks that run at once.
    for (workers, places) in [(64, 256), (1_000, 8_000)] {
        println!("{workers} workers, {places} of {TASKS} tasks at once:");
        measure(workers, places);
    }
}

fn measure(workers: u32, places: u32) {
    let (mut best, none) = (f64::MAX, MetricsByUdf::new());
    for _ in 0..5 {
        let mut recorder = Recorder::new(Limits::default(), "", 0);
        for worker in 0..workers {
            recorder.saw(Seen::Joined { worker: WorkerId(worker), cpus: 4.0, gpus: 0.0, memory: 1 << 34 }, 0);
        }
        let plan = Explain::new(vec![StagePlan { stage: 0, tasks: Some(TASKS), ..StagePlan::default() }], Vec::new());
        let query = QueryId(1);
        recorder.saw(Seen::Submitted(Submitted { query, name: None, plan: &plan, planned: 0 }), 0);
        let at = |index: u32| u64::from(index) * 11_000;
        let fold = |recorder: &mut Recorder, tasks: std::ops::Range<u32>| {
            for index in tasks {
                let task = |index| TaskId { query, stage: StageId(0), index };
                if index < TASKS {
                    let worker = WorkerId(index % workers);
                    recorder.saw(Seen::Placed { task: task(index), attempt: 1, worker }, at(index));
                }
                if index >= places {
                    let end = End::Done { rows: u64::from(index % 1000), bytes: u64::from(index) };
                    let (task, ran) = (task(index - places), Some(2_000_000));
                    recorder.saw(black_box(Seen::Ended { task, attempt: 1, end, ran, metrics: &none }), at(index));
                }
            }
        };
        let began = Instant::now();
        fold(&mut recorder, 0..TASKS / 2);
        let first = began.elapsed();
        let now = at(TASKS / 2);
        let stands = micros(|| drop(black_box(recorder.stands(query, now))));
        let progress = micros(|| drop(black_box(recorder.progress(query, now))));
        let profile = micros(|| drop(black_box(recorder.profile(query, now))));
        let began = Instant::now();
        fold(&mut recorder, TASKS / 2..TASKS + places);
        best = best.min((first + began.elapsed()).as_secs_f64() / f64::from(TASKS));
        println!(
            "{:.3} us an end; meanwhile a status takes {stands:.1} us, progress {progress:.1} us, a profile {profile:.1} us",
            best * 1e6
        );
    }
}

/// The middle one of a few: how long it takes where nothing else runs.
fn micros(mut what: impl FnMut()) -> f64 {
    let mut took = [(); 21].map(|()| {
        let began = Instant::now();
        what();
        began.elapsed().as_secs_f64() * 1e6
    });
    took.sort_unstable_by(f64::total_cmp);
    took[10]
}
