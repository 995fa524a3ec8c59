//! Where a cluster and its queries stand, in sentences.

use std::fmt;

use super::tables::number;
use crate::text::{bytes, clock, count, line, plural, time};
use crate::{ClusterView, Fleet, QueryRow, QueryState, QueryView, Room, Shown};

/// Queries that are told of, one by one.
const QUERIES: usize = 20;

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, cpus, busy, gpus, memory, used, tasks, .. } = self;
        write!(f, "{}, {} of {} CPU charged", plural((*workers).into(), "worker"), number(cpus.1), number(cpus.0))?;
        busy.iter().try_for_each(|busy| write!(f, ", {busy:.1} busy"))?;
        if gpus.0 > 0.0 {
            write!(f, ", {} of {} GPU charged", number(gpus.1), number(gpus.0))?;
        }
        match (*used, memory.0) {
            (0, _) => (),
            (used, 0) => write!(f, ", {} used", bytes(used))?,
            (used, limit) => write!(f, ", {} of {} used", bytes(used), bytes(limit))?,
        }
        write!(f, "; {}", plural(tasks.0, "task"))?;
        f.write_str(if tasks.0 == 1 { " runs" } else { " run" })?;
        if tasks.1 > 0 {
            write!(f, ", {} there", if tasks.1 == 1 { "1 waits".into() } else { format!("{} wait", count(tasks.1)) })?;
        }
        Ok(())
    }
}

/// Where it stands, in a few lines: no longer the more there is.
impl fmt::Display for ClusterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.fleet)?;
        if let Some((wanted, since)) = self.wanted {
            writeln!(f, "{} wanted, for {}", plural(wanted.into(), "worker"), time(since))?;
        }
        if let Some((count, why)) = &self.not_joined {
            let were = plural((*count).into(), "worker");
            writeln!(f, "{were} that had been asked for ended before joining; the last: {}", line(why))?;
        }
        match self.fleet.silent {
            0 => (),
            1 => writeln!(f, "1 worker is silent: `regatta workers` has it")?,
            silent => writeln!(f, "{silent} workers are silent: `regatta workers` has them")?,
        }
        let waits = if self.backlog > 0.0 {
            format!("; {} CPU of work waits for room", number(self.backlog))
        } else {
            String::new()
        };
        let (running, ended) = self.known;
        let run = if running == 1 { "query runs" } else { "queries run" };
        writeln!(f, "{} {run}, {ended} have ended{waits}", count(running.into()))?;
        for pool in &self.pools {
            let (ready, idle, starting) = (pool.ready, pool.idle, pool.starting.len());
            write!(f, "UDF {}: {} ready", line(&pool.udf), plural(ready.into(), "replica"))?;
            if idle > 0 {
                write!(f, ", {idle} of them idle")?;
            }
            if starting > 0 {
                write!(f, ", {starting} in start")?;
                let word = pool.starting.iter().flatten().next();
                word.iter().try_for_each(|word| write!(f, ": {}", line(word)))?;
            }
            pool.unused.iter().try_for_each(|unused| write!(f, "; kept warm, unused for {}", time(*unused)))?;
            writeln!(f)?;
        }
        let runs = || self.queries.iter().filter(|row| row.state == QueryState::Running);
        for row in runs().take(QUERIES) {
            writeln!(f, "{row}")?;
            row.waits.iter().try_for_each(|wait| writeln!(f, "  {}", line(wait)))?;
        }
        let more = (running as usize).saturating_sub(runs().count().min(QUERIES));
        if more > 0 {
            writeln!(f, "and {more} more: `regatta queries` has them")?;
        }
        Ok(())
    }
}

impl fmt::Display for QueryRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query {}", self.short())?;
        self.name.iter().try_for_each(|name| write!(f, " {}", line(name)))?;
        match self.state {
            QueryState::Running => {
                write!(
                    f,
                    "  {}  stage {} of {}",
                    clock(self.time),
                    (self.stages.0 + 1).min(self.stages.1),
                    self.stages.1
                )?;
                match self.tasks {
                    (done, Some(all)) => write!(f, ", {done} of {}", plural(all.into(), "task"))?,
                    (done, None) => write!(f, ", {done} tasks done")?,
                }
                let rate = self.rate.filter(|rate| *rate >= 1.0);
                rate.iter().try_for_each(|rate| write!(f, ", {} rows/s", count(*rate as u64)))?;
                if !self.doing.is_empty() {
                    write!(f, ": {}", line(&self.doing))?;
                }
                Ok(())
            }
            QueryState::Failed => {
                let why = self.error.as_deref().unwrap_or("no reason is known");
                write!(f, " failed after {}: {}", time(self.time), line(why))
            }
            QueryState::Done => write!(f, " is done: {} in {}", plural(self.rows, "row"), time(self.time)),
            QueryState::Cancelled => write!(f, " was cancelled after {}", time(self.time)),
        }
    }
}

/// Where it stands, stage by stage, and what each of them waits for.
impl fmt::Display for QueryView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = Room { width: 160, height: 400, unicode: true };
        match self.progress.state {
            QueryState::Running => Shown::new().draw(std::slice::from_ref(&self.progress), room),
            _ => vec![self.row.to_string()],
        }
        .iter()
        .try_for_each(|text| writeln!(f, "{text}"))?;
        self.waits.iter().try_for_each(|(stage, wait)| writeln!(f, "  stage {stage}: {}", line(wait)))
    }
}
