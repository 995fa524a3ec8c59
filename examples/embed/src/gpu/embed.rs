//! The UDFs: tokens of texts, and what they mean, on a GPU or by the twin.

use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use regatta::gpu::{Device, GpuUdf, Input, Output, Precision, Twin, takes};
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use super::encoder::{Encoder, MINILM};
use super::minilm::MiniLm;

/// Tokens of a text: longer ones are cut, shorter ones padded with 0. A multiple of 8.
const LENGTH: usize = 64;

/// Texts to `LENGTH` tokens each.
#[derive(Serialize, Deserialize)]
pub(crate) struct Tokenise {
    pub(crate) model: PathBuf,
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
pub(crate) struct Embed {
    pub(crate) model: PathBuf,
}

#[regatta::udf]
impl GpuUdf for Embed {
    type State = Encoder;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        takes(inputs, &[DataType::Array(Box::new(DataType::Int32), LENGTH)])?;
        Ok(DataType::Array(Box::new(DataType::Float32), MINILM.hidden))
    }

    fn start(&self, gpu: &Device, cx: &mut Start) -> UdfResult<Encoder> {
        cx.progress("weights");
        // SAFETY: nobody writes to the file while it is mapped.
        let file = unsafe { MmapedSafetensors::new(self.model.join("model.safetensors")) }?;
        let weight = |name: &str| -> UdfResult<Vec<f32>> {
            Ok(file.load(name, &candle_core::Device::Cpu)?.flatten_all()?.to_vec1()?)
        };
        let mut encoder = Encoder::new(gpu, MINILM, Precision::Tf32, weight)?;
        // Once for any text: cuBLASLt loads its kernels now, and not in the first batch.
        let (tokens, vector) = (gpu.upload(&[1; LENGTH])?, gpu.alloc::<f32>(MINILM.hidden)?);
        let (tokens, vector) = (Input::resident(1, tokens.pointer(), None), Output::new(1, vector.pointer(), None));
        self.launch(&mut encoder, gpu, &[tokens], &vector)?;
        Ok(encoder)
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

/// What the example `embed` gives for texts.
pub(crate) fn known(model: &Path, texts: &[&str]) -> UdfResult<Vec<Vec<f32>>> {
    let model = MiniLm::load(model)?;
    model.vectors(&model.tokens(texts.to_vec())?)
}

/// A column of arrays of so many numbers.
fn arrays(numbers: Series, each: usize) -> UdfResult<Column> {
    Ok(numbers.reshape_array(&[ReshapeDimension::Infer, ReshapeDimension::new(each as i64)])?.into_column())
}
