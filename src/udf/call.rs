//! A UDF call inside a Polars expression: name, arguments and options; what the planner finds again, and what travels.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use polars::prelude::*;
use regatta_remote::{CodecError, decode, encode};
use serde::{Deserialize, Serialize};

use super::inline::Inline;
use super::{PoolOptions, UdfError, UdfResult, open};

/// One UDF with arguments and options, as an expression carries it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UdfCall {
    name: String,
    // Encoding arguments can fail; the builder methods cannot, so the failure waits here until the query is planned.
    arguments: Result<Vec<u8>, UdfError>,
    pub(crate) options: PoolOptions,
    /// A replica of our own, for the calls that Polars evaluates itself. Started at the first such call.
    #[serde(skip)]
    inline: Arc<Mutex<Option<Inline>>>,
}

/// What stands in front of a named function in Polars' wire form: mark, name, `!`, payload.
const MARK: &[u8] = b"PLNAMEDFN";

impl UdfCall {
    pub(super) fn new(name: &str, arguments: Result<Bytes, CodecError>, options: PoolOptions) -> Self {
        let arguments = arguments.map(Vec::from).map_err(UdfError::from);
        Self { name: name.to_owned(), arguments, options, inline: Arc::default() }
    }

    pub(super) fn with_options(&self, change: impl FnOnce(&mut PoolOptions)) -> Self {
        let mut options = self.options.clone();
        change(&mut options);
        Self { options, inline: Arc::default(), ..self.clone() }
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

    pub(super) fn payload(&self) -> Option<Bytes> {
        encode(&(&self.arguments, &self.options)).ok()
    }

    /// Reads a call back from what Polars keeps of a named function after decoding a plan.
    pub(crate) fn from_wire(bytes: &[u8]) -> UdfResult<Self> {
        let unknown = || UdfError::new("the plan holds a function that is not a registered UDF");
        let rest = bytes.strip_prefix(MARK).ok_or_else(unknown)?;
        let end = rest.iter().position(|byte| *byte == b'!').ok_or_else(unknown)?;
        let (name, payload) = rest.split_at(end);
        let name = std::str::from_utf8(name)?;
        let (arguments, options): (Result<Vec<u8>, UdfError>, _) = decode(payload.get(1..).ok_or_else(unknown)?)?;
        open(name, arguments.as_deref().map_err(Clone::clone)?)?;
        Ok(Self { name: name.to_owned(), arguments, options, inline: Arc::default() })
    }

    fn failed(&self, error: impl std::fmt::Display) -> PolarsError {
        polars_err!(ComputeError: "UDF {}: {error}", self.name)
    }
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
        let mut inline = self.inline.lock().unwrap_or_else(PoisonError::into_inner);
        if inline.is_none() {
            let arguments = self.arguments().map_err(|e| self.failed(e))?;
            *inline = Some(Inline::start(&self.name, arguments).map_err(|e| self.failed(e))?);
        }
        match inline.as_mut() {
            Some(replica) => replica.run(&self.name, &batch, &self.options, &dtype).map_err(|e| self.failed(e)),
            None => Err(self.failed("the replica is gone")),
        }
    }
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
        let dtype = open(&self.name, arguments).and_then(|udf| udf.output(&inputs)).map_err(|e| self.failed(e))?;
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
