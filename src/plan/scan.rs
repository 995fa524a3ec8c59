//! Splitting scans: files by their parts, frames by their rows.

use std::ops::Range;

use polars::prelude::*;
use polars_core::runtime::THREAD_POOL;
use polars_plan::dsl::{FileScanIR, ScanSources};
use polars_plan::plans::{ArenaLpIter, FunctionIR, IR, IRPlan};
use polars_utils::pl_path::PlRefPath;
use polars_utils::slice_enum::Slice;
use rayon::prelude::*;

use super::files::Layout;
use super::text::End;
use super::{Deal, Split, held_by};
use crate::sched::{Fits, StageId, Way};

/// How what tasks run is split, and why so.
#[derive(Clone)]
pub(super) struct Splits {
    /// None, if that is decided when what they read has been measured.
    pub(super) splits: Vec<Split>,
    /// How, then: the first that fits.
    pub(super) choices: Vec<Choice>,
    /// Whether they are known to be shares of the source's rows that differ by one at most.
    pub(super) are_equal: bool,
    pub(super) why: String,
}

/// A mode, in terms of stages.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) ways: Vec<(StageId, Way)>,
    pub(super) by_size: bool,
    /// Stages of which several tasks may read one section.
    pub(super) shared: Vec<StageId>,
    pub(super) when: Fits<StageId>,
}

impl Choice {
    /// Tasks read stages in these ways.
    pub(super) fn ways(ways: Vec<(StageId, Way)>, when: Fits<StageId>) -> Self {
        Self { ways, by_size: false, shared: Vec::new(), when }
    }

    /// Tasks read adjacent sections of each of these stages.
    pub(super) fn sections(of: impl IntoIterator<Item = StageId>) -> Self {
        let ways = of.into_iter().map(|stage| (stage, Way::Sections)).collect();
        Self { ways, by_size: true, shared: Vec::new(), when: Fits::Always }
    }
}

impl Splits {
    pub(super) fn whole(why: impl Into<String>) -> Self {
        Self::of(vec![Split::Whole], true, why)
    }

    pub(super) fn of(splits: Vec<Split>, are_equal: bool, why: impl Into<String>) -> Self {
        Self { splits, choices: Vec::new(), are_equal, why: why.into() }
    }

    pub(super) fn chosen(choices: Vec<Choice>, why: impl Into<String>) -> Self {
        Self { splits: Vec::new(), choices, are_equal: false, why: why.into() }
    }

    /// Whether there may be several tasks.
    pub(super) fn are_several(&self) -> bool {
        self.splits.len() > 1 || !self.choices.is_empty()
    }

    pub(super) fn shares(of: usize) -> Self {
        Self::dealt(of, Deal::default(), "equal shares of the rows below")
    }

    pub(super) fn dealt(of: usize, deal: Deal, why: impl Into<String>) -> Self {
        let splits = (0..of).map(|part| Split::Share { part, of, deal }).collect();
        Self::of(splits, true, why)
    }

    pub(super) fn hashed(of: usize, keys: &str) -> Self {
        let splits = (0..of as u32).map(|part| Split::Sections { from: part, to: part + 1, part: None }).collect();
        Self::of(splits, false, format!("rows of equal {keys} come to one task"))
    }
}

/// Workers may be in other folders than the driver.
pub(super) fn make_absolute(plan: &mut IRPlan) -> PolarsResult<()> {
    let nodes: Vec<_> = plan.lp_arena.iter(plan.lp_top).map(|(node, _)| node).collect();
    for node in nodes {
        let held = !held_by(plan.lp_arena.get(node)).is_empty();
        let (IR::Scan { sources, .. } | IR::MapFunction { function: FunctionIR::FastCount { sources, .. }, .. }) =
            plan.lp_arena.get_mut(node)
        else {
            continue;
        };
        if let ScanSources::Paths(paths) = sources
            && !held
        {
            let absolute = paths.iter().map(|path| match path.has_scheme() {
                true => Ok(path.clone()),
                false => Ok(path.to_absolute_path()?.into_owned()),
            });
            *sources = ScanSources::Paths(absolute.collect::<PolarsResult<_>>()?);
        }
    }
    Ok(())
}

/// A task reads no more than this where files can be cut: what it reads and makes must fit into memory.
const MOST: u64 = 384 << 20;

/// Splits a frame into `pieces` of equal row counts; into one for each row, if there are fewer rows.
pub(super) fn split_frame(frame: &DataFrame, pieces: usize) -> Splits {
    let (rows, pieces) = (frame.height(), pieces.min(frame.height()).max(1));
    let border = |piece: usize| (rows as u128 * piece as u128 / pieces as u128) as usize;
    let splits = (0..pieces).map(|piece| {
        let offset = border(piece);
        Split::Slice { offset, len: border(piece + 1) - offset }
    });
    Splits::of(splits.collect(), true, format!("a frame of the driver with {rows} rows"))
}

/// The files of a scan for so many tasks, as far as they can be looked into; none of what is no scan of files.
pub(super) fn layouts(scan: &IR, tasks: usize) -> Vec<Layout> {
    let IR::Scan { sources: ScanSources::Paths(paths), scan_type, output_schema, unified_scan_args: args, .. } = scan
    else {
        return Vec::new();
    };
    if !held_by(scan).is_empty() || matches!(**scan_type, FileScanIR::Anonymous { .. }) {
        return Vec::new();
    }
    let wanted = output_schema.as_deref();
    let layout = |(file, path): (usize, &PlRefPath)| match path.has_scheme() {
        true => Layout::remote(file, scan_type, wanted),
        // The footer of one file Polars has read; of several, the first only.
        false if paths.len() == 1 => match Layout::remote(file, scan_type, wanted) {
            Layout::Unknown => Layout::of(path.as_std_path(), scan_type, wanted),
            known => known,
        },
        false => Layout::of(path.as_std_path(), scan_type, wanted),
    };
    let mut files: Vec<Layout> = THREAD_POOL.install(|| paths.par_iter().enumerate().map(layout).collect());
    // Rows of text are counted by who reads all of them, and lines of a file do not know its name.
    let counts = args.pre_slice.is_some() || args.row_index.is_some() || args.include_file_paths.is_some();
    if tasks > 1 && !counts {
        // To look into a small one would be to read it for nothing.
        let (share, _) = share(&files, tasks);
        let cut = |(file, path): (&mut Layout, &PlRefPath)| match file {
            Layout::Text(_) if file.bytes() > Some(share) => *file = Layout::cut(path.as_std_path(), scan_type),
            _ => (),
        };
        THREAD_POOL.install(|| files.par_iter_mut().zip(paths.as_slice()).for_each(cut));
    }
    files
}

/// The bytes of these files that one task reads, if there are about so many; and the size of one that is not known.
fn share(files: &[Layout], tasks: usize) -> (u64, u64) {
    let known: Vec<u64> = files.iter().filter_map(Layout::bytes).collect();
    // It is taken for one like the others.
    let usual = known.iter().sum::<u64>().checked_div(known.len() as u64).unwrap_or_default().max(1);
    let all = known.iter().sum::<u64>() + usual * (files.len() - known.len()) as u64;
    // All tasks that run at once end together, so there are as many in each turn.
    let pieces = all.div_ceil(MOST).max(1).next_multiple_of(tasks as u64);
    ((all / pieces).max(1), usual)
}

/// Splits a scan of these files into about `tasks` pieces of equal sizes, more if they would be too large.
pub(super) fn split(scan: &IR, files: &[Layout], tasks: usize) -> Splits {
    if tasks <= 1 {
        return Splits::whole("one worker with all threads");
    }
    let IR::Scan { sources, scan_type, unified_scan_args: args, .. } = scan else {
        return Splits::whole("its input is not a scan");
    };
    if matches!(**scan_type, FileScanIR::Anonymous { .. }) {
        return Splits::whole("an anonymous scan");
    }
    if args.deletion_files.is_some() {
        return Splits::whole("the scan has deletion files, which count rows across files");
    }
    let held = held_by(scan).len();
    if held > 0 {
        if args.pre_slice.is_some() || args.row_index.is_some() {
            return Splits::whole("it counts rows across persisted partitions");
        }
        let splits = (0..held).map(|file| Split::Files { files: vec![file], rows_before: 0 });
        let splits = splits.collect();
        return Splits::of(splits, held == 1, format!("{held} persisted partitions"));
    }
    if !matches!(sources, ScanSources::Paths(_)) {
        return Splits::whole("the scan reads memory of the driver");
    }
    let rows: Option<usize> = files.iter().map(Layout::rows).sum();
    let counted = match (&args.pre_slice, &args.row_index, rows) {
        (None, None, _) => None,
        (slice, index, Some(rows)) if fits(index.as_ref(), rows) => Some(window(slice.as_ref(), rows)),
        _ => return Splits::whole("it counts rows across files, of which some have no count"),
    };
    let (share, usual) = share(files, tasks);
    let splits = group(files, share, usual, counted);
    let parts: usize = files.iter().map(|file| if let Layout::Parts(parts) = file { parts.len() } else { 0 }).sum();
    let is_cut = splits.iter().any(|split| matches!(split, Split::Lines { .. }));
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let parts = match **scan_type {
        FileScanIR::Parquet { .. } => format!(", {parts} row group{}", plural(parts)),
        FileScanIR::Ipc { .. } => format!(", {parts} record batch{}", if parts == 1 { "" } else { "es" }),
        _ if is_cut => " of text, cut between lines".to_owned(),
        _ => ", each read whole".to_owned(),
    };
    let are_equal = are_equal(&splits, files);
    Splits::of(splits, are_equal, format!("{} file{}{parts}", files.len(), plural(files.len())))
}

/// Whether these pieces of files are known to have the same number of rows, or one more.
fn are_equal(splits: &[Split], files: &[Layout]) -> bool {
    let rows = |split: &Split| match split {
        Split::Files { files: some, .. } => some.iter().map(|file| files.get(*file)?.rows()).sum(),
        Split::Rows { len, .. } => Some(*len),
        _ => None,
    };
    let rows: Option<Vec<usize>> = splits.iter().map(rows).collect();
    rows.is_some_and(|rows| rows.iter().max() <= rows.iter().min().map(|least| least + 1).as_ref())
}

/// Whether an index over so many rows stays within its type. Polars says what is wrong if it does not.
fn fits(index: Option<&RowIndex>, rows: usize) -> bool {
    index.is_none_or(|index| index.offset as usize + rows <= IdxSize::MAX as usize)
}

/// The rows that a slice leaves, of all files together.
fn window(slice: Option<&Slice>, rows: usize) -> Range<usize> {
    match slice.map(|slice| slice.clone().restrict_to_bounds(rows)) {
        Some(Slice::Positive { offset, len }) => offset..offset + len,
        Some(Slice::Negative { .. }) | None => 0..rows,
    }
}

/// Small files are put together until they hold `share` bytes; a large one is cut where a part of it ends. With a window,
/// which needs all files' counts, only its rows are covered. A file of unknown size counts as `usual` bytes.
fn group(files: &[Layout], share: u64, usual: u64, window: Option<Range<usize>>) -> Vec<Split> {
    let mut grouped = Grouped { share, splits: Vec::new(), together: Vec::new(), bytes: 0, rows_before: 0 };
    let mut before = 0;
    for (file, layout) in files.iter().enumerate() {
        let rows = layout.rows().unwrap_or_default();
        let all = 0..rows;
        let wanted = match &window {
            Some(window) => {
                window.start.clamp(before, before + rows) - before..window.end.clamp(before, before + rows) - before
            }
            None => all.clone(),
        };
        let counted = if window.is_some() { before } else { 0 };
        match layout {
            _ if window.is_some() && wanted.is_empty() => (),
            Layout::Parts(parts) if wanted != all || (parts.len() > 1 && layout.bytes() > Some(share)) => {
                grouped.flush();
                grouped.cut(file, parts, wanted, counted);
            }
            Layout::Text(ends) if ends.len() > 1 && layout.bytes() > Some(share) => {
                grouped.flush();
                grouped.cut_text(file, ends);
            }
            _ => grouped.add(file, layout.bytes().unwrap_or(usual), counted),
        }
        before += rows;
    }
    grouped.flush();
    if grouped.splits.is_empty() { vec![Split::Whole] } else { grouped.splits }
}

struct Grouped {
    share: u64,
    splits: Vec<Split>,
    together: Vec<usize>,
    bytes: u64,
    /// Rows of the files before those that are together.
    rows_before: usize,
}

impl Grouped {
    fn add(&mut self, file: usize, bytes: u64, rows_before: usize) {
        if self.together.is_empty() {
            self.rows_before = rows_before;
        }
        self.together.push(file);
        self.bytes += bytes;
        if self.bytes >= self.share {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.bytes = 0;
        if !self.together.is_empty() {
            let files = std::mem::take(&mut self.together);
            self.splits.push(Split::Files { files, rows_before: self.rows_before });
        }
    }

    /// Cuts a file into pieces of about `share` bytes, at the ends of its parts and of the rows that are wanted.
    fn cut(&mut self, file: usize, parts: &[super::files::Part], wanted: Range<usize>, rows_before: usize) {
        let mut piece = wanted.start..wanted.start;
        let (mut bytes, mut share, mut at) = (0, self.share, 0);
        for part in parts {
            // Close a piece when this part would take the pieces so far further from their shares than they are.
            if !piece.is_empty() && bytes + part.bytes / 2 >= share {
                self.push_rows(file, &piece, rows_before);
                piece = piece.end..piece.end;
                while share <= bytes + part.bytes / 2 {
                    share += self.share;
                }
            }
            at += part.rows;
            let end = at.clamp(wanted.start, wanted.end);
            if end > piece.end {
                bytes += part.bytes;
                piece.end = end;
            }
        }
        self.push_rows(file, &piece, rows_before);
    }

    /// Cuts a file of text likewise: a piece ends at the last of these ends that does not take it further from its share.
    fn cut_text(&mut self, file: usize, ends: &[End]) {
        let (mut from, mut share) = (End::none(), self.share);
        for (at, end) in ends.iter().enumerate() {
            let next = ends.get(at + 1);
            if next.is_none_or(|next| end.at + (next.at - end.at) / 2 >= share) {
                self.splits.push(Split::Lines { file, from, to: *end });
                from = *end;
                while share <= end.at {
                    share += self.share;
                }
            }
        }
    }

    fn push_rows(&mut self, file: usize, rows: &Range<usize>, rows_before: usize) {
        if !rows.is_empty() {
            self.splits.push(Split::Rows { file, offset: rows.start, len: rows.len(), rows_before });
        }
    }
}

#[cfg(test)]
mod tests;
