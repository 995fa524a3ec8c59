use super::*;
use crate::sched::need::Need;

const GIB: u64 = 1 << 30;

#[test]
fn charges_spread_over_workers_and_never_exceed_capacity() {
    let (half, none) = (Resources::cpus(0.5), Resources::NONE);
    let mut ledger = Ledger::default();
    for worker in 0..2 {
        ledger.add(WorkerId(worker), Resources::cpus(1.0));
    }
    let placed: Vec<_> = std::iter::from_fn(|| ledger.place(half, none)).collect();
    let workers: Vec<_> = placed.iter().map(|grant| grant.worker.0).collect();
    assert_eq!(workers, [0, 1, 0, 1], "spread, ties by number, and no fifth half of two CPUs");
    placed.iter().for_each(|grant| ledger.release(grant));
    assert!(ledger.is_unused());
    ledger.set_silent(WorkerId(0), Some(Instant::now()));
    let other = ledger.place(half, none).unwrap();
    assert_eq!((other.worker, ledger.place_on(WorkerId(0), half)), (WorkerId(1), None));
    ledger.release(&other);
    ledger.set_silent(WorkerId(0), None);
    let again = ledger.place_on(WorkerId(0), half).expect("it is heard again");
    ledger.release(&again);
    assert_eq!(ledger.place_all(&[Resources::cpus(1.0); 3]), None, "two CPUs hold no three");
    assert!(ledger.is_unused(), "and what was placed of them is given back");
    assert_eq!(ledger.place(half, Resources::cpus(0.6)), None, "half a CPU leaves less than 0.6 of one");
}

#[test]
fn a_gpu_is_never_oversubscribed() {
    let mut ledger = Ledger::default();
    ledger.add(WorkerId(0), Resources::cpus(64.0).with_gpus(2.0, 0));
    let gpus = |gpus| Resources::cpus(0.0).with_gpus(gpus, 0);
    let two: Vec<_> = [0.5, 0.3].map(|share| ledger.place(gpus(share), Resources::NONE).unwrap()).into();
    assert_eq!(two[0].devices, two[1].devices, "shares go to one device while they fit");
    assert_eq!(ledger.place(gpus(2.0), Resources::NONE), None, "one of the two is in use");
    let whole = ledger.place(gpus(1.0), Resources::NONE).unwrap();
    assert_ne!(whole.devices, two[0].devices);
    assert_eq!(ledger.place(gpus(0.3), Resources::NONE), None, "0.2 is left, and any is not enough");
    let last = ledger.place(gpus(0.2), Resources::NONE).unwrap();
    [whole, last].iter().chain(&two).for_each(|grant| ledger.release(grant));
    let both = ledger.place(gpus(2.0), Resources::NONE).unwrap();
    assert_eq!(both.devices, [0, 1]);
    ledger.release(&both);
    assert!(ledger.is_unused());
}

#[test]
fn replicas_of_whole_gpus_have_disjoint_sets_and_halves_share() {
    for (each, replicas) in [(1.0, 1), (1.0, 2), (2.0, 1), (2.0, 2)] {
        let mut ledger = Ledger::default();
        ledger.add(WorkerId(0), Resources::cpus(8.0).with_gpus(each * f64::from(replicas), 0));
        let placed = (0..replicas).map(|_| ledger.place(Resources::cpus(0.5).with_gpus(each, 0), Resources::NONE));
        let devices: Vec<_> = placed.flat_map(|grant| grant.unwrap().devices).collect();
        let distinct: BTreeSet<_> = devices.iter().collect();
        assert_eq!((distinct.len(), devices.len()), (devices.len(), (each * f64::from(replicas)) as usize));
    }
    let mut ledger = Ledger::default();
    ledger.add(WorkerId(0), Resources::cpus(8.0).with_gpus(2.0, 0));
    let half = || Resources::cpus(0.5).with_gpus(0.5, 0);
    let devices: Vec<_> =
        std::iter::from_fn(|| ledger.place(half(), Resources::NONE)).flat_map(|g| g.devices).collect();
    assert_eq!(devices, [0, 0, 1, 1]);
}

#[test]
fn memory_of_workers_and_of_gpus_is_admitted_too() {
    let mut ledger = Ledger::default();
    ledger.add(WorkerId(0), Resources::cpus(8.0).with_memory(GIB));
    ledger.add(WorkerId(1), Resources::cpus(4.0).with_memory(4 * GIB).with_gpus(1.0, 2 * GIB));
    let place = |ledger: &mut Ledger, amount| ledger.place(amount, Resources::NONE).map(|grant| grant.worker.0);
    let large = Resources::cpus(1.0).with_memory(3 * GIB);
    assert_eq!(place(&mut ledger, large), Some(1), "the one with more CPUs has too little memory");
    assert_eq!(place(&mut ledger, large), None);
    let on_gpu = Resources::cpus(0.5).with_gpus(0.0, 3 * GIB / 2);
    assert_eq!(place(&mut ledger, on_gpu), Some(1), "by its memory alone, a UDF may share a device");
    assert_eq!(place(&mut ledger, on_gpu), None, "half a GiB is left on it");
}

#[test]
fn memory_of_a_gpu_is_given_once() {
    let place = |ledger: &mut Ledger, gpus, memory| {
        ledger.place(Resources::cpus(0.1).with_gpus(gpus, memory), Resources::NONE).is_some()
    };
    let ledger = || {
        let mut ledger = Ledger::default();
        ledger.add(WorkerId(0), Resources::cpus(8.0).with_gpus(1.0, 4 * GIB));
        ledger
    };
    let mut halves = ledger();
    assert!(place(&mut halves, 0.5, 0));
    assert!(!place(&mut halves, 0.5, 3 * GIB), "the first may allocate half of it");
    assert!(place(&mut halves, 0.25, 2 * GIB));
    let mut alone = ledger();
    assert!(place(&mut alone, 1.0, GIB));
    assert!(!place(&mut alone, 0.0, GIB), "a whole GPU is for one replica alone");
    let mut shared = ledger();
    assert!(place(&mut shared, 0.0, GIB));
    assert!(!place(&mut shared, 1.0, 0));
}

/// Any sequence of charges and releases against a model that knows nothing of indexes.
#[test]
fn any_sequence_of_charges_equals_a_simple_model() {
    for seed in 1..200u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        let mut ledger = Ledger::default();
        let mut model: BTreeMap<WorkerId, (Resources, Vec<Grant>)> = BTreeMap::new();
        for _ in 0..300 {
            let worker = WorkerId(next(6) as u32);
            match next(10) {
                0 => {
                    let capacity = Resources::cpus(next(8) as f64 / 2.0)
                        .with_memory(next(4))
                        .with_gpus(next(3) as f64, 4 * next(3));
                    ledger.add(worker, capacity);
                    model.insert(worker, (capacity, Vec::new()));
                }
                1 if next(4) == 0 => {
                    ledger.remove(worker);
                    model.remove(&worker);
                }
                2..=4 => {
                    let grant = model.get_mut(&worker).and_then(|(_, grants)| grants.pop());
                    grant.iter().for_each(|grant| ledger.release(grant));
                }
                _ => {
                    let gpus = [0.0, 0.0, 0.5, 0.25, 1.0, 2.0][next(6) as usize];
                    let amount =
                        Resources::cpus(next(4) as f64 / 4.0).with_memory(next(2)).with_gpus(gpus, 3 * next(2));
                    let fits = model.iter().any(|(_, (capacity, grants))| fits(*capacity, grants, amount));
                    let placed = ledger.place(amount, Resources::NONE);
                    assert_eq!(placed.is_some(), fits, "seed {seed}: {amount} in {model:?}");
                    if let Some(grant) = placed {
                        let (capacity, grants) = model.get_mut(&grant.worker).unwrap();
                        grants.push(grant);
                        assert!(holds(*capacity, grants), "seed {seed}: oversubscribed: {capacity} by {grants:?}");
                    }
                }
            }
            for (worker, (capacity, grants)) in &model {
                let charged =
                    grants.iter().fold(Resources::NONE, |sum, g| sum.plus(Resources { gpu_memory: 0, ..g.amount }));
                let gpus = Resources { milligpus: 0, ..charged };
                let (has, is) = ledger.account(*worker).unwrap();
                assert_eq!((has, Resources { milligpus: 0, gpu_memory: 0, ..is }), (*capacity, gpus), "seed {seed}");
            }
        }
    }
}

/// Any sequence of tasks and replicas: all of what tasks need is there, or they are alone; and it is not refused without need.
#[test]
fn tasks_have_the_memory_that_they_need_or_no_other_beside_them() {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    for seed in 0..300 {
        let mut ledger = Ledger::default();
        let memory: Vec<u64> = (0..1 + next(3)).map(|_| 4 + next(12)).collect();
        for (worker, memory) in (0..).zip(&memory) {
            ledger.add(WorkerId(worker), Resources::cpus(2.0).with_memory(*memory));
        }
        // What is charged, and what tasks need of it.
        let mut held: Vec<(Grant, Option<u64>)> = Vec::new();
        for _ in 0..100 {
            match next(6) {
                0 => held.extend(
                    ledger.place(Resources::cpus(0.25).with_memory(next(8)), Resources::NONE).map(|g| (g, None)),
                ),
                1 | 2 if !held.is_empty() => ledger.release(&held.swap_remove(next(held.len() as u64) as usize).0),
                _ => {
                    let need = Need::new(Resources::cpus(0.5), [0, 1 + next(20)][next(2) as usize], next(3));
                    let placed = ledger.place_task(need).or_else(|| ledger.place_alone(need));
                    if placed.is_none() {
                        let runs = held.iter().any(|(_, task)| task.is_some());
                        let has_cpu = ledger.has_room(need.amount);
                        assert!(runs || !has_cpu, "seed {seed}: {need:?} waits, and nothing runs: {held:?}");
                    }
                    held.extend(placed.map(|grant| (grant, Some(need.least))));
                }
            }
            for (worker, memory) in (0..).zip(&memory) {
                let there = || held.iter().filter(|(grant, _)| grant.worker == WorkerId(worker));
                let tasks: Vec<u64> = there().filter_map(|(_, need)| *need).collect();
                let replicas: u64 =
                    there().filter(|(_, need)| need.is_none()).map(|(grant, _)| grant.amount.memory).sum();
                let fits = tasks.iter().sum::<u64>() + replicas <= *memory || tasks.len() == 1;
                assert!(fits, "seed {seed}: {tasks:?} beside {replicas} in {memory}");
            }
        }
        held.iter().for_each(|(grant, _)| ledger.release(grant));
        assert!(ledger.is_unused(), "seed {seed}: {ledger:?}");
    }
}

/// What is left of each device, by the grants.
fn devices(capacity: Resources, grants: &[Grant]) -> Vec<(i64, i64)> {
    let mut left = vec![(DEVICE as i64, capacity.gpu_memory as i64); (capacity.milligpus / DEVICE) as usize];
    for (grant, device) in grants.iter().flat_map(|grant| grant.devices.iter().map(move |device| (grant, device))) {
        left[*device as usize].0 -= grant.amount.milligpus.min(DEVICE) as i64;
        left[*device as usize].1 -= on_each(capacity, grant.amount);
    }
    left
}

/// Bytes that an amount takes of a GPU, in words: all if it is alone there; what it says; its share.
fn on_each(capacity: Resources, amount: Resources) -> i64 {
    let (all, said) = (capacity.gpu_memory as i64, amount.gpu_memory as i64);
    if amount.milligpus >= DEVICE {
        return if said > all { said } else { all };
    }
    if said > 0 { said } else { all * amount.milligpus as i64 / DEVICE as i64 }
}

fn holds(capacity: Resources, grants: &[Grant]) -> bool {
    let sum = grants.iter().fold(Resources::NONE, |sum, grant| sum.plus(grant.amount));
    let devices = devices(capacity, grants);
    sum.millicpus <= capacity.millicpus && sum.memory <= capacity.memory && devices.iter().all(|d| d.0 >= 0 && d.1 >= 0)
}

fn fits(capacity: Resources, grants: &[Grant], amount: Resources) -> bool {
    let charged = grants.iter().fold(amount, |sum, grant| sum.plus(grant.amount));
    let share = amount.milligpus.min(DEVICE) as i64;
    let free = devices(capacity, grants).iter().filter(|d| d.0 >= share && d.1 >= on_each(capacity, amount)).count();
    let wanted = if amount.wants_gpu() { (amount.milligpus / DEVICE).max(1) as usize } else { 0 };
    charged.millicpus <= capacity.millicpus && charged.memory <= capacity.memory && free >= wanted
}
