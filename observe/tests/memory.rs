//! What a recorder takes, by the allocator's own account.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use regatta_observe::{
    End, Explain, Limits, MetricsByUdf, QueryId, Recorder, Seen, StageId, StagePlan, Submitted, TaskId, WorkerId,
};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator; this counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Queries before it have ended, so that there is something to drop.
#[test]
fn two_million_ends_stay_within_the_bound() {
    let limits = Limits::default();
    let before = HELD.load(Ordering::Relaxed);
    let (mut recorder, none) = (Recorder::new(limits, "", 0), MetricsByUdf::new());
    for (query, tasks) in (1..=100).map(|query| (query, 3_000)).chain([(101, 2_000_000)]) {
        let plan = StagePlan { stage: 0, tasks: Some(tasks), ..StagePlan::default() };
        let plan = Explain::new(vec![plan], Vec::new());
        let query = QueryId(query);
        recorder.saw(Seen::Submitted(Submitted { query, name: None, plan: &plan, planned: 0 }), 0);
        for index in 0..tasks {
            let task = TaskId { query, stage: StageId(0), index };
            let now = u64::from(index) * 11_000;
            recorder.saw(Seen::Placed { task, attempt: 1, worker: WorkerId(index % 64) }, now);
            let end = End::Done { rows: u64::from(index % 1000), bytes: u64::from(index) };
            recorder.saw(Seen::Ended { task, attempt: 1, end, ran: Some(9_000), metrics: &none }, now + 10_000);
        }
        if tasks == 3_000 {
            recorder.saw(Seen::Released(query), 40_000_000);
        }
    }
    let (most, held) = (MOST.load(Ordering::Relaxed) - before, HELD.load(Ordering::Relaxed) - before);
    println!("{most} bytes at most, {held} now, {} by its own account", recorder.bytes());
    assert!(most <= limits.memory, "{most} bytes");
    assert!(recorder.bytes() * 4 >= held * 3, "it takes {held} bytes, and says {}", recorder.bytes());
    let profile = recorder.profile(QueryId(101), 60_000_000_000).unwrap();
    let stage = &profile.stages[0];
    assert_eq!((stage.done, stage.rows, profile.dropped.outputs), (2_000_000, 999 * 1_000_000, 0));
    assert!(profile.tasks.len() < 5_000 && profile.dropped.tasks > 1_900_000);
}
