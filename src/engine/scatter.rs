//! What a task leaves: rows of one section, or of several, to which they go by the hash of their keys, or by their range.

use std::sync::Arc;

use polars::prelude::*;
use polars_core::hashing::columns_to_hashes;
use polars_utils::aliases::{PlSeedableRandomStateQuality, SeedableFromU64SeedExt};
use polars_utils::hashing::hash_to_partition;

use super::attempt::Left;
use super::attempt::TaskRun;
use super::in_memory;
use super::program::Scattering;
use crate::error::{PolarsFailure, TaskFailure};
use crate::sched::Part;
use crate::store::{Form, Rows, Writer, size};
use crate::udf::CallingTask;

/// The same in every process, so that equal keys meet.
const SEED: u64 = 0x5eed_0f7e_6a77_a000;
/// Rows are scattered so many bytes at a time: what is gathered of them is still in the cache when it is cut.
const PIECE: usize = 4 << 20;

/// Writes what a task leaves. Dropped before [`seal`](Self::seal), it leaves nothing.
pub(super) struct Sections {
    form: Arc<Form>,
    scatter: Option<Scattering>,
    calling: CallingTask,
    writer: Writer,
}

impl Sections {
    pub(super) fn new(task: &TaskRun) -> Self {
        let scatter = task.program.scatter.clone().filter(|scatter| scatter.by.into > 1);
        let form = Arc::clone(&task.program.form);
        let calling = task.calling.clone();
        Self { scatter, calling, writer: task.store.writer(task.output, &form), form }
    }

    pub(super) fn write(&mut self, batch: DataFrame) -> Result<(), TaskFailure> {
        self.form.check(&batch).map_err(PolarsFailure::from)?;
        let Some(scattering @ Scattering { by, .. }) = &self.scatter else { return self.writer.write(0, batch) };
        let rows = (batch.height() * PIECE / size(&batch).max(1)).max(1);
        for start in (0..batch.height()).step_by(rows) {
            let piece = batch.slice(start as i64, rows);
            let keys = scattering.keys(&piece, &self.calling)?;
            let sections = match by.ranges_of {
                Some(_) => numbered(&keys),
                None => hashed(&keys, by.into),
            };
            let (rows, ends) =
                sections.and_then(|sections| scatter(&piece, sections, by.into)).map_err(PolarsFailure::from)?;
            let starts = [0].into_iter().chain(ends.iter().copied());
            self.writer
                .write_sections(&rows, (0..).zip(starts.zip(ends.iter().copied()).map(|(from, to)| from..to)))?;
        }
        Ok(())
    }

    /// Completes it.
    pub(super) fn seal(self) -> Result<Left, TaskFailure> {
        if self.scatter.is_none() {
            return Ok(Left::whole(self.writer.seal()?, Rows::Kept));
        }
        let (output, sections) = self.writer.seal_sections()?;
        Ok(Left { output, rows: Rows::Kept, sections })
    }

    /// Completes it; few rows are not left, but go along.
    pub(super) fn seal_along(self) -> Result<Left, TaskFailure> {
        let (output, rows) = self.writer.seal_along()?;
        Ok(Left::whole(output, rows))
    }
}

impl Scattering {
    /// What sections are told apart by.
    fn keys(&self, rows: &DataFrame, calling: &CallingTask) -> Result<DataFrame, TaskFailure> {
        match &self.computed {
            Some((plan, calls)) => in_memory::run_on_batch(plan, calls, calling, rows.clone()),
            None => Ok(rows.select(&self.by.keys).map_err(PolarsFailure::from)?),
        }
    }

    /// Of rows of some sections those of one part of each. Finer sections lie within coarser ones, whichever stage has left them.
    pub(super) fn part_of(&self, rows: DataFrame, part: Part, calling: &CallingTask) -> Result<DataFrame, TaskFailure> {
        let (keys, of) = (self.keys(&rows, calling)?, part.of.max(1));
        let finer = hashed(&keys, self.by.into * of as usize).map_err(PolarsFailure::from)?;
        let is_in = finer.into_iter().map(|section| section % of == part.number);
        Ok(rows.filter(&BooleanChunked::from_iter_values(PlSmallStr::EMPTY, is_in)).map_err(PolarsFailure::from)?)
    }
}

/// The section of each row, by the hash of its keys.
fn hashed(keys: &DataFrame, into: usize) -> PolarsResult<Vec<u32>> {
    let height = keys.height();
    let keys: Vec<_> = keys.columns().iter().map(comparable).collect::<PolarsResult<_>>()?;
    let mut keys = DataFrame::new(height, keys)?;
    keys.rechunk_mut_par();
    let mut hashes = Vec::with_capacity(keys.height());
    columns_to_hashes(&keys, Some(PlSeedableRandomStateQuality::seed_from_u64(SEED)), &mut hashes)?;
    Ok(hashes.into_iter().map(|hash| hash_to_partition(hash, into) as u32).collect())
}

/// The section of each row, which is in its key.
fn numbered(keys: &DataFrame) -> PolarsResult<Vec<u32>> {
    let key =
        keys.columns().first().ok_or_else(|| polars_err!(ComputeError: "no column says in which range rows are"))?;
    Ok(key.u32()?.into_no_null_iter().collect())
}

/// The rows by section, each section's in their order; and where each of `into` sections ends.
fn scatter(batch: &DataFrame, sections: Vec<u32>, into: usize) -> PolarsResult<(DataFrame, Vec<usize>)> {
    polars_ensure!(
        sections.len() == batch.height() && sections.iter().all(|section| (*section as usize) < into),
        ComputeError: "{} rows are in sections beyond {into}", batch.height()
    );
    let mut counts = vec![0; into];
    sections.iter().for_each(|section| counts[*section as usize] += 1);
    // Where the next row of each section goes, and so where each ends.
    let mut next = counts;
    let mut before = 0;
    for place in &mut next {
        before += std::mem::replace(place, before);
    }
    let mut rows: Vec<IdxSize> = vec![0; sections.len()];
    for (row, section) in (0..).zip(sections) {
        let place = &mut next[section as usize];
        rows[*place] = row;
        *place += 1;
    }
    Ok((batch.take(&IdxCa::from_vec(PlSmallStr::EMPTY, rows))?, next))
}

/// A key whose hash is the same in all processes. Inside lists Polars hashes a category's number, which is its process's own.
fn comparable(key: &Column) -> PolarsResult<Column> {
    let dtype = by_text(key.dtype());
    if dtype == *key.dtype() { Ok(key.clone()) } else { key.cast(&dtype) }
}

fn by_text(dtype: &DataType) -> DataType {
    match dtype {
        DataType::Categorical(..) => DataType::String,
        DataType::List(inner) => DataType::List(Box::new(by_text(inner))),
        DataType::Array(inner, width) => DataType::Array(Box::new(by_text(inner)), *width),
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name().clone(), by_text(field.dtype()))).collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_partition_with_all_of_its_key_in_whatever_batch() {
        let keys = [Some(0.0), Some(-0.0), Some(f64::NAN), Some(-f64::NAN), None, Some(1.5), Some(2.5)];
        let rows = 700i64;
        let frame = df![
            "key" => (0..rows).map(|row| keys[row as usize % keys.len()]).collect::<Vec<_>>(),
            "id" => (0..rows).collect::<Vec<_>>(),
        ];
        let frame = frame.unwrap();
        for into in [2, 3, 16] {
            let mut partition_of = vec![None; rows as usize];
            for batch in [frame.head(Some(311)), frame.slice(311, 389)] {
                let (rows, ends) =
                    scatter(&batch, hashed(&batch.select(["key"]).unwrap(), into).unwrap(), into).unwrap();
                assert_eq!(ends.last(), Some(&batch.height()));
                for (partition, end) in ends.iter().enumerate() {
                    let start = if partition == 0 { 0 } else { ends[partition - 1] };
                    let piece = rows.slice(start as i64, end - start);
                    let ids: Vec<_> = piece.column("id").unwrap().i64().unwrap().iter().flatten().collect();
                    assert!(ids.is_sorted(), "in their order: {ids:?}");
                    ids.iter().for_each(|id| assert_eq!(partition_of[*id as usize].replace(partition), None, "once"));
                }
            }
            for row in 0..rows as usize {
                let key = row % keys.len();
                // 0.0 is -0.0, and a NaN is any other.
                let same = if key == 1 || key == 3 { key - 1 } else { key };
                assert!(partition_of[row].is_some());
                assert_eq!(partition_of[row], partition_of[same], "row {row} into {into}");
            }
        }
    }

    #[test]
    fn every_row_of_a_section_is_in_one_part_with_all_of_its_key_whatever_the_section_was_cut_into() {
        let rows = 4000i64;
        let frame =
            df!["key" => (0..rows).map(|row| row % 500).collect::<Vec<_>>(), "id" => (0..rows).collect::<Vec<_>>()];
        let frame = frame.unwrap();
        let (into, of) = (16, 3);
        let calling = CallingTask {
            at: (crate::sched::QueryId(1), crate::sched::StageId(0), crate::sched::WorkerId(0)),
            by: (0, 1),
            scratch: std::path::PathBuf::new(),
            meter: Default::default(),
        };
        let by = crate::plan::Scatter { keys: vec!["key".to_owned()], computed: None, into, ranges_of: None };
        let scattering = Scattering { by, computed: None };
        let (scattered, ends) = scatter(&frame, hashed(&frame.select(["key"]).unwrap(), into).unwrap(), into).unwrap();
        let (mut part_of_key, mut seen) = (std::collections::BTreeMap::new(), 0);
        for (section, end) in ends.iter().enumerate() {
            let start = if section == 0 { 0 } else { ends[section - 1] };
            let rows = scattered.slice(start as i64, end - start);
            for number in 0..of {
                let part = scattering.part_of(rows.clone(), Part { number, of, may_be_all: false }, &calling).unwrap();
                let ids: Vec<_> = part.column("id").unwrap().i64().unwrap().into_no_null_iter().collect();
                assert!(ids.is_sorted(), "in their order: {ids:?}");
                for key in part.column("key").unwrap().i64().unwrap().into_no_null_iter() {
                    assert_eq!(*part_of_key.entry(key).or_insert((section, number)), (section, number), "{key}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, rows, "none is lost, and none twice");
        for number in 0..of {
            let keys = part_of_key.values().filter(|(_, of)| *of == number).count();
            assert!((100..250).contains(&keys), "a third of them, about: {keys}");
        }
    }

    #[test]
    fn categories_in_lists_meet_by_their_text() {
        let categories = |words: &[&str]| {
            let words = Column::new("w".into(), words)
                .cast(&DataType::from_categories(Categories::random("".into(), CategoricalPhysical::U32)));
            let list = words
                .unwrap()
                .as_materialized_series()
                .reshape_list(&[ReshapeDimension::Infer, ReshapeDimension::new(1)]);
            DataFrame::new_infer_broadcast(vec![list.unwrap().into_column()]).unwrap()
        };
        let place = |frame: &DataFrame, row: usize| hashed(&frame.slice(row as i64, 1), 1000).unwrap()[0];
        // The same words, with numbers of their own.
        let (one, other) = (categories(&["oak", "elm", "ash"]), categories(&["ash", "oak", "elm"]));
        for (row, at) in [(0, 1), (1, 2), (2, 0)] {
            assert_eq!(place(&one, row), place(&other, at));
        }
        assert_ne!(place(&one, 0), place(&one, 1));
    }
}
