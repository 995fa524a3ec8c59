//! Texts to vectors by MiniLM on a GPU: tokenised on CPUs, encoded by cuBLASLt and kernels of our own (`encoder.rs`,
//! `encoder.cu`); without a GPU, by the model of the example `embed` on CPUs. What comes out is compared with that. The first
//! run fetches the weights with pip; where that is not possible, nothing is run and the last line begins with `skipped`.
//!
//! ```text
//! cargo run --features gpu --example embed_gpu                        # two worker processes
//! DAFT_RUNNER=native cargo run --features gpu --example embed_gpu     # in this process
//! ```

mod encoder;
#[expect(dead_code, reason = "the example `embed` uses all of it")]
#[path = "../embed/minilm.rs"]
mod minilm;

use std::error::Error;
use std::path::PathBuf;

use candle_core::safetensors::MmapedSafetensors;
use encoder::{Encoder, MINILM};
use minilm::MiniLm;
use regatta::gpu::{self, Device, GpuUdf, Input, Output, Precision, Twin};
use regatta::udf::RunOn;
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

/// Tokens of a text: longer ones are cut, shorter ones padded with 0. A multiple of 8.
const LENGTH: usize = 64;

/// Texts to `LENGTH` tokens each.
#[derive(Serialize, Deserialize)]
struct Tokenise {
    model: PathBuf,
}

#[regatta::udf]
impl Udf for Tokenise {
    type State = Tokenizer;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Array(Box::new(DataType::Int32), LENGTH))
    }

    fn start(&self, _: &mut Start) -> UdfResult<Tokenizer> {
        let wrong = |error: tokenizers::Error| UdfError::new(error.to_string());
        let mut tokenizer = Tokenizer::from_file(self.model.join("tokenizer.json")).map_err(wrong)?;
        let strategy = PaddingStrategy::Fixed(LENGTH);
        tokenizer.with_padding(Some(PaddingParams { strategy, ..Default::default() }));
        tokenizer
            .with_truncation(Some(TruncationParams { max_length: LENGTH, ..Default::default() }))
            .map_err(wrong)?;
        Ok(tokenizer)
    }

    fn run(&self, tokenizer: &mut Tokenizer, batch: &Batch) -> UdfResult<Column> {
        let texts: Vec<&str> = batch.column(0)?.str()?.iter().map(Option::unwrap_or_default).collect();
        let texts = tokenizer.encode_batch_fast(texts, true).map_err(|error| UdfError::new(error.to_string()))?;
        let tokens: Vec<i32> = texts.iter().flat_map(|text| text.get_ids()).map(|id| *id as i32).collect();
        arrays(Series::new("tokens".into(), tokens), LENGTH)
    }
}

/// Tokens to the meaning of a text, as 384 numbers.
#[derive(Clone, Serialize, Deserialize)]
struct Embed {
    model: PathBuf,
}

#[regatta::udf]
impl GpuUdf for Embed {
    type State = Encoder;

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::Array(Box::new(DataType::Float32), MINILM.hidden))
    }

    fn start(&self, gpu: &Device, cx: &mut Start) -> UdfResult<Encoder> {
        cx.progress("weights");
        // SAFETY: nobody writes to the file while it is mapped.
        let file = unsafe { MmapedSafetensors::new(self.model.join("model.safetensors")) }?;
        let weight = |name: &str| -> UdfResult<Vec<f32>> {
            Ok(file.load(name, &candle_core::Device::Cpu)?.flatten_all()?.to_vec1()?)
        };
        Encoder::new(gpu, MINILM, Precision::Tf32, weight)
    }

    fn launch(&self, encoder: &mut Encoder, gpu: &Device, inputs: &[Input], out: &Output) -> UdfResult<()> {
        // SAFETY: both are arrays of the lengths that `Tokenise` and `output` say.
        Ok(unsafe { encoder.encode(gpu, inputs[0].data(), out.rows(), LENGTH, out.data()) }?)
    }

    fn twin(&self) -> Option<Twin> {
        Some(Twin::of(OnCpu(self.clone())))
    }
}

#[derive(Serialize, Deserialize)]
struct OnCpu(Embed);

impl Udf for OnCpu {
    type State = MiniLm;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        self.0.output(inputs)
    }

    fn start(&self, cx: &mut Start) -> UdfResult<MiniLm> {
        cx.progress("weights");
        MiniLm::load(&self.0.model)
    }

    fn run(&self, model: &mut MiniLm, batch: &Batch) -> UdfResult<Column> {
        let tokens = batch.column(0)?.as_materialized_series().array()?.get_inner();
        let tokens: Vec<u32> = tokens.i32()?.iter().map(|token| token.unwrap_or(0) as u32).collect();
        let real = |text: &[u32]| text.iter().copied().filter(|token| *token != 0).collect();
        let vectors = model.vectors(&tokens.chunks(LENGTH).map(real).collect::<Vec<_>>())?;
        arrays(Series::new("vector".into(), vectors.concat()), MINILM.hidden)
    }
}

/// A column of arrays of so many numbers.
fn arrays(numbers: Series, each: usize) -> UdfResult<Column> {
    Ok(numbers.reshape_array(&[ReshapeDimension::Infer, ReshapeDimension::new(each as i64)])?.into_column())
}

const TEXTS: [&str; 6] = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "The supporters went to the match by car.",
    "Interest rates rose by a quarter of a percent.",
    "The central bank made borrowing more expensive.",
];

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    match gpu::device_count() {
        Ok(devices) => eprintln!("embed_gpu runs on {devices} GPUs"),
        Err(why) => eprintln!("embed_gpu runs on CPUs: {why}"),
    }
    let model = match minilm::fetch() {
        Ok(model) => model,
        Err(why) => return Ok(println!("skipped: the weights cannot be fetched: {why}")),
    };
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let tokens = Tokenise { model: model.clone() }.pool().on([col("text")]);
    let vector = Embed { model: model.clone() }.pool().run_on(RunOn::PreferGpu).on([tokens]);
    let answer = df!["text" => TEXTS]?.lazy().with_column(vector.alias("vector")).collect_on(&session)?;

    let numbers = answer.column("vector")?.as_materialized_series().array()?.get_inner();
    let numbers: Vec<f32> = numbers.f32()?.iter().flatten().collect();
    let vectors: Vec<&[f32]> = numbers.chunks(MINILM.hidden).collect();
    let (known, _) = MiniLm::load(&model)?.embed(TEXTS.to_vec())?;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    for (text, (vector, known)) in TEXTS.iter().zip(vectors.iter().zip(&known)) {
        assert!(dot(vector, known) > 0.999, "{text}: {} from the CPU's vector", dot(vector, known));
    }
    let likes =
        |a: usize| TEXTS.iter().zip(&vectors).map(|(_, b)| format!("{:.1}", dot(vectors[a], b))).collect::<Vec<_>>();
    let likes: Vec<String> = (0..TEXTS.len()).map(|a| likes(a).join(" ")).collect();
    println!("{}", df!["text" => TEXTS, "like the first to the last" => likes]?);
    Ok(())
}
