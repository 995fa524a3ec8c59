//! Stages get their shape, and with it their tasks, when what decides it has been measured.

use std::time::Instant;

use super::{Action, Core};
use crate::sched::need::{Holds, passing};
use crate::sched::query::{Phase, Query, StageSpec};
use crate::sched::shape::{Fits, Fleet, Forced, Left, Mode, Reader, Shape, Small, Tasks, Way, deal, dealt, is_few};
use crate::sched::{Attempt, QueryId, Sizes, StageId, TaskId, WorkerId};

impl Core {
    /// How a stage runs, once that is decided.
    pub(crate) fn shape(&self, query: QueryId, stage: StageId) -> Option<&Shape> {
        self.queries.get(&query)?.stages.get(stage.0 as usize)?.shape.as_ref()
    }

    /// Notes what an attempt that is about to end has left in each section, while that may decide how it is read.
    pub(crate) fn measured(&mut self, task: TaskId, attempt: Attempt, sections: Sizes) {
        let (stage, index) = (task.stage.0 as usize, task.index as usize);
        let Some(query) = self.queries.get_mut(&task.query).filter(|query| query.is_dealt_out(stage)) else { return };
        let (spec, state) = (&query.spec.stages[stage], &mut query.stages[stage]);
        if state.counts(index, attempt) {
            state.sections.insert(index, sections.first(spec.sections));
        }
    }

    /// Decides what can be decided by now, and lets those stages begin.
    pub(super) fn decide(&mut self, id: QueryId, now: Instant, actions: &mut Vec<Action>) {
        let fleet = self.fleet();
        let Some(query) = self.queries.get_mut(&id) else { return };
        if query.decide(fleet, self.settings.forced, |worker| self.ledger.stays(worker), now) {
            self.suspect_launched(id, now);
            self.reopen_all(id, now, actions);
        }
    }

    /// Memory that a task takes for what passes by in it.
    pub(super) fn passing(&self) -> u64 {
        let (workers, all) = (self.ledger.staying().max(1) as u64, self.ledger.capacity());
        passing(all.memory / workers, (all.millicpus / self.settings.task.millicpus.max(1)).div_ceil(workers))
    }

    /// Whether tests want all kinds of shapes, whatever is measured.
    pub(crate) fn is_forced(&self) -> bool {
        self.settings.forced.is_some()
    }

    fn fleet(&self) -> Fleet {
        let (workers, all) = (self.ledger.staying().max(1) as u64, self.ledger.capacity());
        let task = self.settings.task.millicpus.max(1);
        // Workers that may still come count: they come where there are tasks for them.
        let most = self
            .settings
            .scale
            .as_ref()
            .map_or(0, |scale| (scale.workers.1 as u64).saturating_mul(scale.each.millicpus / task));
        let (memory, slots) = (all.memory / workers, (all.millicpus / task).max(most).max(1));
        let at_once = (all.millicpus / task).div_ceil(workers).max(1);
        let room = if memory == 0 { u64::MAX } else { memory / at_once - passing(memory, at_once) };
        Fleet { workers, slots, memory, room }
    }
}

impl Query {
    /// Gives tasks to the stages that can have them by now. Whether there is one.
    pub(super) fn decide(
        &mut self,
        fleet: Fleet,
        forced: Option<Forced>,
        is_there: impl Fn(WorkerId) -> bool,
        now: Instant,
    ) -> bool {
        let mut begun = false;
        loop {
            for stage in 0..self.stages.len() {
                if self.stages[stage].shape.is_none() {
                    let mode = self.stages[stage].mode.or_else(|| self.choose(stage, fleet, forced));
                    self.stages[stage].mode = mode;
                    self.stages[stage].shape = mode.and_then(|mode| self.form(stage, mode, fleet, forced));
                }
            }
            let ready = |stage: &usize| {
                let state = &self.stages[*stage];
                let is_next = !state.is_launched && state.phase != Phase::Done && state.shape.is_some();
                is_next && !self.is_held(*stage) && !self.may_rest(*stage)
            };
            let Some(stage) = (0..self.stages.len()).find(ready) else { return begun };
            self.launch(stage, &is_there, now);
            begun = true;
        }
    }

    /// How a stage reads its inputs in some mode; all of each, where nothing is said.
    fn ways(&self, stage: usize, mode: usize) -> impl Iterator<Item = (StageId, Way)> + '_ {
        let spec = &self.spec.stages[stage];
        let ways = spec.modes.get(mode).map_or(&[][..], |mode| &mode.ways);
        let ways = ways.iter().copied().chain(std::iter::repeat(Way::All));
        spec.inputs.iter().copied().zip(ways)
    }

    /// The first mode that fits; `None` while that is not known.
    fn choose(&self, stage: usize, fleet: Fleet, forced: Option<Forced>) -> Option<usize> {
        let spec = &self.spec.stages[stage];
        for (index, mode) in spec.modes.iter().enumerate() {
            let input = |input: usize| self.stages.get(spec.inputs.get(input)?.0 as usize);
            let fits = match &mode.when {
                Fits::Always => true,
                Fits::Small(small) => {
                    let input = input(small.input).filter(|input| input.phase == Phase::Done)?;
                    small.holds(input.output.1, fleet, forced)
                }
                Fits::Few(of, most) => {
                    let input = input(*of).filter(|input| input.phase == Phase::Done)?;
                    is_few(input.output.1, *most, forced)
                }
                Fits::Together(by) => {
                    let shape = input(mode.takes_in()?)?.shape.as_ref()?;
                    // What it reads beside must be in the same parts.
                    let has_them = mode.by_hash || !shape.tasks.have_parts();
                    has_them && forced != Some(Forced::OneSection) && self.keeps_sections(shape, by)
                }
            };
            if fits {
                return Some(index);
            }
        }
        // The last one has no condition.
        Some(spec.modes.len().saturating_sub(1))
    }

    /// Whether tasks read what one of these stages reads in sections, none of which others read a part of.
    fn keeps_sections(&self, shape: &Shape, by: &[StageId]) -> bool {
        let Some((base, mode)) = shape.chain.first() else { return false };
        let spec = self.spec.stages.get(base.0 as usize);
        let by_size = spec.and_then(|spec| spec.modes.get(*mode)).is_some_and(|mode| mode.by_size);
        let Tasks::Sections(readers) = &shape.tasks else { return false };
        by_size && by.contains(base) && readers.iter().all(|reader| reader.only.is_none())
    }

    /// The shape of a stage in this mode; `None` while what decides it is not known.
    fn form(&self, stage: usize, mode: usize, fleet: Fleet, forced: Option<Forced>) -> Option<Shape> {
        let (id, spec) = (StageId(stage as u32), &self.spec.stages[stage]);
        let by_size = spec.modes.get(mode).is_some_and(|mode| mode.by_size);
        let (mut chain, mut reads, mut why) = (Vec::new(), Vec::new(), Vec::new());
        let (mut tasks, mut left) = (Tasks::Splits(id, spec.tasks), Vec::new());
        for (number, (input, way)) in self.ways(stage, mode).enumerate() {
            let below = self.stages.get(input.0 as usize)?;
            match way {
                Way::Along => {
                    let shape = below.shape.as_ref()?;
                    chain.extend_from_slice(&shape.chain);
                    reads.extend_from_slice(&shape.reads);
                    why.extend(Some(shape.why.clone()).filter(|why| !why.is_empty()));
                    tasks = shape.tasks.clone();
                    continue;
                }
                Way::Sections if by_size && below.phase != Phase::Done => return None,
                Way::Without => continue,
                Way::Sections if by_size => {
                    let may_be_shared = spec.modes[mode].shared.contains(&number);
                    let (bytes, tasks) = (below.output.1, below.measured().collect());
                    left.push(Left { input, bytes, tasks, may_be_shared });
                }
                Way::Sections | Way::Share | Way::All => (),
            }
            // What is taken in may read it, too.
            if !reads.contains(&(input, way)) {
                reads.push((input, way));
            }
        }
        if by_size {
            let sections = spec.sections;
            tasks = deal(sections, &left, fleet, (spec.holds, spec.modes[mode].by_hash), forced);
            why.push(dealt(sections, &tasks));
        }
        match spec.modes.get(mode).map(|mode| &mode.when) {
            Some(Fits::Small(small)) => {
                let input = spec.inputs.get(small.input)?;
                why.push(format!("all of stage {} for each task, for it is small", input.0));
            }
            Some(Fits::Few(input, _)) => {
                let input = spec.inputs.get(*input)?;
                why.push(format!("all of stage {}, for it is little", input.0));
            }
            Some(Fits::Together(_)) => why.push("equal keys are together already".to_owned()),
            Some(Fits::Always) | None => (),
        }
        chain.push((id, mode));
        Some(Shape { chain, reads, tasks, why: why.join("; ") })
    }

    /// Bytes of memory that a task takes for what it holds of what it reads.
    pub(super) fn held(&self, stage: usize, index: usize) -> u64 {
        let (holds, state) = (self.spec.stages[stage].holds, &self.stages[stage]);
        let Some(shape) = state.shape.as_ref().filter(|_| holds != Holds::Nothing) else { return 0 };
        let count = shape.tasks.count().max(1) as u64;
        let reads = shape.reads.iter().map(|(input, way)| {
            let bytes = self.stages.get(input.0 as usize).map_or(0, |input| input.output.1);
            match (way, &shape.tasks) {
                (Way::All, _) => bytes,
                (Way::Share, _) | (Way::Sections, Tasks::Splits(..)) => bytes / count,
                (Way::Sections, Tasks::Sections(_)) | (Way::Along | Way::Without, _) => 0,
            }
        });
        let reads = reads.collect::<Vec<_>>();
        let (in_all, largest) = match &shape.tasks {
            Tasks::Sections(readers) => self.in_sections(shape, readers, index),
            Tasks::Splits(..) => (0, 0),
        };
        let in_all = reads.iter().fold(in_all, |all, bytes| all.saturating_add(*bytes));
        let passes = match &shape.tasks {
            _ if holds != Holds::Tables => 0,
            // The rows of a source.
            Tasks::Splits(base, _) if self.spec.stages[base.0 as usize].inputs.is_empty() => 0,
            _ => reads.into_iter().max().unwrap_or_default().max(largest),
        };
        holds.of(in_all.saturating_sub(passes))
    }

    /// Bytes of memory that a task takes for groups of its own rows: as many as those before it have made; before there is one, as if no two
    /// rows were of one group.
    pub(super) fn grouped(&self, stage: usize) -> u64 {
        let (all, state) = (self.spec.stages[stage].grouped, &self.stages[stage]);
        let each = all / state.tasks.len().max(1) as u64;
        let made = match state.ended {
            (0, _) => each,
            (ended, _) => each.min(state.output.1 / u64::from(ended)),
        };
        Holds::MERGED.of(made)
    }

    /// Bytes that a task reads of sections, and those of the input that has most of them. What takes in a stage of sections may read others
    /// by the same: which were not measured then, and are taken for as evenly spread.
    fn in_sections(&self, shape: &Shape, readers: &[Reader], index: usize) -> (u64, u64) {
        let Some(Reader { bytes, largest, part, .. }) = readers.get(index) else { return (0, 0) };
        let parts = part.filter(|part| part.may_be_all).map_or(1, |part| u64::from(part.of));
        let (bytes, largest) = (bytes.saturating_mul(parts), largest.saturating_mul(parts));
        let in_sections = shape.reads.iter().filter(|(_, way)| *way == Way::Sections);
        let left = in_sections.filter_map(|(input, _)| Some(self.stages.get(input.0 as usize)?.output.1));
        let (left, dealt): (u64, u64) = (left.sum(), readers.iter().map(|reader| reader.bytes).sum());
        let more = u128::from(left.saturating_sub(dealt)) * u128::from(bytes) / u128::from(dealt.max(1));
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        (bytes.saturating_add(more), largest.max(more))
    }

    /// Whether it is yet to be decided by sizes who reads which sections of what a stage leaves.
    fn is_dealt_out(&self, stage: usize) -> bool {
        let by_size = |reader: &usize| self.spec.stages[*reader].modes.iter().any(|mode| mode.by_size);
        let readers = self.stages.get(stage).map_or(&[][..], |stage| &stage.readers);
        readers.iter().any(|reader| self.stages[*reader].shape.is_none() && by_size(reader))
    }

    /// Whether what a stage does is, or may yet be, a part of another's tasks: of its only reader.
    fn is_held(&self, stage: usize) -> bool {
        let &[reader] = &self.stages[stage].readers[..] else { return false };
        let (id, state) = (StageId(stage as u32), &self.stages[reader]);
        // Who has its tasks has taken in what it takes in.
        if state.is_launched || state.may_take != Some(id) {
            return false;
        }
        let takes = |mode| self.ways(reader, mode).any(|(input, way)| input == id && way == Way::Along);
        state.mode.is_none_or(takes)
    }

    /// Whether it may turn out that nobody reads what a stage leaves: all who would are yet to decide whether they do.
    fn may_rest(&self, stage: usize) -> bool {
        let id = StageId(stage as u32);
        let may_do_without = |reader: usize| {
            let does = |mode| self.ways(reader, mode).any(|way| way == (id, Way::Without));
            let spec = &self.spec.stages[reader];
            let decides = |mode: &Mode| match &mode.when {
                Fits::Small(Small { input, .. }) | Fits::Few(input, _) => spec.inputs.get(*input) == Some(&id),
                Fits::Together(_) | Fits::Always => false,
            };
            match self.stages[reader].mode {
                Some(mode) => does(mode),
                // What decides it is wanted.
                None => (0..spec.modes.len()).any(does) && !spec.modes.iter().any(decides),
            }
        };
        let readers = &self.stages[stage].readers;
        let may_rest =
            |reader: usize| !self.stages[reader].is_launched && (may_do_without(reader) || self.may_rest(reader));
        !readers.is_empty() && readers.iter().copied().all(may_rest)
    }

    /// Nobody reads what a stage leaves any more who does not read it now: if it has not begun, it has no need to.
    fn let_go(&mut self, stage: usize, reader: usize, now: Instant) {
        let state = &mut self.stages[stage];
        state.readers.retain(|other| *other != reader);
        if state.readers.is_empty() && !state.is_launched && state.phase != Phase::Done {
            (state.phase, state.since) = (Phase::Done, now);
            for input in self.spec.stages[stage].inputs.clone() {
                self.let_go(input.0 as usize, stage, now);
            }
        }
    }

    /// Gives a stage its tasks, and takes in those of which they are a part.
    fn launch(&mut self, stage: usize, is_there: impl Fn(WorkerId) -> bool, now: Instant) {
        let Some(shape) = self.stages[stage].shape.clone() else { return };
        let taken: Vec<usize> = shape.chain.iter().map(|(id, _)| id.0 as usize).filter(|id| *id != stage).collect();
        for of in taken.iter().copied().chain([stage]) {
            let is_read =
                |id: &StageId| shape.reads.iter().any(|(read, _)| read == id) || taken.contains(&(id.0 as usize));
            let unread = self.spec.stages[of].inputs.clone().into_iter().filter(|id| !is_read(id));
            unread.for_each(|input| self.let_go(input.0 as usize, of, now));
        }
        for below in &taken {
            let StageSpec { one_attempt, with_others, held, may_run_twice, holds, grouped, .. } =
                self.spec.stages[*below].clone();
            let spec = &mut self.spec.stages[stage];
            spec.one_attempt.extend(one_attempt);
            spec.with_others |= with_others;
            spec.may_run_twice &= may_run_twice;
            spec.holds = spec.holds.max(holds);
            spec.grouped = spec.grouped.saturating_add(grouped);
            spec.held.extend(held);
            self.stages[*below].phase = Phase::Done;
            self.stages[*below].since = now;
            self.stages[*below].readers.clear();
        }
        if let Tasks::Splits(base, _) = shape.tasks
            && base.0 as usize != stage
        {
            self.spec.stages[stage].affinity = self.spec.stages[base.0 as usize].affinity.clone();
        }
        let spec = &mut self.spec.stages[stage];
        spec.one_attempt.retain(|id| shape.reads.iter().any(|(read, _)| read == id));
        spec.held.sort_unstable();
        spec.held.dedup();
        spec.inputs = shape.reads.iter().map(|(id, _)| *id).collect();
        spec.tasks = shape.tasks.count();
        for input in &spec.inputs {
            let Some(input) = self.stages.get_mut(input.0 as usize) else { continue };
            input.readers.retain(|reader| !taken.contains(reader) && *reader != stage);
            input.readers.push(stage);
        }
        self.stages[stage].launch(&self.spec.stages[stage], is_there);
        for input in shape.reads.iter().map(|(id, _)| id.0 as usize) {
            if !self.is_dealt_out(input) {
                self.stages[input].sections.clear();
            }
        }
    }
}
