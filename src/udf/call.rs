//! A UDF call inside a Polars expression: name, arguments and options; what the planner finds again, and what travels.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use polars::prelude::*;
use polars_plan::dsl::LazySerde;
use polars_plan::plans::{DynLiteralValue, LiteralValue};
use polars_plan::prelude::{FunctionOptions, OpaqueColumnUdf, SpecialEq};
use regatta_remote::{CodecError, decode, encode};
use serde::{Deserialize, Serialize};

use super::aggregate::{AnyAggregate, aggregate, merge, partial};
use super::context::Seat;
use super::inline::Inline;
use super::registry::{Kind, is_deterministic, open};
use super::{Batch, Call, Context, Meter, Metrics, PoolOptions, TaskMeter, UdfError, UdfResult};
use crate::sched::{QueryId, StageId, StepId, WorkerId};

/// One UDF with arguments and options, as an expression carries it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UdfCall {
    name: String,
    // Encoding arguments can fail; the builder methods cannot, so the failure waits here until the query is planned.
    arguments: Result<Vec<u8>, UdfError>,
    pub(crate) options: PoolOptions,
    /// What it does of an aggregation; `None`: it is row-wise.
    pub(super) aggregates: Option<Part>,
    /// For the calls that Polars evaluates itself. Made at the first such call.
    #[serde(skip)]
    in_place: Arc<Mutex<Option<InPlace>>>,
    /// The task that calls; `None` in plain Polars.
    #[serde(skip)]
    task: Option<CallingTask>,
}

/// A part of an aggregation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Part {
    /// From rows to the value.
    All,
    /// From rows to what is kept of them, as bytes.
    Partial,
    /// From what was kept of some rows each to the value, of this dtype.
    Merge(DataType),
}

/// What evaluates a call that is no step of its own.
#[derive(Clone)]
enum InPlace {
    /// Its own replica.
    Replica(Arc<Inline>),
    Aggregate(Arc<dyn AnyAggregate>),
}

/// A task, as the calls that Polars makes in it see it.
#[derive(Debug, Clone)]
pub(crate) struct CallingTask {
    pub(crate) at: (QueryId, StageId, WorkerId),
    /// Its number, and which attempt.
    pub(crate) by: (u32, u32),
    pub(crate) scratch: PathBuf,
    pub(crate) meter: TaskMeter,
}

/// What stands in front of a named function in Polars' wire form: mark, name, `!`, payload.
const MARK: &[u8] = b"PLNAMEDFN";

impl UdfCall {
    pub(crate) fn new(name: &str, arguments: Result<Bytes, CodecError>, options: PoolOptions) -> Self {
        let arguments = arguments.map(Vec::from).map_err(UdfError::from);
        Self { name: name.to_owned(), arguments, options, aggregates: None, in_place: Arc::default(), task: None }
    }

    pub(super) fn aggregate(self) -> Self {
        Self { aggregates: Some(Part::All), ..self }
    }

    /// Whether it makes one value of many rows.
    pub(crate) fn is_aggregate(&self) -> bool {
        self.aggregates.is_some()
    }

    /// An aggregation in two calls: one makes bytes of some rows, the other the value, of this dtype, of such bytes.
    pub(crate) fn in_parts(&self, dtype: DataType) -> (Self, Self) {
        let part = |part| Self { aggregates: Some(part), in_place: Arc::default(), ..self.clone() };
        (part(Part::Partial), part(Part::Merge(dtype)))
    }

    /// The call as the expression that Polars plans.
    pub(super) fn expression(self: &Arc<Self>, inputs: &[Expr], options: FunctionOptions) -> Expr {
        let takes = self.arguments().and_then(|arguments| open(&self.name, arguments)).map(|udf| udf.takes());
        let takes = takes.unwrap_or_default();
        Expr::AnonymousFunction {
            input: inputs.iter().enumerate().map(|(at, input)| typed(input, takes.get(at))).collect(),
            function: LazySerde::Named {
                name: self.name.clone(),
                payload: self.payload(),
                value: Some(SpecialEq::new(Arc::clone(self) as Arc<dyn AnonymousColumnsUdf>)),
            },
            options,
            fmt_str: Box::new(self.name.as_str().into()),
        }
    }

    /// The call behind an anonymous function, if it is one of ours.
    pub(crate) fn of(function: &OpaqueColumnUdf) -> Option<Self> {
        Self::from_wire(&wire_form(function)?).ok()
    }

    /// The options, with what the session says where they leave it open.
    pub(crate) fn planned_options(&self, in_flight: usize) -> UdfResult<PoolOptions> {
        let udf = open(&self.name, self.arguments()?)?;
        let in_flight = udf.is_async().then(|| self.options.in_flight.unwrap_or(in_flight));
        udf.planned(PoolOptions { in_flight, ..self.options.clone() })
    }

    /// The same call, made by a task: with its context, and its metrics come back with it.
    pub(crate) fn made_by(&self, task: &CallingTask) -> Self {
        Self { task: Some(task.clone()), ..self.clone() }
    }

    pub(super) fn with_options(&self, change: impl FnOnce(&mut PoolOptions)) -> Self {
        let mut options = self.options.clone();
        change(&mut options);
        Self { options, in_place: Arc::default(), ..self.clone() }
    }

    /// What is wrong with leaving this call to Polars, in a task.
    pub(crate) fn check_in_place(&self) -> UdfResult<()> {
        open(&self.name, self.arguments()?)?.check_in_place(&self.options)
    }

    /// Whether both give the same result for the same inputs: one call will do.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.arguments == other.arguments
            && self.options == other.options
            && self.aggregates == other.aggregates
    }

    /// Whether its results depend on its arguments and inputs alone, as its author promises.
    pub(crate) fn is_deterministic(&self) -> bool {
        is_deterministic(&self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The serialised arguments.
    pub(crate) fn arguments(&self) -> UdfResult<&[u8]> {
        self.arguments.as_deref().map_err(Clone::clone)
    }

    /// What is wrong with this call, if anything: seen before any work starts.
    pub(crate) fn validate(&self) -> UdfResult<()> {
        self.arguments()?;
        self.options.validate().map_err(UdfError::new)
    }

    /// The dtype of its result.
    pub(crate) fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        open(&self.name, self.arguments()?)?.output(inputs)
    }

    /// What a replica is told of one attempt of it, and the last.
    pub(crate) fn tried(&self, of: StepId, attempt: u32) -> Call {
        let PoolOptions { on_error, timeout, .. } = self.options;
        Call { attempt, on_error, timeout, of: Some(of), by: None, alone: false, says_rows: false }
    }

    pub(super) fn payload(&self) -> Option<Bytes> {
        encode(&(&self.arguments, &self.options, &self.aggregates)).ok()
    }

    /// Reads a call back from what Polars keeps of a named function after decoding a plan.
    pub(crate) fn from_wire(bytes: &[u8]) -> UdfResult<Self> {
        let unknown = || UdfError::new("the plan holds a function that is not a registered UDF");
        let rest = bytes.strip_prefix(MARK).ok_or_else(unknown)?;
        let end = rest.iter().position(|byte| *byte == b'!').ok_or_else(unknown)?;
        let (name, payload) = rest.split_at(end);
        let name = std::str::from_utf8(name)?;
        let (arguments, options, aggregates): (Result<Vec<u8>, UdfError>, _, _) =
            decode(payload.get(1..).ok_or_else(unknown)?)?;
        open(name, arguments.as_deref().map_err(Clone::clone)?)?;
        let (name, in_place) = (name.to_owned(), Arc::default());
        Ok(Self { name, arguments, options, aggregates, in_place, task: None })
    }

    fn seat(&self) -> Seat {
        match &self.task {
            Some(task) => Seat::in_place(Some(task.at), task.scratch.clone()),
            None => Seat::in_place(None, std::env::temp_dir()),
        }
    }

    fn in_place(&self) -> UdfResult<InPlace> {
        let mut slot = self.in_place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*slot {
            return Ok(made.clone());
        }
        let made = match open(&self.name, self.arguments()?)?.kind() {
            Kind::Aggregate(udf) => InPlace::Aggregate(udf),
            _ => {
                let inline = Inline::start(&self.name, self.arguments()?, &self.options, self.seat())?;
                InPlace::Replica(Arc::new(inline))
            }
        };
        Ok(slot.insert(made).clone())
    }

    fn evaluate(&self, batch: &DataFrame, dtype: &DataType) -> UdfResult<(Column, Metrics)> {
        match self.in_place()? {
            InPlace::Replica(replica) => {
                let by = self.task.as_ref().map(|task| task.by);
                replica.run((&self.name, by), batch, &self.options, dtype)
            }
            InPlace::Aggregate(udf) => {
                let (seat, meter) = (Arc::new(self.seat()), Meter::default());
                let piece = |rows| Batch::new(rows, Call::ONCE, Context::new(&seat, &meter));
                let column = match &self.aggregates {
                    Some(Part::Partial) => partial(&*udf, batch, piece)?,
                    Some(Part::Merge(_)) => merge(&*udf, batch, dtype)?,
                    _ => aggregate(&*udf, batch, piece, dtype)?,
                };
                Ok((column, meter.take()))
            }
        }
    }

    fn failed(&self, error: impl fmt::Display) -> PolarsError {
        polars_err!(ComputeError: "UDF {}: {error}", self.name)
    }
}

/// A literal is of the type that is wanted, if it is a number: Polars does not say of which type it was written.
fn typed(input: &Expr, wanted: Option<&DataType>) -> Expr {
    let (Expr::Literal(LiteralValue::Dyn(literal)), Some(dtype)) = (input, wanted) else { return input.clone() };
    let fits = match literal {
        DynLiteralValue::Int(_) => dtype.is_primitive_numeric(),
        DynLiteralValue::Float(_) => dtype.is_float(),
        _ => false,
    };
    if fits { input.clone().strict_cast(dtype.clone()) } else { input.clone() }
}

/// The inputs of a call as one frame. A column may be given twice and two literals have one name, but a frame's names are
/// unique: the later ones get the number of their input behind their name.
pub(crate) fn batch_of(mut inputs: Vec<Column>) -> PolarsResult<DataFrame> {
    for index in 1..inputs.len() {
        let (before, from_here) = inputs.split_at_mut(index);
        while before.iter().any(|column| column.name() == from_here[0].name()) {
            let name = format!("{}_{}", from_here[0].name(), index + 1);
            from_here[0].rename(name.into());
        }
    }
    DataFrame::new_infer_broadcast(inputs)
}

impl ColumnsUdf for UdfCall {
    fn as_any(&self) -> &dyn Any {
        self
    }

    // Plain Polars calls this, and our engine where the planner could not make the call a step of its own.
    fn call_udf(&self, inputs: &mut [Column]) -> PolarsResult<Column> {
        let batch = batch_of(inputs.to_vec())?;
        let fields: Vec<_> = inputs.iter().map(|column| column.field().into_owned()).collect();
        let dtype = self.get_field(&Schema::default(), &fields)?.dtype;
        let (column, metrics) = self.evaluate(&batch, &dtype).map_err(|e| self.failed(e))?;
        if let Some(task) = &self.task {
            task.meter.add(&self.name, &metrics);
        }
        Ok(column)
    }
}

/// What tells an anonymous function: asking another's what it is (`as_any`) may panic. Closures have none.
pub(crate) fn wire_form(function: &OpaqueColumnUdf) -> Option<Vec<u8>> {
    let (LazySerde::Deserialized(function) | LazySerde::Named { value: Some(function), .. }) = function else {
        return None;
    };
    let mut wire = Vec::new();
    function.try_serialize(&mut wire).ok()?;
    Some(wire)
}

impl AnonymousColumnsUdf for UdfCall {
    fn as_column_udf(self: Arc<Self>) -> Arc<dyn ColumnsUdf> {
        self
    }

    fn deep_clone(self: Arc<Self>) -> Arc<dyn AnonymousColumnsUdf> {
        self
    }

    fn get_field(&self, _: &Schema, inputs: &[Field]) -> PolarsResult<Field> {
        self.validate().map_err(|e| self.failed(e))?;
        let first = inputs.first().ok_or_else(|| self.failed("it is called on no column; give it at least one"))?;
        let arguments = self.arguments().map_err(|e| self.failed(e))?;
        // A literal's type may be open still; the UDF is asked about the one that it will get.
        let fixed =
            |field: &Field| Ok(Field::new(field.name().clone(), field.dtype().clone().materialize_unknown(true)?));
        let inputs = inputs.iter().map(fixed).collect::<PolarsResult<Vec<_>>>()?;
        let dtype = match &self.aggregates {
            Some(Part::Partial) => DataType::Binary,
            Some(Part::Merge(dtype)) => dtype.clone(),
            _ => {
                let udf = open(&self.name, arguments).map_err(|e| self.failed(e))?;
                udf.planned(self.options.clone()).map_err(|e| self.failed(e))?;
                udf.output(&inputs).map_err(|e| self.failed(e))?
            }
        };
        Ok(Field::new(first.name().clone(), dtype))
    }

    fn try_serialize(&self, buffer: &mut Vec<u8>) -> PolarsResult<()> {
        let payload = self.payload().ok_or_else(|| self.failed("its arguments cannot be serialised"))?;
        buffer.extend_from_slice(MARK);
        buffer.extend_from_slice(self.name.as_bytes());
        buffer.push(b'!');
        buffer.extend_from_slice(&payload);
        Ok(())
    }
}

impl fmt::Debug for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replica(_) => "Replica",
            Self::Aggregate(_) => "Aggregate",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_survives_its_wire_form_and_one_of_an_unknown_udf_is_named() {
        let call = |name: &str| {
            let mut wire = Vec::new();
            let call = UdfCall::new(name, encode(&()), PoolOptions { batch: Some((7, 7)), ..Default::default() });
            call.try_serialize(&mut wire).unwrap();
            (call, wire)
        };
        let unit = encode(&()).unwrap();
        let known = super::super::registered().into_iter().find(|name| open(name, &unit).is_ok()).unwrap();
        let (sent, wire) = call(known);
        assert!(UdfCall::from_wire(&wire).is_ok_and(|back| back.is_same_as(&sent)));
        // As on a worker of another build.
        let text = UdfCall::from_wire(&call("flying dutchman").1).unwrap_err().to_string();
        assert!(text.contains("no UDF \"flying dutchman\"") && text.contains("#[regatta::udf]"), "{text}");
        assert!(UdfCall::from_wire(b"PLNAMEDFNsomebody else's").is_err());
    }
}
