//! UDFs on GPUs whose results only other ones read: they run as one, and what is between them never leaves the device.

use std::collections::BTreeSet;

use polars::prelude::*;
use regatta_gpu::{Device, Input, Output, Slice};
use serde::{Deserialize, Serialize};

use super::columns::result_type;
use super::replica::{AnyGpuUdf, Started};
use super::udf::Twin;
use crate::udf::{
    AnyUdf, Batch, Context, Erased, PoolOptions, Registered, Replica, Start, UdfCall, UdfEntry, UdfError, UdfResult,
    batch_of, conform, inventory, open,
};

/// Calls of UDFs on GPUs, each of which reads inputs of the whole or results of earlier ones. The last one's is the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chain {
    links: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Link {
    udf: String,
    arguments: Vec<u8>,
    inputs: Vec<Read>,
    /// Bytes that it may allocate; 0: its share.
    memory: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Read {
    Leaf(usize),
    Link(usize),
}

impl Registered for Chain {
    const NAME: &'static str = "regatta::gpu::Chain";

    fn erase(self) -> Erased {
        Erased::gpu(Box::new(self))
    }
}

inventory::submit! { UdfEntry::of::<Chain>() }

/// The call together with those that its inputs are, if some of them are UDFs on GPUs with the same options; and what it
/// then reads. Called when the expression is made: Polars sees one call.
pub(crate) fn fuse(call: &UdfCall, inputs: &[Expr]) -> Option<(UdfCall, Vec<Expr>)> {
    let mut whole = Fusion::default();
    let mut from = Vec::with_capacity(inputs.len());
    let (mut options, mut fused) = (call.options.clone(), false);
    for input in inputs {
        from.push(match inner(input, &call.options) {
            Some((chain, leaves)) => {
                fused = true;
                whole.add(&chain, leaves)
            }
            None => Read::Leaf(whole.leaf(input)),
        });
    }
    if !fused || open_gpu(call.name(), call.arguments().ok()?).is_err() {
        return None;
    }
    for link in chain_of(call, inputs.len())?.links {
        let at = whole.chain.len();
        let inputs = link.inputs.iter().map(|input| match input {
            Read::Leaf(n) => from[*n],
            Read::Link(n) => Read::Link(at + n),
        });
        let inputs = inputs.collect();
        whole.chain.push(Link { inputs, ..link });
    }
    let chain = Chain { links: whole.chain };
    options.gpu_memory = chain.links.iter().map(|link| link.memory).sum();
    Some((UdfCall::new(Chain::NAME, regatta_remote::encode(&chain), options), whole.leaves))
}

#[derive(Default)]
struct Fusion {
    chain: Vec<Link>,
    leaves: Vec<Expr>,
}

impl Fusion {
    fn leaf(&mut self, leaf: &Expr) -> usize {
        let known = self.leaves.iter().position(|known| known == leaf);
        known.unwrap_or_else(|| {
            self.leaves.push(leaf.clone());
            self.leaves.len() - 1
        })
    }

    /// Where the chain's result is from then on. The same link of the same inputs is there once.
    fn add(&mut self, chain: &Chain, leaves: &[Expr]) -> Read {
        let mut places = Vec::with_capacity(chain.links.len());
        for link in &chain.links {
            let inputs = link.inputs.iter().map(|input| match input {
                Read::Leaf(n) => Read::Leaf(self.leaf(&leaves[*n])),
                Read::Link(n) => Read::Link(places[*n]),
            });
            let link = Link { inputs: inputs.collect(), ..link.clone() };
            let known = self.chain.iter().position(|known| *known == link);
            places.push(known.unwrap_or_else(|| {
                self.chain.push(link);
                self.chain.len() - 1
            }));
        }
        Read::Link(places.last().copied().unwrap_or(0))
    }
}

/// The chain that an input is, if it can run as part of a call with these options, and what it reads.
fn inner<'a>(input: &'a Expr, options: &PoolOptions) -> Option<(Chain, &'a [Expr])> {
    let Expr::AnonymousFunction { input, function, .. } = input else { return None };
    let call = UdfCall::of(function)?;
    // Each says how much memory it may have, or none does.
    let same = PoolOptions { gpu_memory: options.gpu_memory, ..call.options.clone() } == *options
        && (call.options.gpu_memory == 0) == (options.gpu_memory == 0);
    // Nulls that a kernel makes are known on the device alone, and those after it are told by the host.
    let passes = || open_gpu(call.name(), call.arguments().ok()?).ok().filter(|udf| !udf.makes_nulls());
    if !same || passes().is_none() {
        return None;
    }
    Some((chain_of(&call, input.len())?, input))
}

fn open_gpu(name: &str, arguments: &[u8]) -> UdfResult<Box<dyn AnyGpuUdf>> {
    open(name, arguments)?.into_gpu().ok_or_else(|| UdfError::new(format!("{name} is no UDF on GPUs")))
}

/// A call on so many inputs, as a chain.
fn chain_of(call: &UdfCall, inputs: usize) -> Option<Chain> {
    let arguments = call.arguments().ok()?;
    if call.name() == Chain::NAME {
        return regatta_remote::decode(arguments).ok();
    }
    let inputs = (0..inputs).map(Read::Leaf).collect();
    let (udf, arguments, memory) = (call.name().to_owned(), arguments.to_vec(), call.options.gpu_memory);
    let link = Link { udf, arguments, inputs, memory };
    Some(Chain { links: vec![link] })
}

/// What a call is, for people: a chain's UDFs in their order.
pub(crate) fn describe(name: &str, arguments: &[u8]) -> String {
    match regatta_remote::decode::<Chain>(arguments) {
        Ok(chain) if name == Chain::NAME => {
            let names: Vec<_> = chain.links.iter().map(|link| link.udf.as_str()).collect();
            format!("{} (one after the other on the device)", names.join(", then "))
        }
        _ => name.to_owned(),
    }
}

impl Chain {
    /// The result of a link for each place that it may be read from.
    fn walk<T: Clone>(&self, leaves: &[T], mut link: impl FnMut(usize, Vec<T>) -> UdfResult<T>) -> UdfResult<T> {
        let mut results: Vec<T> = Vec::with_capacity(self.links.len());
        for (n, Link { inputs, .. }) in self.links.iter().enumerate() {
            let inputs = inputs.iter().map(|input| match input {
                Read::Leaf(n) => leaves.get(*n).cloned(),
                Read::Link(n) => results.get(*n).cloned(),
            });
            let inputs = inputs.collect::<Option<Vec<_>>>();
            let inputs = inputs.ok_or_else(|| UdfError::new("a UDF of a chain reads what is not there"))?;
            let result = link(n, inputs)?;
            results.push(result);
        }
        results.pop().ok_or_else(|| UdfError::new("a chain without UDFs"))
    }

    fn open(&self) -> UdfResult<Vec<Box<dyn AnyGpuUdf>>> {
        self.links.iter().map(|link| open_gpu(&link.udf, &link.arguments)).collect()
    }

    /// The dtype of each link's result.
    fn outputs(&self, inputs: &[Field]) -> UdfResult<Vec<DataType>> {
        let (udfs, mut all) = (self.open()?, Vec::new());
        self.walk(inputs, |n, inputs| {
            let within = |error: UdfError| error.within(&self.links[n].udf);
            let dtype = udfs[n].output(&inputs).map_err(within)?;
            all.push(dtype.clone());
            let name = inputs.first().map_or_else(PlSmallStr::default, |input| input.name().clone());
            Ok(Field::new(name, dtype))
        })?;
        Ok(all)
    }

    /// For each link, the inputs of the whole that its result comes from.
    fn sources(&self) -> Vec<Vec<usize>> {
        let mut all: Vec<BTreeSet<usize>> = Vec::new();
        for link in &self.links {
            let mut sources = BTreeSet::new();
            for input in &link.inputs {
                match input {
                    Read::Leaf(n) => drop(sources.insert(*n)),
                    Read::Link(n) => sources.extend(&all[*n]),
                }
            }
            all.push(sources);
        }
        all.into_iter().map(|sources| sources.into_iter().collect()).collect()
    }
}

impl AnyGpuUdf for Chain {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        self.outputs(inputs)?.pop().ok_or_else(|| UdfError::new("a chain without UDFs"))
    }

    fn makes_nulls(&self) -> bool {
        self.open().is_ok_and(|udfs| udfs.last().is_some_and(|last| last.makes_nulls()))
    }

    fn twin(&self) -> Option<Twin> {
        let twins = self.open().ok()?.iter().map(|udf| udf.twin()).collect::<Option<Vec<_>>>()?;
        Some(Twin(Box::new(Twins { chain: self.clone(), twins })))
    }

    fn start(self: Box<Self>, gpu: &Device, cx: &mut Start) -> UdfResult<Box<dyn Started>> {
        let links = self.open()?.into_iter().map(|udf| udf.start(gpu, cx)).collect::<UdfResult<Vec<_>>>()?;
        Ok(Box::new(OnDevice { sources: self.sources(), chain: *self, links, each: Vec::new() }))
    }
}

struct OnDevice {
    chain: Chain,
    links: Vec<Box<dyn Started>>,
    sources: Vec<Vec<usize>>,
    /// Bytes of a row of each link's result, for the batch at hand.
    each: Vec<usize>,
}

impl Started for OnDevice {
    fn output(&mut self, inputs: &[Field]) -> UdfResult<DataType> {
        let outputs = self.chain.outputs(inputs)?;
        self.each = outputs.iter().map(|dtype| Ok(result_type(dtype)?.each())).collect::<UdfResult<_>>()?;
        outputs.last().cloned().ok_or_else(|| UdfError::new("a chain without UDFs"))
    }

    fn is_row_wise(&self) -> bool {
        self.links.iter().all(|link| link.is_row_wise())
    }

    fn makes_nulls(&self) -> bool {
        self.links.last().is_some_and(|link| link.makes_nulls())
    }

    fn sources(&self) -> &[Vec<usize>] {
        // The last one's result is told by the host, or by its kernels.
        self.sources.split_last().map_or(&[], |(_, inner)| inner)
    }

    fn launch(&mut self, gpu: &Device, inputs: &[Input], nulls: &[Option<Input>], out: &Output) -> UdfResult<()> {
        // Kept until the last link is launched; then freed behind it.
        let mut between: Vec<Slice<u8>> = Vec::new();
        let last = self.links.len() - 1;
        let (links, each) = (&mut self.links, &self.each);
        self.chain.walk(inputs, |n, inputs| {
            if n == last {
                links[n].launch(gpu, &inputs, &[], out)?;
                return Ok(Input::resident(out.rows(), out.data(), None));
            }
            let room = gpu.alloc::<u8>(out.rows() * each[n])?;
            let result = Output::new(out.rows(), room.pointer(), None);
            links[n].launch(gpu, &inputs, &[], &result)?;
            let validity = nulls.get(n).copied().flatten().map(|bits| bits.data());
            between.push(room);
            Ok(Input::resident(out.rows(), result.data(), validity))
        })?;
        Ok(())
    }
}

/// The links' twins, one after the other.
struct Twins {
    chain: Chain,
    twins: Vec<Twin>,
}

impl AnyUdf for Twins {
    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        AnyGpuUdf::output(&self.chain, inputs)
    }

    fn start(self: Box<Self>, cx: &mut Start) -> UdfResult<Box<dyn Replica>> {
        let Self { chain, twins } = *self;
        let links = twins.into_iter().map(|twin| twin.0.start(cx)).collect::<UdfResult<Vec<_>>>()?;
        Ok(Box::new(OnCpus { chain, links }))
    }
}

struct OnCpus {
    chain: Chain,
    links: Vec<Box<dyn Replica>>,
}

impl Replica for OnCpus {
    fn run(&mut self, batch: &Batch) -> UdfResult<Column> {
        let columns = batch.frame().columns();
        let fields: Vec<_> = columns.iter().map(|column| column.field().into_owned()).collect();
        let dtypes = self.chain.outputs(&fields)?;
        let (chain, links) = (&self.chain, &mut self.links);
        chain.walk(columns, |n, inputs| {
            let name = inputs.first().map_or_else(PlSmallStr::default, |input| input.name().clone());
            let column = links[n].run(&batch.with_columns(batch_of(inputs)?))?;
            Ok(conform(column, &dtypes[n])?.with_name(name))
        })
    }

    fn stop(self: Box<Self>, cx: &Context) -> UdfResult<()> {
        self.links.into_iter().try_for_each(|link| link.stop(cx))
    }
}
