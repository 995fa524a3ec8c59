//! Why a query is not further: what its stages wait for, down to what waits for nothing.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::text::{clock, count, line, plural, time};
use crate::{ClusterView, Finding, QueryState, QueryView, StageProgress, StageState};

/// Where a query stands, and all that can be the reason. `{}` says it as a chain, the result first and the root of it last.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Why {
    /// The query.
    pub query: QueryView,
    /// The cluster, without rows.
    pub cluster: ClusterView,
    /// What was found to be wrong with the query, if it has ended.
    pub findings: Vec<Finding>,
}

impl Why {
    /// Stages that are not done, each after those that wait for it.
    fn chain(&self) -> Vec<&StageProgress> {
        let stages = &self.query.progress.stages;
        let open = |stage: &&StageProgress| stage.state != StageState::Done && !stage.given;
        let waited_for: BTreeSet<u32> =
            stages.iter().filter(open).flat_map(|stage| &stage.waits_for).copied().collect();
        let by_number = |number: u32| stages.iter().find(|stage| stage.stage == number).filter(open);
        let mut chain: Vec<&StageProgress> = Vec::new();
        let mut next: Vec<_> = stages.iter().filter(open).filter(|stage| !waited_for.contains(&stage.stage)).collect();
        // Inputs have smaller numbers: this ends, whatever is said.
        while !next.is_empty() {
            next.sort_by_key(|stage| std::cmp::Reverse(stage.stage));
            next.dedup_by_key(|stage| stage.stage);
            let stage = next.remove(0);
            next.extend(
                stage.waits_for.iter().filter(|input| **input < stage.stage).filter_map(|input| by_number(*input)),
            );
            chain.push(stage);
        }
        chain
    }

    fn stage(&self, stage: &StageProgress, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage {} ({})", stage.stage, line(&stage.label))?;
        match (stage.state, &stage.waits_for[..]) {
            (StageState::Waiting, [_, ..]) => {
                let inputs: Vec<_> = stage.waits_for.iter().map(ToString::to_string).collect();
                let of = if inputs.len() == 1 { "stage" } else { "stages" };
                writeln!(f, " waits for {of} {}", inputs.join(", "))?;
            }
            _ => {
                let all = stage
                    .tasks
                    .map_or_else(|| "tasks".to_owned(), |tasks| format!("of {}", plural(tasks.into(), "task")));
                writeln!(f, ": {} {all} done, {} run", count(stage.done.into()), count(stage.running.into()))?;
            }
        }
        for (_, wait) in self.query.waits.iter().filter(|(of, _)| *of == stage.stage) {
            writeln!(f, "  {}", line(wait))?;
        }
        for pool in &stage.pools {
            let busy = pool.busy.map(|busy| format!(", {:.0} % busy", busy * 100.0)).unwrap_or_default();
            writeln!(
                f,
                "  UDF {} has {} of {}{busy}",
                line(&pool.udf),
                pool.ready,
                plural(pool.most.into(), "replica")
            )?;
            if let Some((since, worker, word)) = &pool.starting {
                let word = word.as_ref().map(|word| format!(": {}", line(word))).unwrap_or_default();
                writeln!(f, "    one starts on worker {worker}, for {}{word}", time(*since))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QueryView { row, .. } = &self.query;
        if row.state != QueryState::Running {
            writeln!(f, "{row}")?;
            return match &self.findings[..] {
                [] => writeln!(f, "nothing was found to be wrong with it"),
                findings => findings.iter().try_for_each(|finding| writeln!(f, "  {finding}")),
            };
        }
        let name = row.name.as_ref().map(|name| format!(" {}", line(name))).unwrap_or_default();
        writeln!(f, "query {}{name} has run for {}", row.short(), clock(row.time))?;
        let chain = self.chain();
        if chain.is_empty() {
            writeln!(f, "all of its stages are done: its result is being taken")?;
        }
        chain.into_iter().try_for_each(|stage| self.stage(stage, f))?;
        let ClusterView { fleet, backlog, known, wanted, not_joined, .. } = &self.cluster;
        writeln!(
            f,
            "{fleet}; {} run, {backlog:.1} CPU of work waits for room",
            if known.0 == 1 { "1 query".to_owned() } else { format!("{} queries", known.0) }
        )?;
        if let Some((wanted, since)) = wanted {
            writeln!(f, "  {} wanted, for {}", plural((*wanted).into(), "worker"), time(*since))?;
        }
        if let Some((count, why)) = not_joined {
            writeln!(f, "  {} ended before joining; the last: {}", plural((*count).into(), "worker"), line(why))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PoolProgress, Progress, QueryRow};

    fn stage(stage: u32, state: StageState, waits_for: &[u32]) -> StageProgress {
        let label = format!("part {stage}");
        StageProgress {
            stage,
            label,
            state,
            tasks: Some(512),
            waits_for: waits_for.to_vec(),
            ..StageProgress::default()
        }
    }

    fn why(stages: Vec<StageProgress>) -> Why {
        let mut why = Why::default();
        why.query.row = QueryRow {
            id: "00000abc00000007".into(),
            name: Some("nightly".into()),
            time: 42_000_000_000,
            ..QueryRow::default()
        };
        why.query.progress = Progress { stages, ..Progress::default() };
        why
    }

    #[test]
    fn a_chain_goes_from_the_result_to_what_waits_for_nothing() {
        let mut embed = StageProgress { done: 311, running: 8, ..stage(1, StageState::Running, &[]) };
        let starting = Some((3_000_000_000, 2, Some("weights 61 %".to_owned())));
        embed.pools =
            vec![PoolProgress { udf: "demo::Embed".into(), ready: 1, most: 2, starting, ..PoolProgress::default() }];
        let stages = vec![
            stage(0, StageState::Done, &[]),
            embed,
            stage(2, StageState::Waiting, &[1]),
            stage(3, StageState::Waiting, &[1, 2]),
        ];
        let mut why = why(stages);
        why.query.waits =
            vec![(1, "12 batches wait for room at a replica of UDF demo::Embed, on worker 2, for 3.1 s".into())];
        let said = why.to_string();
        let expected = "\
query 00000007 nightly has run for 0:42
stage 3 (part 3) waits for stages 1, 2
stage 2 (part 2) waits for stage 1
stage 1 (part 1): 311 of 512 tasks done, 8 run
  12 batches wait for room at a replica of UDF demo::Embed, on worker 2, for 3.1 s
  UDF demo::Embed has 1 of 2 replicas
    one starts on worker 2, for 3 s: weights 61 %
";
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(said.lines().count(), 8, "and a line on the cluster: {said}");
    }

    #[test]
    fn whatever_stages_say_of_each_other_it_ends() {
        let around = why(vec![stage(0, StageState::Waiting, &[1]), stage(1, StageState::Waiting, &[0, 1, 7])]);
        assert!(around.to_string().lines().count() < 6);
        let mut done = why(vec![stage(0, StageState::Done, &[])]);
        assert!(done.to_string().contains("its result is being taken"));
        done.query.row.state = QueryState::Done;
        assert!(done.to_string().ends_with("nothing was found to be wrong with it\n"));
    }
}
