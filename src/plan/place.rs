//! Functions that tell rows where they stand: what differs by task, the engine fills in when it binds one.

use std::any::Any;
use std::sync::Arc;

use polars::prelude::*;
use polars_plan::dsl::LazySerde;
use polars_plan::plans::AExpr;
use polars_plan::prelude::{AnonymousColumnsUdf, OpaqueColumnUdf, SpecialEq};
use polars_utils::arena::{Arena, Node};
use regatta_remote::{decode, encode};
use serde::{Deserialize, Serialize};

use super::share::Own;
use crate::udf::wire_form;

/// One of the functions that lead from the number of a row in its task to where it belongs. The engine fills in what differs by task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// From the number of a row to its place: of this task.
    Of { task: u32 },
    /// From a place to one of so many sections, each of which has the rows of so many tasks.
    Section { tasks: u32, sections: u32 },
    /// From the number of a row in a share to an index of all rows: so many come before the share, and the index begins so.
    Index { first: u64, offset: IdxSize },
    /// Whether a row, of which there is one for each share, is that of a share before the task's, or after it.
    Beside { part: u64, after: bool },
    /// Whether a row of a share is the task's own, by its number: one from there to there.
    Own { from: u64, to: u64 },
}

/// A place has the number of a task above these bits.
const ROWS: u32 = 32;
/// What its wire form begins with.
const MARK: &[u8] = b"regatta:places!!";

impl Place {
    pub(super) fn function(self) -> OpaqueColumnUdf {
        LazySerde::Deserialized(SpecialEq::new(Arc::new(self) as Arc<dyn AnonymousColumnsUdf>))
    }

    /// The function as it is, if it is one of these.
    fn of(function: &OpaqueColumnUdf) -> Option<Self> {
        Self::from_wire(&wire_form(function)?)
    }

    pub(super) fn is(function: &OpaqueColumnUdf) -> bool {
        Self::of(function).is_some()
    }

    /// Reads one back, if it is one.
    pub(super) fn from_wire(bytes: &[u8]) -> Option<Self> {
        decode(bytes.strip_prefix(MARK)?).ok()
    }

    /// Where a plan asks for places.
    pub(crate) fn asked(exprs: &Arena<AExpr>) -> Vec<Node> {
        let asks = |node: &Node| match exprs.get(*node) {
            AExpr::AnonymousFunction { function, .. } => {
                matches!(
                    Self::of(function),
                    Some(Self::Of { .. } | Self::Index { .. } | Self::Beside { .. } | Self::Own { .. })
                )
            }
            _ => false,
        };
        (0..exprs.len()).map(Node).filter(asks).collect()
    }

    /// Says there which task it is, and where its share is; that of who reads all rows is all of them.
    pub(crate) fn fill_in(asked: &[Node], task: u32, own: Option<&Own>, exprs: &mut Arena<AExpr>) {
        let Own { part, first, rows } = own.cloned().unwrap_or(Own::ALL);
        for node in asked {
            let AExpr::AnonymousFunction { function, .. } = exprs.get_mut(*node) else { continue };
            let filled = match Self::of(function) {
                Some(Self::Of { .. }) => Self::Of { task },
                Some(Self::Index { offset, .. }) => Self::Index { first, offset },
                Some(Self::Beside { after, .. }) => match part {
                    Some(part) => Self::Beside { part, after },
                    // Nothing is beside all rows.
                    None => Self::Beside { part: if after { u64::MAX } else { 0 }, after },
                },
                Some(Self::Own { .. }) => Self::Own { from: rows.start, to: rows.end },
                Some(Self::Section { .. }) | None => continue,
            };
            *function = filled.function();
        }
    }

    fn dtype(self) -> DataType {
        match self {
            Self::Of { .. } => DataType::UInt64,
            Self::Section { .. } => DataType::UInt32,
            Self::Index { .. } => IDX_DTYPE,
            Self::Beside { .. } | Self::Own { .. } => DataType::Boolean,
        }
    }
}

impl ColumnsUdf for Place {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn call_udf(&self, inputs: &mut [Column]) -> PolarsResult<Column> {
        let of = inputs.first().ok_or_else(|| polars_err!(ComputeError: "no number of a row"))?;
        Ok(match *self {
            Self::Of { task } => {
                let first = u64::from(task) << ROWS;
                let places = of.idx()?.into_no_null_iter().map(|row| first | u64::from(row));
                UInt64Chunked::from_iter_values(of.name().clone(), places).into_column()
            }
            Self::Section { tasks, sections } => {
                let (tasks, last) = (u64::from(tasks.max(1)), u64::from(sections.max(1)) - 1);
                let sections = of.u64()?.into_no_null_iter().map(|place| ((place >> ROWS) / tasks).min(last) as u32);
                UInt32Chunked::from_iter_values(of.name().clone(), sections).into_column()
            }
            Self::Index { first, offset } => {
                let before = first.saturating_add(u64::from(offset));
                let index = |row: IdxSize| IdxSize::try_from(before.saturating_add(u64::from(row))).ok();
                let rows = of.idx()?;
                let last = rows.max().is_none_or(|last| index(last).is_some_and(|index| index < IdxSize::MAX));
                polars_ensure!(last, ComputeError: "an index of more than {} rows: they need Polars' feature `bigidx`", IdxSize::MAX);
                let indices = rows.into_no_null_iter().filter_map(index);
                IdxCa::from_iter_values(of.name().clone(), indices).into_column()
            }
            Self::Beside { part, after } => {
                let is_beside = |row: u64| if after { row > part } else { row < part };
                let beside = of.idx()?.into_no_null_iter().map(|row| is_beside(u64::from(row)));
                BooleanChunked::from_iter_values(of.name().clone(), beside).into_column()
            }
            Self::Own { from, to } => {
                let own = of.idx()?.into_no_null_iter().map(|row| (from..to).contains(&u64::from(row)));
                BooleanChunked::from_iter_values(of.name().clone(), own).into_column()
            }
        })
    }
}

impl AnonymousColumnsUdf for Place {
    fn as_column_udf(self: Arc<Self>) -> Arc<dyn ColumnsUdf> {
        self
    }

    fn deep_clone(self: Arc<Self>) -> Arc<dyn AnonymousColumnsUdf> {
        self
    }

    fn get_field(&self, _: &Schema, inputs: &[Field]) -> PolarsResult<Field> {
        let of = inputs.first().ok_or_else(|| polars_err!(ComputeError: "no number of a row"))?;
        Ok(Field::new(of.name().clone(), self.dtype()))
    }

    fn try_serialize(&self, buffer: &mut Vec<u8>) -> PolarsResult<()> {
        let encoded = encode(self).map_err(|e| polars_err!(ComputeError: "{e}"))?;
        buffer.extend_from_slice(MARK);
        buffer.extend_from_slice(&encoded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use polars_plan::prelude::FunctionOptions;

    use super::*;

    #[test]
    fn places_are_in_the_order_of_tasks_and_of_their_rows_and_so_are_sections() {
        let rows = |count: IdxSize| IdxCa::from_vec("row".into(), (0..count).collect()).into_column();
        let called = |function: Place, column: Column| {
            let mut wire = Vec::new();
            function.try_serialize(&mut wire).unwrap();
            let function = Place::from_wire(&wire).unwrap();
            let field = function.get_field(&Schema::default(), &[Field::new("row".into(), DataType::Null)]).unwrap();
            let result = function.call_udf(&mut [column]).unwrap();
            assert_eq!(*result.dtype(), field.dtype);
            result
        };
        for (tasks, each, sections) in [(1, 1, 16), (16, 1, 16), (40, 3, 16), (40, 1, 16)] {
            let (mut places, mut into) = (Vec::new(), Vec::new());
            for task in 0..tasks {
                let place = called(Place::Of { task }, rows(task % 3));
                into.extend(
                    called(Place::Section { tasks: each, sections }, place.clone()).u32().unwrap().into_no_null_iter(),
                );
                places.extend(place.u64().unwrap().into_no_null_iter());
            }
            assert!(places.windows(2).all(|two| two[0] < two[1]), "{places:?}");
            assert!(into.is_sorted() && into.iter().all(|section| *section < sections), "{into:?}");
        }
    }

    #[test]
    fn whoever_reads_all_rows_has_nothing_beside_them() {
        let asked = |function: Place, own: Option<&Own>| {
            let mut exprs = Arena::new();
            let fmt_str = Box::new(PlSmallStr::from_static("place"));
            let (function, options) = (function.function(), FunctionOptions::elementwise());
            let at = exprs.add(AExpr::AnonymousFunction { input: Vec::new(), function, options, fmt_str });
            assert_eq!(Place::asked(&exprs), [at]);
            Place::fill_in(&[at], 7, own, &mut exprs);
            let AExpr::AnonymousFunction { function, .. } = exprs.get(at) else { unreachable!() };
            let mut rows = [IdxCa::from_vec("row".into(), (0..6).collect()).into_column()];
            let filled = Place::of(function).unwrap().call_udf(&mut rows).unwrap().cast(&DataType::UInt64).unwrap();
            filled.u64().unwrap().into_no_null_iter().collect::<Vec<_>>()
        };
        let own = Own { part: Some(2), first: 40, rows: 1..4 };
        for (function, of_share, of_all) in [
            (Place::Index { first: 0, offset: 3 }, [43, 44, 45, 46, 47, 48], [3, 4, 5, 6, 7, 8]),
            (Place::Own { from: 0, to: 0 }, [0, 1, 1, 1, 0, 0], [1; 6]),
            (Place::Beside { part: 0, after: false }, [1, 1, 0, 0, 0, 0], [0; 6]),
            (Place::Beside { part: 0, after: true }, [0, 0, 0, 1, 1, 1], [0; 6]),
        ] {
            assert_eq!(asked(function, Some(&own)), of_share, "{function:?}");
            assert_eq!(asked(function, None), of_all, "{function:?}");
        }
    }
}
