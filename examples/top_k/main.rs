//! The vectors of a corpus that are closest to each query by cosine: one matrix product and a kernel that keeps the best. The
//! corpus stays on the device between batches; where the scores do not fit, Regatta hands over fewer queries at a time.
//!
//! ```text
//! cargo run --features gpu --example top_k                            # two worker processes
//! DAFT_RUNNER=native cargo run --features gpu --example top_k         # in this process
//! ```

mod top_k;

use std::error::Error;
use std::fs::File;

use regatta::gpu::GpuUdf;
use regatta::udf::RunOn;
use regatta::{polars::prelude::*, prelude::*};
use top_k::{TopK, arrays};

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    match regatta::gpu::device_count() {
        Ok(devices) => eprintln!("top_k runs on {devices} GPUs"),
        Err(why) => eprintln!("top_k runs on CPUs: {why}"),
    }
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let folder = tempfile::tempdir()?;
    let (path, dim, rows) = (folder.path().join("corpus.parquet"), 64, 5000);
    let corpus = numbers(rows * dim);
    let mut file = File::create(&path)?;
    ParquetWriter::new(&mut file)
        .finish(&mut df!["vector" => arrays(Series::new("".into(), corpus.clone()), dim)?]?)?;

    // Every 500th vector, longer and bent a little: it is the closest to its original.
    let bend = |row: &[f32]| row.iter().zip(numbers(dim)).map(|(x, noise)| 3.0 * x + 0.3 * noise).collect::<Vec<_>>();
    let queries: Vec<f32> = corpus.chunks(dim).step_by(500).flat_map(bend).collect();
    let originals: Vec<i32> = (0..rows as i32).step_by(500).collect();
    let top = TopK { corpus: path, dim, k: 3 }.pool().run_on(RunOn::PreferGpu).on([col("query")]);
    let closest = df!["original" => originals, "query" => arrays(Series::new("".into(), queries), dim)?]?
        .lazy()
        .select([col("original"), top.alias("closest")])
        .collect_on(&session)?;
    println!("{closest}");
    Ok(())
}

/// Numbers from -1 to 1, always the same.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
