use std::collections::BTreeMap;

use super::*;
use crate::testing::{self, Made, Random, SECOND};
use crate::{End, Explain, Limits, Seen, StageId, StagePlan, WorkerId};

const ROOM: Room = Room { width: 140, height: 40, unicode: true };

fn drawn(queries: &[Progress], room: Room) -> String {
    Shown::default().draw(queries, room).iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_query_that_runs_is_shown_with_its_stages_and_pools() {
    let (made, _) = testing::running();
    let progress = made.recorder.progress(made.query, made.now).unwrap();
    assert_eq!(
        drawn(std::slice::from_ref(&progress), ROOM),
        "\
query 00000007 nightly  stage 2 of 4   0:42   4 workers, 5 of 16 CPU busy   5.47 GiB of 32 GiB
 ok  0  scan orders/*.parquet                     4 of 4 tasks  1.5 M rows  143 MiB  1.1 s
 >>  1  scan lineitem.pa..t, filter, Embed    311 of 512 tasks  █████████▋      ▏  3.64 M rows, 91.3 k/s  0:21 to 0:31 left in this stage
         Embed   3 of 4 replicas, 97 % busy; 9 batches wait for room; one starts on worker 3 for 34 s: weights [2J 61 %
  .  2  join, group_by l_orderkey           0 tasks of an unknown number  waits for stage 1
  .  3  sort revenue, limit 10                     0 of 1 task  waits for stage 2
"
    );
    let ascii = drawn(std::slice::from_ref(&progress), Room { width: 100, height: 8, unicode: false });
    assert_eq!(
        ascii,
        "\
query 00000007 nightly  stage 2 of 4   0:42   4 workers, 5 of 16 CPU busy   5.47 GiB of 32 GiB
 ok  1 stage done
 >>  1  scan lineitem.pa.., filter, Embed    311 of 512 tasks  [#########       ]  3.64 M rows, ..
         Embed   3 of 4 replicas, 97 % busy; 9 batches wait for room; one starts on worker 3 for ..
"
    );
    let many = vec![progress; 5];
    let several = Shown::default().draw(&many, Room { width: 60, height: 20, unicode: true });
    assert_eq!(several.len(), 10);
    assert_eq!(several.last().unwrap(), "and 2 more queries");
    assert!(several.iter().all(|line| line.chars().count() < 60));
}

/// A line that is wider than the terminal would be two, and the block would be drawn over the wrong ones.
#[test]
fn names_of_every_script_fit_and_move_no_cursor() {
    let (made, _) = testing::running();
    let mut progress = made.recorder.progress(made.query, made.now).unwrap();
    let hostile = "船荷\u{202e}証券🚣‍♀️\x1b[9A\r\n\u{9b}2J\u{2028}e\u{301}".repeat(40);
    progress.name = Some(hostile.clone());
    progress.notes = vec![hostile.clone()];
    for stage in &mut progress.stages {
        stage.label = hostile.clone();
        stage.no_estimate = Some(hostile.clone());
        stage.pools.iter_mut().for_each(|pool| {
            pool.udf = hostile.clone();
            pool.starting = Some((1, 1, Some(hostile.clone())));
        });
    }
    for (width, unicode) in [(20, true), (79, true), (80, true), (140, false)] {
        let lines = Shown::default().draw(std::slice::from_ref(&progress), Room { width, height: 60, unicode });
        for text in lines {
            assert!(crate::text::columns(&text) < width, "{text:?}");
            assert!(!text.chars().any(crate::text::is_hidden), "{text:?}");
        }
    }
    progress.state = QueryState::Done;
    let said = Lines::default().next(&progress);
    assert!(said.iter().all(|text| !text.chars().any(crate::text::is_hidden)), "{said:?}");
}

#[test]
fn a_line_that_is_too_long_ends_behind_a_word() {
    let mut made = Made::new(2, Limits::default());
    made.submit(None, &testing::plan());
    let mut progress = made.recorder.progress(made.query, made.now).unwrap();
    progress.notes = vec!["12345 67890 ".repeat(20)];
    for width in 30..80 {
        let lines = Shown::default().draw(&[progress.clone()], Room { width, height: 60, unicode: true });
        let note = lines.last().unwrap();
        let figures: Vec<_> = note.trim_start_matches([' ', '!']).split(' ').collect();
        let (end, figures) = figures.split_last().unwrap();
        assert!(*end == ".." && figures.iter().all(|figure| figure.len() == 5), "{width}: {note:?}");
        assert!(crate::text::columns(note) < width, "{width}: {note:?}");
    }
}

#[test]
fn what_went_wrong_and_was_made_good_is_a_note() {
    let mut made = Made::new(2, Limits::default());
    made.submit(None, &testing::plan());
    (0..4).for_each(|task| made.place(0, task, 1, task % 2));
    made.at(3_000).saw(Seen::Lost { worker: WorkerId(1), why: "signal 9" });
    made.ends(0, 0, 1, End::Failed("timeout\nat row 7"));
    made.at(11_200);
    let progress = made.recorder.progress(made.query, made.now).unwrap();
    assert_eq!(
        progress.notes,
        [
            "2 tasks run again: a worker was lost, or what it held",
            "1 attempt failed, and runs again",
            "8 s ago: timeout",
        ]
    );
}

#[test]
fn a_query_that_has_ended_leaves_one_line() {
    let line = |profile: fn() -> crate::Profile| {
        let profile = profile();
        let progress = Progress {
            id: profile.query.id.clone(),
            state: profile.query.state,
            error: profile.query.error.clone(),
            time: profile.took(),
            rows: profile.query.rows,
            workers: 2,
            peak: 6 << 30,
            udf: Some((0.91, "demo::Embed".to_owned())),
            ..Progress::default()
        };
        draw::last(&progress)
    };
    assert_eq!(
        line(testing::pipeline),
        "query 00000007: 10 rows in 48.5 s; 2 workers; peak 6 GiB; 91 % of task time waited for Embed (run.profile() says more)"
    );
    assert_eq!(
        line(testing::failed),
        "query 00000007: failed after 4.1 s: stage 1, task 3, attempt 5 on worker 1: UDF demo::Embed: no such token"
    );
}

#[test]
fn lines_of_a_log_say_start_ends_and_where_it_stands_without_a_code() {
    let (made, _) = testing::running();
    let mut lines = Lines::default();
    let mut said = Vec::new();
    for second in [0, 2, 9, 11, 12, 31, 42] {
        let mut progress = made.recorder.progress(made.query, made.now).unwrap();
        progress.time = second * SECOND;
        said.extend(lines.next(&progress));
    }
    let mut over = made.recorder.progress(made.query, made.now).unwrap();
    (over.state, over.rows, over.udf) = (QueryState::Done, 10, None);
    said.extend(lines.next(&over));
    said.extend(lines.next(&over));
    assert_eq!(
        said,
        [
            "query 00000007 nightly starts: 4 stages, 4 workers",
            "query 00000007 nightly: stage 0 (scan orders/*.parquet) is done: 4 of 4 tasks, 1.5 M rows, 143 MiB, 1.1 s",
            "query 00000007 nightly runs for 0:11: stage 1: 311 of 512 tasks, 3.64 M rows, 0:21 to 0:31 left",
            "query 00000007 nightly runs for 0:31: stage 1: 311 of 512 tasks, 3.64 M rows, 0:21 to 0:31 left",
            "query 00000007 nightly: 10 rows in 42 s; 4 workers; peak 2 GiB",
        ]
    );
    assert!(said.iter().all(|line| line.chars().all(|c| !c.is_control())));
}

#[test]
fn a_block_is_drawn_over_itself_and_under_what_others_write() {
    let (made, _) = testing::running();
    let progress = made.recorder.progress(made.query, made.now).unwrap();
    let (mut block, mut out) = (Block::default(), Vec::new());
    let room = Room { height: 6, ..ROOM };
    block.show(std::slice::from_ref(&progress), room, &mut out).unwrap();
    let first = out.len();
    block.show(std::slice::from_ref(&progress), room, &mut out).unwrap();
    assert_eq!(out.len(), first, "nothing has changed, so nothing is drawn");
    block.above(b"a line of a log\n", &mut out).unwrap();
    let text = String::from_utf8(out[first..].to_vec()).unwrap();
    assert!(text.starts_with("\r\x1b[3A\x1b[Ja line of a log\nquery 00000007 nightly"), "{text:?}");
    let mut ended = progress;
    (ended.state, ended.rows, ended.udf) = (QueryState::Done, 10, None);
    out.clear();
    block.show(std::slice::from_ref(&ended), room, &mut out).unwrap();
    block.show(std::slice::from_ref(&ended), room, &mut out).unwrap();
    block.above(b"more\n", &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, "\r\x1b[3A\x1b[Jquery 00000007 nightly: 10 rows in 42 s; 4 workers; peak 2 GiB\r\nmore\n");
}

/// A cluster of a random kind that runs one stage: workers that differ, come and go, tasks of every length, a number of tasks that
/// may change, results that are lost.
struct Cluster {
    made: Made,
    random: Random,
    slots: u64,
    speeds: BTreeMap<u32, f64>,
    /// When they end, and what.
    running: BTreeMap<(u64, u32), (u32, u32)>,
    waiting: Vec<(u32, u32)>,
    done: BTreeMap<u32, u32>,
    tasks: u32,
    each: f64,
    /// How many seconds it takes, if all goes well.
    long: u64,
    spread: f64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let workers = 1 + random.below(6) as u32;
        let tasks = 2 + random.below(400) as u32;
        let mut made = Made::new(workers, Limits::default());
        let plan = StagePlan { stage: 0, tasks: Some(tasks), ..StagePlan::default() };
        made.submit(None, &Explain { stages: vec![plan], nodes: Vec::new() });
        let speeds = (0..workers).map(|worker| (worker, 0.6 + 0.8 * random.part())).collect();
        let each = [0.3, 1.0, 3.0, 10.0, 40.0][random.below(5) as usize];
        let spread = [0.05, 0.3, 0.8][random.below(3) as usize];
        let slots = 1 + random.below(4);
        let long = 1 + (f64::from(tasks) * each / f64::from(workers) / slots as f64) as u64;
        let waiting = (0..tasks).rev().map(|task| (task, 1)).collect();
        let (running, done) = (BTreeMap::new(), BTreeMap::new());
        Self { made, random, slots, speeds, running, waiting, done, tasks, each, long, spread }
    }

    fn place(&mut self) {
        let workers: Vec<_> = self.speeds.iter().map(|(worker, speed)| (*worker, *speed)).collect();
        for (worker, speed) in workers {
            while (self.running.values().filter(|(on, _)| *on == worker).count() as u64) < self.slots {
                let Some((task, attempt)) = self.waiting.pop() else { return };
                self.made.place(0, task, attempt, worker);
                let long =
                    (self.spread * (self.random.part() + self.random.part() + self.random.part() - 1.5) * 2.0).exp();
                let ends = self.made.now + (self.each * long / speed * SECOND as f64) as u64;
                self.running.insert((ends, task), (worker, attempt));
            }
        }
    }

    fn lose(&mut self) {
        let workers: Vec<_> = self.speeds.keys().copied().collect();
        let lost = workers[self.random.below(workers.len() as u64) as usize];
        self.speeds.remove(&lost);
        self.made.saw(Seen::Lost { worker: WorkerId(lost), why: "signal 9" });
        let (gone, stay): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.running).into_iter().partition(|(_, (on, _))| *on == lost);
        self.running = stay;
        self.waiting.extend(gone.into_iter().map(|((_, task), (_, attempt))| (task, attempt + 1)));
        let held: Vec<_> = self.done.iter().filter(|(_, on)| **on == lost).map(|(task, _)| *task).collect();
        for task in held {
            self.done.remove(&task);
            self.waiting.push((task, 9));
        }
    }

    /// Something that nobody expects: one of each in four queries.
    fn surprise(&mut self, seconds: u64) {
        match self.random.below(4 * self.long / seconds + 3) {
            0 if self.speeds.len() > 1 => self.lose(),
            1 => {
                let worker = self.speeds.keys().max().unwrap() + 10;
                self.speeds.insert(worker, 1.0);
                self.made.saw(Seen::Joined { worker: WorkerId(worker), cpus: 4.0, gpus: 0.0, memory: 0 });
            }
            2 => {
                let more = self.random.below(20) as u32;
                (self.tasks..self.tasks + more).for_each(|task| self.waiting.insert(0, (task, 1)));
                self.tasks += more;
                let (query, tasks) = (self.made.query, self.tasks);
                self.made.saw(Seen::Tasks { query, stage: StageId(0), tasks, why: "" });
            }
            _ => (),
        }
    }

    /// Runs until this time; whether all is done.
    fn run_to(&mut self, time: u64) -> bool {
        loop {
            self.place();
            let Some(((ends, task), (worker, attempt))) = self.running.first_key_value().map(|(k, v)| (*k, *v)) else {
                self.made.stage_done(0);
                return true;
            };
            if ends > time {
                self.made.now = time;
                return false;
            }
            self.running.pop_first();
            self.made.now = ends;
            let rows = self.random.below(10_000);
            self.made.ends(0, task, attempt, End::Done { rows, bytes: rows * 8 });
            self.done.insert(task, worker);
        }
    }
}

/// A thousand queries: no bar goes back or is full before the end, and of the estimates that were shown four of five held.
#[test]
fn bars_never_go_back_and_estimates_hold() {
    let (mut held, mut shown, mut asked) = (0_u32, 0_u32, 0_u32);
    for seed in 0..1000 {
        let mut cluster = Cluster::new(seed);
        let (mut bars, mut last, mut last_done, mut estimates) = (Shown::default(), 0, 0, Vec::new());
        let step = 1 + cluster.long / 100;
        for second in (1..).map(|round| round * step) {
            cluster.surprise(step);
            let over = cluster.run_to(second * SECOND);
            let query = cluster.made.recorder.progress(cluster.made.query, cluster.made.now).unwrap();
            let stage = &query.stages[0];
            let part = bars.part(&query.id, stage).unwrap();
            assert!(part >= last && stage.done >= last_done, "seed {seed}, {second} s: it went back");
            assert!(over == (part == 1000), "seed {seed}, {second} s: {part} thousandths, over: {over}");
            (last, last_done) = (part, stage.done);
            if over {
                break;
            }
            asked += 1;
            assert!(stage.left.is_some() != stage.no_estimate.is_some(), "an estimate, or why there is none");
            estimates.extend(stage.left.map(|left| (cluster.made.now, left)));
            if second % (16 * step) == 0 {
                let lines = bars.draw(std::slice::from_ref(&query), ROOM);
                assert!(lines.iter().all(|line| line.chars().all(|c| !c.is_control())));
            }
        }
        for (at, (from, to)) in estimates {
            shown += 1;
            let left = cluster.made.now - at;
            // As it is shown: in seconds.
            held += u32::from(left >= from / SECOND * SECOND && left <= to.div_ceil(SECOND) * SECOND);
        }
    }
    assert!(shown > asked / 4, "{shown} estimates of {asked}: too few are shown to mean anything");
    let part = f64::from(held) / f64::from(shown);
    println!("{shown} estimates in {asked} seconds, {:.1} % held", part * 100.0);
    assert!(part >= 0.8, "{:.1} % of {shown} estimates held", part * 100.0);
}
