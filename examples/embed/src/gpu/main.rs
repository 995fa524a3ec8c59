//! Texts to vectors by MiniLM on a GPU: tokenised on CPUs, encoded by cuBLASLt and kernels of our own (`encoder.rs`,
//! `encoder.cu`); without a GPU, by the model of the example `embed` on CPUs. What comes out is compared with that. The first
//! run fetches the weights with pip; where that is not possible, nothing is run and the last line begins with `skipped`.
//!
//! ```text
//! cargo run --features gpu --example embed_gpu                        # two worker processes
//! DAFT_RUNNER=native cargo run --features gpu --example embed_gpu     # in this process
//! ```

mod embed;
mod encoder;
#[path = "../minilm.rs"]
mod minilm;

use std::error::Error;

use embed::{Embed, Tokenise};
use encoder::MINILM;
use regatta::gpu::{self, GpuUdf};
use regatta::udf::RunOn;
use regatta::{polars::prelude::*, prelude::*};

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
        Err(why) => {
            println!("skipped: the weights cannot be fetched: {why}");
            return Ok(());
        }
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
    let known = embed::known(&model, &TEXTS).map_err(|error| error.to_string())?;
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
