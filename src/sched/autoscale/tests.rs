use super::*;

const IDLE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(5);
const EXCLUDE: Duration = Duration::from_secs(120);

fn settings(workers: (usize, usize)) -> ScaleSettings {
    ScaleSettings {
        workers,
        each: Resources::cpus(1.0),
        no_gpu: None,
        threshold: 1.25,
        interval: INTERVAL,
        downscale: true,
        idle: IDLE,
        survivors: 1,
        exclude: EXCLUDE,
    }
}

fn load(backlog: f64, queries: usize, workers: usize) -> Load {
    let (backlog, capacity) = (Resources::cpus(backlog), Resources::cpus(workers as f64));
    Load { backlog, capacity, workers, queries, ended: false }
}

/// Says for each worker since when it is idle.
fn scaler(settings: ScaleSettings, idle: &[Option<Instant>]) -> Autoscaler {
    let mut scaler = Autoscaler::new(settings);
    for (worker, since) in idle.iter().enumerate() {
        since.iter().for_each(|since| scaler.note(WorkerId(worker as u32), true, *since));
    }
    scaler
}

#[test]
fn more_are_asked_for_only_past_the_threshold_and_never_past_the_most() {
    let mut scaler = Autoscaler::new(settings((1, 4)));
    let now = Instant::now();
    assert_eq!(scaler.step(&load(1.25, 1, 1), now).demand, None, "1.25 of capacity is not above it");
    assert_eq!(scaler.step(&load(1.3, 1, 1), now).demand, Some(3), "what waits and what runs, rounded up");
    let mut scaler = Autoscaler::new(settings((1, 4)));
    assert_eq!(scaler.step(&load(50.0, 1, 1), now).demand, Some(4));
    assert_eq!(scaler.step(&load(50.0, 1, 4), now + INTERVAL).demand, None, "there are as many as there may be");
}

#[test]
fn with_no_worker_any_backlog_asks() {
    let mut scaler = Autoscaler::new(settings((0, 4)));
    assert_eq!(scaler.step(&load(0.5, 1, 0), Instant::now()).demand, Some(1));
}

#[test]
fn demand_is_replaced_not_added_and_asked_for_at_most_once_an_interval() {
    let mut scaler = Autoscaler::new(settings((1, 9)));
    let now = Instant::now();
    assert_eq!(scaler.step(&load(2.0, 1, 1), now).demand, Some(3));
    assert_eq!(scaler.step(&load(5.0, 1, 1), now).demand, None, "too soon");
    assert_eq!(scaler.step(&load(5.0, 1, 1), now + INTERVAL).demand, Some(6));
    assert_eq!(scaler.step(&load(5.0, 1, 1), now + INTERVAL * 2).demand, None, "asked for already");
    assert_eq!(scaler.step(&load(0.0, 0, 1), now + INTERVAL * 2).demand, Some(1), "cleared with its query");
}

#[test]
fn demand_ends_with_the_query_that_made_it_also_beside_others() {
    let mut scaler = Autoscaler::new(settings((1, 9)));
    let now = Instant::now();
    assert_eq!(scaler.step(&load(8.0, 2, 1), now).demand, Some(9));
    assert_eq!(scaler.step(&load(0.5, 2, 1), now).demand, None, "its tasks are placed, others may follow");
    let ended = Load { ended: true, ..load(0.5, 1, 1) };
    assert_eq!(scaler.step(&ended, now).demand, Some(1));
}

#[test]
fn demand_is_computed_from_every_kind_that_waits() {
    let each = Resources::cpus(4.0).with_memory(8).with_gpus(2.0, 16);
    let now = Instant::now();
    for (backlog, wanted) in [
        (Resources::cpus(0.5).with_gpus(6.0, 0), 4),
        (Resources::cpus(0.5).with_memory(33), 6),
        (Resources::cpus(20.0).with_gpus(0.5, 0), 6),
    ] {
        let mut scaler = Autoscaler::new(ScaleSettings { each, ..settings((1, 9)) });
        let load = Load { backlog, capacity: each.in_all(), workers: 1, queries: 1, ended: false };
        assert_eq!(scaler.step(&load, now).demand, Some(wanted), "{backlog}");
    }
    let mut without = Autoscaler::new(settings((1, 9)));
    let gpu = Load { backlog: Resources::cpus(0.5).with_gpus(1.0, 0), ..load(0.5, 1, 1) };
    assert_eq!(without.step(&gpu, now).demand, Some(2), "for its CPU; a GPU is not to be had");
}

#[test]
fn a_worker_that_was_lost_is_asked_for_again() {
    let mut scaler = Autoscaler::new(settings((2, 2)));
    assert_eq!(scaler.step(&load(0.0, 0, 1), Instant::now()).demand, None, "it is still to come");
    scaler.lost();
    assert_eq!(scaler.step(&load(0.0, 0, 1), Instant::now()).demand, Some(2));
}

#[test]
fn the_longest_idle_go_first_down_to_the_survivors() {
    let start = Instant::now();
    let two = || ScaleSettings { survivors: 2, ..settings((0, 4)) };
    let idle = [Some(start + IDLE / 2), Some(start), Some(start + IDLE / 2), None];
    let mut some = scaler(two(), &idle);
    assert_eq!(some.step(&load(0.0, 1, 4), start + IDLE / 2), Decision::default());
    let decision = some.step(&load(0.0, 1, 4), start + IDLE);
    assert_eq!(decision.retire, [WorkerId(1)], "the others are idle for half of the time");
    let mut all = scaler(two(), &[Some(start + IDLE), Some(start), Some(start), None]);
    let decision = all.step(&load(0.0, 1, 4), start + IDLE * 2);
    assert_eq!(decision, Decision { demand: Some(2), retire: vec![WorkerId(1), WorkerId(2)] }, "two survive");
}

#[test]
fn work_resets_the_idle_clock() {
    let start = Instant::now();
    let mut scaler = scaler(settings((0, 4)), &[Some(start), Some(start)]);
    scaler.note(WorkerId(0), true, start + IDLE / 2);
    assert_eq!(scaler.step(&load(0.0, 1, 2), start + IDLE).retire, [WorkerId(1)]);
    scaler.note(WorkerId(0), false, start + IDLE);
    assert_eq!(scaler.step(&load(0.0, 0, 2), start + IDLE * 3).retire, [WorkerId(1)], "a busy one stays");
}

#[test]
fn nobody_retires_while_work_waits_or_growth_was_asked_for() {
    let start = Instant::now();
    let mut scaler = scaler(settings((0, 4)), &[Some(start), Some(start)]);
    assert_eq!(scaler.step(&load(0.5, 1, 2), start + IDLE).retire, []);
    let grows = scaler.step(&load(9.0, 1, 2), start + IDLE);
    assert_eq!((grows.demand, grows.retire.len()), (Some(4), 0));
}

#[test]
fn after_the_last_query_the_least_remain_and_with_the_switch_off_all() {
    let start = Instant::now();
    let idle = [Some(start), Some(start)];
    assert_eq!(scaler(settings((0, 4)), &idle).step(&load(0.0, 0, 2), start + IDLE).retire.len(), 2);
    assert_eq!(scaler(settings((1, 4)), &idle).step(&load(0.0, 0, 2), start + IDLE).retire.len(), 1);
    let mut off = scaler(ScaleSettings { downscale: false, ..settings((0, 4)) }, &idle);
    assert_eq!(off.step(&load(0.0, 0, 2), start + IDLE), Decision::default());
}

#[test]
fn with_the_switch_off_demand_is_still_cleared_at_the_end() {
    let mut off = Autoscaler::new(ScaleSettings { downscale: false, ..settings((0, 4)) });
    let now = Instant::now();
    assert_eq!(off.step(&load(3.0, 1, 0), now).demand, Some(3));
    assert_eq!(off.step(&load(0.0, 0, 1), now).demand, Some(1));
}

#[test]
fn a_released_machine_is_excluded_for_its_time_unless_more_are_asked_for() {
    let mut scaler = Autoscaler::new(settings((0, 4)));
    let (machine, start) = (IpAddr::from([10, 0, 0, 7]), Instant::now());
    scaler.release(machine, start);
    assert!(scaler.excludes(machine, start + EXCLUDE / 2));
    assert!(!scaler.excludes(IpAddr::from([10, 0, 0, 8]), start));
    assert!(!scaler.excludes(machine, start + EXCLUDE), "its time has passed");
    scaler.release(machine, start);
    scaler.step(&load(1.0, 1, 0), start);
    assert!(!scaler.excludes(machine, start), "whoever asks for more takes what there is");
}
