//! Files to tensors: JPEGs are decoded, resized and normalised by a pool of replicas. Isolated, because decoders read what
//! strangers have written: one that crashes takes nothing with it.
//!
//! ```text
//! cargo run --example images                        # two worker processes
//! DAFT_RUNNER=native cargo run --example images     # in this process
//! ```

use std::error::Error;
use std::path::Path;

use image::{ImageReader, RgbImage, imageops};
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

/// A picture as numbers from -1 to 1: red, green and blue of each pixel, row by row.
#[derive(Serialize, Deserialize)]
struct Pixels {
    side: u32,
}

#[regatta::udf]
impl Udf for Pixels {
    type State = ();

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs {
            [path] if path.dtype() == &DataType::String => Ok(DataType::List(Box::new(DataType::Float32))),
            _ => Err(UdfError::new("Pixels reads files: give it one column of paths")),
        }
    }

    fn start(&self, _: &mut Start) -> UdfResult<()> {
        Ok(())
    }

    fn run(&self, (): &mut (), batch: &Batch) -> UdfResult<Column> {
        let paths = batch.column(0)?.str()?.iter();
        let tensors = paths.map(|path| path.map(|path| self.tensor(path)).transpose());
        let tensors = tensors.collect::<UdfResult<Vec<Option<Series>>>>()?;
        let bytes: usize = tensors.iter().flatten().map(Series::estimated_size).sum();
        batch.metrics().count("bytes", bytes as u64);
        let lists: ListChunked = tensors.into_iter().collect();
        Ok(lists.into_column())
    }
}

impl Pixels {
    fn tensor(&self, path: &str) -> UdfResult<Series> {
        let picture = ImageReader::open(path)?.decode()?;
        let small = picture.resize_exact(self.side, self.side, imageops::FilterType::Triangle).into_rgb8();
        let numbers: Vec<_> = small.into_raw().into_iter().map(|value| f32::from(value) / 127.5 - 1.0).collect();
        Ok(Series::from_vec("".into(), numbers))
    }
}

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let paths = make_pictures(folder.path(), 40)?;
    let session = match std::env::var_os("DAFT_RUNNER") {
        Some(_) => Session::from_env()?,
        None => Session::local(2)?,
    };
    let pixels = Pixels { side: 16 }.pool().isolated().replicas(1..=2).memory(512 << 20).batch(8);
    let query = df!["picture" => 0..paths.len() as u32, "path" => paths]?
        .lazy()
        .with_column(pixels.on([col("path")]).alias("pixel"))
        .explode(by_name(["pixel"], true, false), ExplodeOptions { empty_as_null: true, keep_nulls: true })
        .group_by([col("picture")])
        .agg([len().alias("numbers"), col("pixel").mean().alias("brightness").cast(DataType::Float32)])
        .sort(["picture"], SortMultipleOptions::default());
    let mut run = session.submit(query)?;
    println!("{}", run.collect()?);
    if let Some(status) = run.status()? {
        println!("{status}");
    }
    Ok(())
}

/// Gradients of different sizes, each brighter than the one before.
fn make_pictures(folder: &Path, count: u32) -> Result<Vec<String>, Box<dyn Error>> {
    let paths = (0..count).map(|number| {
        let (width, height) = (64 + number, 48 + 2 * number);
        let shade = |x: u32, of: u32| (x * (128 + 3 * number) / of) as u8;
        let picture = RgbImage::from_fn(width, height, |x, y| [shade(x, width), shade(y, height), number as u8].into());
        let path = folder.join(format!("{number}.jpg"));
        picture.save(&path)?;
        Ok(path.to_string_lossy().into_owned())
    });
    paths.collect()
}
