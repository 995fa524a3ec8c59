//! Queries that never ran, as a scheduler would have told of them.

use crate::{
    Calls, End, Explain, Fetched, Gone, Limits, Metric, Metrics, MetricsByUdf, Node, NodeKind, Profile, QueryId, Reads,
    Recorder, Replica, Sample, Seen, Spent, StageId, StagePlan, StepId, Submitted, TaskId, UdfPlan, WorkerId,
};

pub(crate) const SECOND: u64 = 1_000_000_000;

/// A recorder, and the time.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) recorder: Recorder,
    pub(crate) now: u64,
    pub(crate) query: QueryId,
}

impl Made {
    pub(crate) fn new(workers: u32, limits: Limits) -> Self {
        let recorder = Recorder::new(limits, "build 1", 1_700_000_000_000);
        let mut made = Self { recorder, now: 0, query: QueryId(0xabc_0000_0007) };
        for worker in 0..workers {
            made.saw(Seen::Joined { worker: WorkerId(worker), cpus: 4.0, gpus: 0.0, memory: 8 << 30 });
        }
        made
    }

    pub(crate) fn saw(&mut self, seen: Seen<'_>) {
        self.recorder.saw(seen, self.now);
    }

    pub(crate) fn at(&mut self, milliseconds: u64) -> &mut Self {
        self.now = milliseconds * 1_000_000;
        self
    }

    pub(crate) fn submit(&mut self, name: Option<&str>, plan: &Explain) {
        let query = self.query;
        self.saw(Seen::Submitted(Submitted { query, name, plan, planned: 12_000_000 }));
    }

    fn task(&self, stage: u32, index: u32) -> TaskId {
        TaskId { query: self.query, stage: StageId(stage), index }
    }

    pub(crate) fn place(&mut self, stage: u32, task: u32, attempt: u32, worker: u32) {
        let task = self.task(stage, task);
        self.saw(Seen::Placed { task, attempt, worker: WorkerId(worker) });
    }

    pub(crate) fn ends(&mut self, stage: u32, task: u32, attempt: u32, end: End<'_>) {
        let task = self.task(stage, task);
        self.saw(Seen::Ended { task, attempt, end, ran: None, metrics: &MetricsByUdf::new() });
    }

    /// A task that runs from now for so long, and leaves so many rows of 100 bytes.
    pub(crate) fn run(&mut self, stage: u32, task: u32, worker: u32, milliseconds: u64, rows: u64) {
        self.place(stage, task, 1, worker);
        let before = self.now;
        self.now += milliseconds * 1_000_000;
        self.ends(stage, task, 1, End::Done { rows, bytes: rows * 100 });
        self.now = before;
    }

    pub(crate) fn spent(&mut self, stage: u32, spent: &Spent) {
        let query = self.query;
        self.saw(Seen::Spent { query, stage: StageId(stage), spent });
    }

    pub(crate) fn stage_done(&mut self, stage: u32) {
        let query = self.query;
        self.saw(Seen::StageDone { query, stage: StageId(stage) });
    }

    pub(crate) fn step(&self, stage: u32) -> StepId {
        StepId { query: self.query, stage: StageId(stage), step: 0 }
    }

    pub(crate) fn profile(&self) -> Profile {
        self.recorder.profile(self.query, self.now).expect("the query is known")
    }
}

pub(crate) fn stage(stage: u32, tasks: u32, why: &str, reads: &[(u32, &str)]) -> StagePlan {
    let reads = reads.iter().map(|(stage, what)| Reads { stage: *stage, what: (*what).to_owned(), one_attempt: false });
    StagePlan { stage, tasks: Some(tasks), why: why.to_owned(), reads: reads.collect(), ..StagePlan::default() }
}

pub(crate) fn node(id: u32, stage: u32, label: &str) -> Node {
    Node { id, stage, label: label.to_owned(), details: vec![format!("{label} ...")], ..Node::default() }
}

pub(crate) fn udf(id: u32, stage: u32, udf: &str, replicas: (u32, u32), batch: u32) -> Node {
    let plan = UdfPlan {
        step: 0,
        udf: udf.to_owned(),
        inputs: vec!["l_comment".to_owned()],
        replicas,
        batch: Some((batch, batch)),
        ..UdfPlan::default()
    };
    let label = udf.rsplit("::").next().unwrap_or(udf).to_owned();
    Node { id, stage, kind: NodeKind::Udf, label, udf: Some(plan), inputs: vec![id - 1], ..Node::default() }
}

/// Two scans, one with a UDF, hashed into a group-by, and a sort.
pub(crate) fn plan() -> Explain {
    let mut hashed = stage(1, 24, "one task for each row group", &[]);
    hashed.scatter = Some((vec!["l_orderkey".to_owned()], 8));
    let stages = vec![
        stage(0, 4, "one task for each file", &[]),
        hashed,
        stage(2, 8, "equal keys are in one partition", &[(0, "all"), (1, "a hash partition")]),
        stage(3, 1, "a sort sees all rows at once", &[(2, "all")]),
    ];
    let nodes = vec![
        node(0, 0, "scan orders/*.parquet"),
        node(1, 1, "scan lineitem.parquet, filter"),
        udf(2, 1, "demo::Embed", (1, 4), 8192),
        node(3, 2, "join, group_by l_orderkey"),
        node(4, 3, "sort revenue, limit 10"),
    ];
    Explain { stages, nodes }
}

fn replicas(made: &mut Made, stage: u32, workers: &[u32], start: u64) {
    let (begin, step) = (made.now, made.step(stage));
    for (rank, worker) in workers.iter().enumerate() {
        let replica = Replica { pool: 1, rank: rank as u32 };
        made.saw(Seen::ReplicaStarts { replica, step, worker: WorkerId(*worker) });
        made.saw(Seen::ReplicaSays { replica, doing: "weights 61 %" });
    }
    made.now = begin + start * 1_000_000;
    for rank in 0..workers.len() as u32 {
        let replica = Replica { pool: 1, rank };
        made.saw(Seen::ReplicaReady(replica));
        made.saw(Seen::Serves { replica, step });
    }
}

fn embeds(made: &mut Made, worker_time: u64) {
    let mut spent = Spent { engine: worker_time / 12, udf: worker_time, write: worker_time / 40, ..Spent::default() };
    let mut calls = Calls { rows: 6_001_215, busy: worker_time, retried: 2, ..Calls::default() };
    (0..733).for_each(|call| calls.call.add(300_000 + call % 50 * 6_000));
    *spent.call_mut(0) = calls;
    made.spent(1, &spent);
}

fn scans(made: &mut Made) {
    made.at(200);
    (0..4).for_each(|task| made.run(0, task, task % 2, 900 + 40 * u64::from(task), 375_000));
    made.at(1_300).stage_done(0);
}

fn grouped(made: &mut Made) {
    let read = |rows: u64| {
        let mut spent = Spent { fetch: SECOND / 4, engine: 2 * SECOND, write: SECOND / 10, ..Spent::default() };
        *spent.input_mut(0) = Fetched { rows: 1_500_000, here: 60 << 20, mapped: 90 << 20, ..Fetched::default() };
        *spent.input_mut(1) = Fetched { rows, mapped: 120 << 20, network: 100 << 20, ..Fetched::default() };
        spent
    };
    made.at(40_000);
    for task in 0..8 {
        let slow = u64::from(task == 5) * 8_000;
        made.run(2, task, task % 2, 200 + 10 * u64::from(task) + slow, if task == 5 { 200_000 } else { 25_000 });
    }
    made.spent(2, &read(6_001_215));
    made.at(48_500).stage_done(2);
}

/// All of it went well, but for a skewed stage and a UDF that is busy.
pub(crate) fn pipeline() -> Profile {
    pipeline_made().profile()
}

/// The same, with its recorder.
pub(crate) fn pipeline_made() -> Made {
    let mut made = Made::new(2, Limits::default());
    made.submit(Some("nightly"), &plan());
    scans(&mut made);
    made.at(300);
    replicas(&mut made, 1, &[0, 1], 2_000);
    for task in 0..24 {
        made.at(2_300 + 3_000 * u64::from(task / 2));
        made.run(1, task, task % 2, 2_900, 250_050);
    }
    made.at(39_000);
    embeds(&mut made, 70 * SECOND);
    let (query, step, mut metrics) = (made.query, made.step(1), Metrics::default());
    metrics.add("tokens", Metric::Counter(81_000_000));
    made.saw(Seen::ReplicaReports { step, metrics: &metrics });
    made.saw(Seen::Waited {
        query,
        stage: StageId(1),
        kind: "credit",
        on: "room at a replica of UDF demo::Embed",
        count: 3,
        time: SECOND,
    });
    made.stage_done(1);
    made.saw(Seen::Pulse(WorkerId(1), Sample { cpu: 60 * SECOND, memory: 1 << 30, peak: 6_549_825_126 }));
    grouped(&mut made);
    made.at(48_500);
    made.run(3, 0, 0, 40, 10);
    made.at(48_540).stage_done(3);
    made.saw(Seen::Done(query));
    made.at(48_560).saw(Seen::Released(query));
    made
}

/// A task failed five times.
pub(crate) fn failed() -> Profile {
    let mut made = Made::new(2, Limits::default());
    made.submit(None, &plan());
    scans(&mut made);
    for attempt in 1..=5 {
        made.at(1_300 + 500 * u64::from(attempt)).place(1, 3, attempt, attempt % 2);
        made.now += 300 * 1_000_000;
        made.ends(1, 3, attempt, End::Failed("UDF demo::Embed: no such token: <script>alert(1)</script>\nat row 7"));
    }
    let query = made.query;
    made.saw(Seen::Failed(query, "stage 1, task 3, attempt 5 on worker 1: UDF demo::Embed: no such token"));
    made.profile()
}

/// A worker was lost when its scan was done and it embedded; replicas failed, too.
pub(crate) fn lost_worker() -> Profile {
    lost_worker_made().profile()
}

/// The same, with its recorder.
pub(crate) fn lost_worker_made() -> Made {
    let mut made = Made::new(3, Limits::default());
    made.submit(None, &plan());
    scans(&mut made);
    replicas(&mut made, 1, &[0, 1], 500);
    made.saw(Seen::ReplicaGone { replica: Replica { pool: 1, rank: 0 }, why: Gone::Failed("out of memory") });
    made.at(2_000);
    (0..6).for_each(|task| made.place(1, task, 1, task % 3));
    made.at(3_000).saw(Seen::Lost { worker: WorkerId(1), why: "its process ended: signal 9" });
    for task in [1, 3] {
        made.at(3_100).place(0, task, 2, 2);
        made.at(4_000).ends(0, task, 2, End::Done { rows: 375_000, bytes: 37_500_000 });
    }
    made.stage_done(0);
    for task in 0..6 {
        if task % 3 == 1 {
            made.at(4_000).place(1, task, 2, 2);
        }
        let attempt = if task % 3 == 1 { 2 } else { 1 };
        made.at(4_500).ends(1, task, attempt, End::Done { rows: 250_050, bytes: 25_005_000 });
    }
    for task in 6..24 {
        made.at(4_500);
        made.run(1, task, 2 * (task % 2), 500, 250_050);
    }
    embeds(&mut made, 6 * SECOND);
    made.at(5_000).stage_done(1);
    grouped(&mut made);
    made.at(48_500);
    made.run(3, 0, 0, 40, 10);
    made.at(48_540).stage_done(3);
    let query = made.query;
    made.saw(Seen::Done(query));
    made
}

/// A limit had enough after two of many tasks.
pub(crate) fn enough() -> Profile {
    let mut first = stage(0, 512, "one task for each row group", &[]);
    first.limit = Some(100);
    let mut made = Made::new(1, Limits::default());
    made.submit(None, &Explain { stages: vec![first], nodes: vec![node(0, 0, "scan lineitem.parquet, limit 100")] });
    made.at(10);
    (0..4).for_each(|task| made.place(0, task, 1, 0));
    made.at(30).ends(0, 0, 1, End::Done { rows: 60, bytes: 600 });
    made.at(31).ends(0, 1, 1, End::Done { rows: 60, bytes: 600 });
    made.stage_done(0);
    let query = made.query;
    made.saw(Seen::Done(query));
    made.at(33).ends(0, 2, 1, End::Cancelled);
    made.at(40).saw(Seen::Released(query));
    made.profile()
}

/// In one process: one worker, one task, a frame of the driver.
pub(crate) fn native() -> Profile {
    let mut frame = stage(0, 1, "a frame of the driver", &[]);
    frame.given = true;
    let stages = vec![frame, stage(1, 1, "all in this process", &[(0, "all")])];
    let nodes = vec![Node { kind: NodeKind::Frame, ..node(0, 0, "frame of 3 columns") }, node(1, 1, "group_by key")];
    let mut made = Made::new(1, Limits::default());
    made.submit(None, &Explain { stages, nodes });
    made.at(2);
    made.run(1, 0, 0, 35, 7);
    made.at(37).stage_done(1);
    let query = made.query;
    made.saw(Seen::Done(query));
    made.at(38).saw(Seen::Released(query));
    made.profile()
}

/// It is in its second stage, one replica starts, and of the stage after that nobody knows the tasks.
pub(crate) fn running() -> (Made, Profile) {
    let mut made = Made::new(4, Limits::default());
    let mut plan = plan();
    plan.stages[1].tasks = Some(512);
    plan.stages[2].tasks = None;
    made.submit(Some("nightly"), &plan);
    scans(&mut made);
    made.at(1_500);
    replicas(&mut made, 1, &[0, 1, 2], 500);
    let step = made.step(1);
    for task in 0..311 {
        made.at(2_000 + 128 * u64::from(task));
        made.run(1, task, task % 4, 500, 11_700);
    }
    made.at(8_000);
    let starts = Replica { pool: 1, rank: 3 };
    made.saw(Seen::ReplicaStarts { replica: starts, step, worker: WorkerId(3) });
    made.saw(Seen::ReplicaSays { replica: starts, doing: "weights\x1b[2J 61 %" });
    made.at(42_000);
    embeds(&mut made, 116 * SECOND);
    for worker in 0..4 {
        let sample = |cpu| Sample { cpu, memory: 1_400 << 20, peak: 2 << 30 };
        made.at(41_000).saw(Seen::Pulse(WorkerId(worker), sample(SECOND)));
        made.at(42_000).saw(Seen::Pulse(WorkerId(worker), sample(SECOND + SECOND * 5 / 4)));
    }
    (311..319).for_each(|task| made.place(1, task, 1, task % 4));
    made.saw(Seen::Credit { step, worker: WorkerId(2), batches: 9 });
    let profile = made.profile();
    (made, profile)
}
