//! Stages get their shape, and with it their tasks, when what decides it has been measured.

use std::time::Instant;

use super::{Action, Core};
use crate::sched::query::{Phase, Query, StageSpec};
use crate::sched::shape::{Fits, Fleet, Forced, Left, Mode, Shape, Small, Tasks, Way, deal, dealt, is_few};
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

    fn fleet(&self) -> Fleet {
        let (workers, all) = (self.ledger.staying().max(1) as u64, self.ledger.capacity());
        let task = self.settings.task.millicpus.max(1);
        // Workers that may still come count: they come where there are tasks for them.
        let most = self
            .settings
            .scale
            .as_ref()
            .map_or(0, |scale| (scale.workers.1 as u64).saturating_mul(scale.each.millicpus / task));
        Fleet { workers, slots: (all.millicpus / task).max(most).max(1), memory: all.memory / workers }
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
                    forced != Some(Forced::OneSection) && self.keeps_sections(shape, by)
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
            tasks = deal(sections, &left, fleet, forced);
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
            let StageSpec { one_attempt, with_others, held, may_run_twice, .. } = self.spec.stages[*below].clone();
            let spec = &mut self.spec.stages[stage];
            spec.one_attempt.extend(one_attempt);
            spec.with_others |= with_others;
            spec.may_run_twice &= may_run_twice;
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
