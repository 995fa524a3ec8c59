//! A query's stages as boxes and arrows, for all forms that are pictures.

use crate::text::{bytes, count, cut, line, percent, plural, share, time};
use crate::{Explain, Profile, StageState};

pub(super) struct Graph {
    pub(super) boxes: Vec<Stage>,
    pub(super) arrows: Vec<Arrow>,
}

/// A stage: its title and what it does, in lines.
pub(super) struct Stage {
    pub(super) stage: u32,
    pub(super) lines: Vec<String>,
    pub(super) look: Look,
}

/// What is to be seen of a stage at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Running,
    Waiting,
    /// Something of it is in the findings.
    Found,
}

pub(super) struct Arrow {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) label: String,
    /// Its part of all bytes that were read.
    pub(super) share: f64,
}

/// Characters of a line in a box.
const WIDTH: usize = 48;

impl Graph {
    pub(super) fn of_plan(plan: &Explain) -> Self {
        let boxes = plan.stages.iter().map(|stage| {
            let what = if stage.given { "partition" } else { "task" };
            let tasks = stage.tasks.map_or_else(|| format!("{what}s to be seen"), |tasks| plural(tasks.into(), what));
            let mut lines = vec![format!("stage {} · {tasks}", stage.stage)];
            lines.extend(does(plan, stage.stage));
            Stage { stage: stage.stage, lines, look: Look::Plain }
        });
        let arrows = plan.stages.iter().flat_map(|stage| {
            stage.reads.iter().map(|read| Arrow {
                from: read.stage,
                to: stage.stage,
                label: fit(&read.what),
                share: 0.0,
            })
        });
        Self { boxes: boxes.collect(), arrows: arrows.collect() }
    }

    pub(super) fn of_profile(profile: &Profile) -> Self {
        let mut graph = Self::of_plan(&profile.plan);
        for stage in &mut graph.boxes {
            let Some(figures) = profile.stage(stage.stage) else { continue };
            let is_given = profile.plan.stage(stage.stage).is_some_and(|plan| plan.given);
            if let (Some(first), false) = (stage.lines.first_mut(), is_given) {
                first.push_str(&format!(" · {}", time(figures.busy)));
            }
            let (rows, size) = (count(figures.rows), bytes(figures.bytes));
            stage.lines.extend((!is_given).then(|| format!("{rows} rows, {size}")));
            for pool in profile.pools_of(stage.stage) {
                let busy = pool.busy_share().map(|busy| percent((busy * 1000.0) as u64, 1000));
                let busy = busy.map(|busy| format!(" {busy} busy,")).unwrap_or_default();
                let name = pool.udf.rsplit("::").next().unwrap_or(&pool.udf);
                stage.lines.push(fit(&format!("{name}:{busy} {}", plural(pool.calls.call.count(), "call"))));
            }
            let mut found = profile.findings.iter().filter(|finding| finding.stage == Some(stage.stage)).peekable();
            stage.look = match figures.state {
                _ if found.peek().is_some() => Look::Found,
                StageState::Running => Look::Running,
                StageState::Waiting => Look::Waiting,
                StageState::Done | StageState::Stopped => Look::Plain,
            };
            stage.lines.extend(found.map(|finding| format!("! {}", finding.id)));
        }
        let all = profile.exchanged().bytes();
        for arrow in &mut graph.arrows {
            let edge = profile.edges.iter().find(|edge| edge.from == arrow.from && edge.to == arrow.to);
            if let Some(read) = edge.map(|edge| edge.fetched.bytes()).filter(|read| *read > 0) {
                arrow.label = format!("{} {}", bytes(read), arrow.label);
                arrow.share = share(read, all);
            }
        }
        graph
    }
}

/// What a stage does, in lines.
fn does(plan: &Explain, stage: u32) -> Vec<String> {
    plan.nodes_of(stage).map(|node| fit(&node.label)).collect()
}

fn fit(text: &str) -> String {
    cut(&line(text), WIDTH)
}
