//! Pictures to tensors for a vision model, resized and normalised on a GPU where there is one, else by the twin on CPUs.
//!
//! ```text
//! cargo run --features gpu --example resize                           # two worker processes
//! DAFT_RUNNER=native cargo run --features gpu --example resize        # in this process
//! ```

mod resize;

use std::error::Error;

use regatta::gpu::GpuUdf;
use regatta::udf::RunOn;
use regatta::{polars::prelude::*, prelude::*};
use resize::Resize;

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    match regatta::gpu::device_count() {
        Ok(devices) => eprintln!("resize runs on {devices} GPUs"),
        Err(why) => eprintln!("resize runs on CPUs: {why}"),
    }
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let side = 16;
    // Gradients, each larger and brighter than the one before; the bytes of one are cut off.
    let sizes: Vec<(i32, i32)> = (0..10).map(|n| (20 + 3 * n, 30 + 2 * n)).collect();
    let mut pictures: Vec<Vec<u8>> =
        sizes.iter().map(|(h, w)| (0..h * w * 3).map(|i| (i * 200 / (h * w * 3) + h) as u8).collect()).collect();
    pictures[4].truncate(1000);
    let (heights, widths): (Vec<i32>, Vec<i32>) = sizes.into_iter().unzip();
    let tensor = Resize { side }.pool().run_on(RunOn::PreferGpu).on([col("bytes"), col("height"), col("width")]);
    let answer = df!["bytes" => pictures, "height" => heights, "width" => widths]?
        .lazy()
        .select([col("height"), col("width"), tensor.alias("tensor")])
        .collect_on(&session)?;
    println!("{answer}");
    Ok(())
}
