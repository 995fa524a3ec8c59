//! As a tree in words: the result first, under each stage what it reads.

use std::collections::BTreeSet;
use std::fmt;

use crate::text::{bytes, clock, count, line, percent, plural, share, time};
use crate::{EdgeFigures, PoolFigures, Profile, QueryState, StageFigures, StagePlan, StageState};

/// The summary; with `{:#}` also every node, spread, worker, wait and error.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = f.alternate();
        self.head(f)?;
        if let Some(last) = self.plan.stages.last() {
            self.tree(last.stage, full, f)?;
        }
        if full {
            self.more(f)?;
        }
        if !self.findings.is_empty() {
            writeln!(f, "findings")?;
        }
        for (number, finding) in self.findings.iter().enumerate() {
            writeln!(f, " {:>2}  {finding}", number + 1)?;
        }
        self.incomplete.iter().try_for_each(|what| writeln!(f, "incomplete: {}", line(what)))?;
        let dropped = &self.dropped;
        let left = [
            (dropped.tasks, "records of single attempts (sums hold them)"),
            (dropped.strips, "pictures of workers over time"),
            (dropped.outputs, "stages' outputs by task (what ran again there counts again)"),
            (dropped.errors, "errors"),
        ];
        let left: Vec<_> =
            left.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
        if left.is_empty() { Ok(()) } else { writeln!(f, "left out, to stay small: {}", left.join(", ")) }
    }
}

impl Profile {
    /// What the query is called, and how it went.
    pub(super) fn title(&self) -> String {
        let id = self.query.id.get(self.query.id.len().saturating_sub(8)..).unwrap_or(&self.query.id);
        let name = self.query.name.as_ref().map(|name| format!(" {}", line(name))).unwrap_or_default();
        let took = time(self.took());
        let state = match self.query.state {
            QueryState::Running => format!("running for {}", clock(self.took())),
            QueryState::Done => took,
            QueryState::Failed => format!("failed after {took}"),
            QueryState::Cancelled => format!("cancelled after {took}"),
        };
        format!("query {id}{name}   {state}")
    }

    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = &self.query;
        write!(f, "{}", self.title())?;
        let mut parts =
            vec![format!("planned {}", time(query.planned)), format!("waited for room {}", time(query.waited))];
        parts.push(format!("ran {}", time(query.ran)));
        if query.state == QueryState::Done {
            parts.push(format!("result {}", time(query.result)));
        }
        writeln!(f, " = {}     {}, {}", parts.join(" + "), plural(query.rows, "row"), bytes(query.bytes))?;
        if let Some(error) = &query.error {
            writeln!(f, "error: {}", line(error.lines().next().unwrap_or_default()))?;
        }
        let workers = plural(self.workers.len().max(query.workers as usize) as u64, "worker");
        let mut parts = vec![format!("{workers}, {} CPU", self.cpus())];
        let peak = self.workers.iter().max_by_key(|worker| worker.sample.peak).filter(|worker| worker.sample.peak > 0);
        parts.extend(peak.map(|worker| format!("peak {} on worker {}", bytes(worker.sample.peak), worker.worker)));
        let exchanged = self.exchanged();
        if exchanged.bytes() > 0 {
            let by = [
                (exchanged.here, "in place"),
                (exchanged.mapped, "mapped"),
                (exchanged.network, "by network"),
                (exchanged.relayed, "relayed"),
            ];
            let by = by.iter().filter(|(part, _)| *part > 0);
            let by: Vec<_> = by.map(|(part, how)| format!("{} {how}", percent(*part, exchanged.bytes()))).collect();
            parts.push(format!("exchanged {} ({})", bytes(exchanged.bytes()), by.join(", ")));
        }
        parts.extend((query.again > 0).then(|| format!("again {}", time(query.again))));
        writeln!(f, "{}", parts.join("    "))
    }

    /// A stage, and under it what it reads. They may be any number, one below the other.
    fn tree(&self, last: u32, full: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut shown, mut next) = (BTreeSet::new(), vec![(last, 0, None)]);
        while let Some((stage, depth, read)) = next.pop() {
            let Some(plan) = self.plan.stage(stage) else { continue };
            read.iter().try_for_each(|read: &String| f.write_str(read))?;
            let indent = "  ".repeat(depth.min(40));
            if !shown.insert(stage) {
                writeln!(f, "{indent} stage {stage}, as above")?;
                continue;
            }
            self.write_stage(plan, &indent, full, f)?;
            let reads: Vec<_> =
                self.edges_to(stage).map(|edge| (edge.from, depth + 2, Some(read_of(edge, plan, &indent)))).collect();
            next.extend(reads.into_iter().rev());
        }
        Ok(())
    }

    fn write_stage(&self, plan: &StagePlan, indent: &str, full: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stage, figures) = (plan.stage, self.stage(plan.stage));
        let none = StageFigures::default();
        let figures = figures.unwrap_or(&none);
        let what = if plan.given { "partition" } else { "task" };
        let tasks = match figures.tasks {
            Some(tasks) => plural(tasks.into(), what),
            None if figures.state == StageState::Done => format!("no {what}s of its own"),
            None => format!("{what}s to be seen"),
        };
        let whole = self.query.state == QueryState::Done;
        let part = if whole && self.query.busy > 0 {
            format!(", {}", percent(figures.busy, self.query.busy))
        } else {
            String::new()
        };
        let shape = if figures.shape.is_empty() { String::new() } else { format!("; {}", line(&figures.shape)) };
        let head = format!("{indent} stage {stage}  {tasks}: {}{shape}", line(&plan.why));
        if plan.given {
            return writeln!(f, "{head}");
        }
        writeln!(f, "{head}")?;
        if figures.busy > 0 {
            let (rows, size, busy) = (count(figures.rows), bytes(figures.bytes), time(figures.busy));
            writeln!(f, "{indent}   {}   {rows} rows, {size}   {busy} of task time{part}", words(figures))?;
        } else {
            writeln!(f, "{indent}   {}", words(figures))?;
        }
        let spent = &figures.spent;
        let all = spent.time();
        if all > 0 {
            let by = [
                (spent.udf, "wait for UDFs"),
                (spent.engine, "engine"),
                (spent.write, "write"),
                (spent.fetch, "inputs"),
            ];
            let by = by.iter().filter(|(part, _)| full || share(*part, all) >= 0.01);
            let by: Vec<_> = by.map(|(part, what)| format!("{} {what}", percent(*part, all))).collect();
            writeln!(f, "{indent}   tasks: {}", by.join(", "))?;
        }
        if let Some((keys, into)) = &plan.scatter {
            let by = if plan.ranges { "ranges of" } else { "hash" };
            writeln!(f, "{indent}   {by} {} into {into}", line(&keys.join(", ")))?;
        }
        for node in self.plan.nodes_of(stage).rev() {
            if let Some(udf) = &node.udf {
                let pool = self.pools_of(stage).find(|pool| pool.step == udf.step);
                let replicas = pool
                    .map(|pool| format!("{} of {}..={} replicas", pool.most_ready, pool.replicas.0, pool.replicas.1));
                writeln!(
                    f,
                    "{indent}   UDF {} [{}]  {}",
                    line(&udf.udf),
                    line(&udf.inputs.join(", ")),
                    replicas.unwrap_or_default()
                )?;
                pool.iter().try_for_each(|pool| write_pool(pool, indent, full, f))?;
            } else {
                writeln!(f, "{indent}   {}", line(&node.label))?;
                if full {
                    node.details.iter().try_for_each(|detail| writeln!(f, "{indent}   | {}", line(detail)))?;
                }
            }
        }
        if full {
            engine(figures, indent, f)?;
            spreads(figures, indent, f)?;
        }
        Ok(())
    }

    /// What the summary leaves out.
    fn more(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "workers")?;
        for worker in &self.workers {
            let lost = worker.lost.as_ref().map(|why| format!("   lost: {}", line(why))).unwrap_or_default();
            let attempts = plural(worker.attempts, "attempt");
            let peak = bytes(worker.sample.peak);
            writeln!(
                f,
                "  {:>3}  {} CPU   {attempts}   {}   peak {peak}{lost}",
                worker.worker,
                worker.cpus,
                time(worker.busy)
            )?;
        }
        if !self.errors.is_empty() {
            writeln!(f, "errors")?;
        }
        for error in &self.errors {
            let task =
                error.task.map(|(task, attempt)| format!(" task {task}, attempt {attempt},")).unwrap_or_default();
            let stage = error.stage.map(|stage| format!(" stage {stage},")).unwrap_or_default();
            let worker = error.worker.map(|worker| format!(" worker {worker},")).unwrap_or_default();
            let text = line(error.text.lines().next().unwrap_or_default());
            writeln!(f, "  {}{stage}{task}{worker} {text}", time(error.at))?;
        }
        Ok(())
    }
}

/// How a stage's tasks went.
fn words(figures: &StageFigures) -> String {
    let mut words = Vec::new();
    match figures.state {
        StageState::Waiting => words.push("none has started".to_owned()),
        StageState::Running => words.push(format!("{} done, {} running", figures.done, figures.running)),
        StageState::Done if figures.enough => words.push(format!("{} were enough", figures.done)),
        StageState::Done => (),
        StageState::Stopped => words.push(format!("{} done when the query ended", figures.done)),
    }
    let durations = &figures.durations;
    match durations.count() {
        0 => (),
        1 => words.push(time(durations.most().saturating_mul(1000))),
        _ => {
            let (half, most) =
                (time(durations.quantile(0.5).saturating_mul(1000)), time(durations.most().saturating_mul(1000)));
            words.push(format!("on {}, p50 {half}, max {most}", plural(figures.workers.len() as u64, "worker")));
        }
    }
    let counts = [
        (figures.failed, "failed"),
        (figures.lost, "lost"),
        (figures.stopped, "stopped"),
        (figures.again, "done again"),
    ];
    words.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    if words.is_empty() && figures.tasks.is_none() {
        words.push("what it does the tasks do that read it".to_owned());
    }
    if words.is_empty() { "no task was needed".to_owned() } else { words.join(", ") }
}

fn write_pool(pool: &PoolFigures, indent: &str, full: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let calls = pool.calls.call.count();
    let mut words = vec![format!("{} rows", count(pool.calls.rows)), plural(calls, "call")];
    if let Some(each) = pool.calls.rows.checked_div(calls) {
        let (half, most) =
            (pool.calls.call.quantile(0.5).saturating_mul(1000), pool.calls.call.quantile(0.99).saturating_mul(1000));
        words.push(format!("{} rows each; call p50 {}, p99 {}", count(each), time(half), time(most)));
    }
    words.extend(pool.busy_share().map(|busy| format!("{} busy", percent((busy * 1000.0) as u64, 1000))));
    words.push(format!("start {}", time(pool.start)));
    let counts = [
        (pool.calls.retried, "calls made again"),
        (pool.failed.into(), "failed"),
        (pool.hung.into(), "hung"),
        (pool.lost.into(), "lost"),
        (pool.waiting.into(), "batches wait for room"),
    ];
    words.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    words.extend((full && pool.waited > 0).then(|| format!("batches waited {} for room", time(pool.waited))));
    words.extend(pool.reported.iter().map(|(name, sum)| format!("{} {}", line(name), count(*sum as u64))));
    let in_vain = pool.in_vain.iter().filter(|_| full);
    words.extend(in_vain.map(|(name, sum)| format!("{} {} in vain", line(name), count(*sum as u64))));
    writeln!(f, "{indent}     {}", words.join("; "))
}

fn read_of(edge: &EdgeFigures, plan: &StagePlan, indent: &str) -> String {
    let what = plan.reads.iter().find(|read| read.stage == edge.from).map_or("all", |read| &*read.what);
    let fetched = &edge.fetched;
    let read = if fetched.bytes() > 0 {
        format!("  {} rows, {}", count(fetched.rows), bytes(fetched.bytes()))
    } else {
        String::new()
    };
    format!("{indent}   reads {} of stage {}{read}\n", line(what), edge.from)
}

fn engine(figures: &StageFigures, indent: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for node in figures.spent.nodes.iter().rev() {
        let number = if node.nth == 0 { String::new() } else { format!(" {}", node.nth + 1) };
        let (rows_in, rows_out) = (count(node.rows_in), count(node.rows_out));
        let io = match (node.io, node.io_bytes) {
            (0, 0) => String::new(),
            (io, read) => format!(", {} of I/O, {}", time(io), bytes(read)),
        };
        let (name, took) = (line(&node.name), time(node.time));
        writeln!(f, "{indent}   engine: {name}{number}: {rows_in} rows in, {rows_out} out; {took}{io}")?;
    }
    Ok(())
}

fn spreads(figures: &StageFigures, indent: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let of = [
        (&figures.durations, "time", (|us| time(us * 1000)) as fn(u64) -> String),
        (&figures.rows_each, "rows", count),
        (&figures.bytes_each, "bytes", bytes),
    ];
    for (spread, what, text) in of.into_iter().filter(|(spread, ..)| spread.count() > 1) {
        let parts: Vec<_> = [0.25, 0.5, 0.75, 0.99].iter().map(|part| text(spread.quantile(*part))).collect();
        let most = text(spread.most());
        writeln!(
            f,
            "{indent}   {what} of a task: p25 {}, p50 {}, p75 {}, p99 {}, max {most}",
            parts[0], parts[1], parts[2], parts[3]
        )?;
    }
    for wait in &figures.waits {
        writeln!(f, "{indent}   waited {} for {} (sampled)", time(wait.time), line(&wait.on))?;
    }
    Ok(())
}
