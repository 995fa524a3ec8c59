//! The UDFs of the examples, on the fakes: what kernels and products give is what the twins give.

#[path = "../../examples/resize/resize.rs"]
mod resize;
#[path = "../../examples/top_k/top_k.rs"]
mod top_k;

use std::fs::File;

use polars_arrow::{array::PrimitiveArray, bitmap::Bitmap};
use regatta::gpu::GpuUdf;
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::udf::RunOn;
use regatta_fakes::numbers;
use resize::Resize;
use top_k::{TopK, arrays};

use super::with_gpus;

/// One column by kernels and by the twin.
fn both(query: impl Fn(RunOn) -> LazyFrame) -> [Column; 2] {
    with_gpus();
    let session = Session::local(1).unwrap();
    [RunOn::RequireGpu, RunOn::CpuOnly].map(|run_on| {
        let mut run = session.submit(query(run_on)).unwrap();
        let answer = run.collect().unwrap_or_else(|error| panic!("{error}"));
        let metrics = run.status().unwrap().expect("a session that runs queries knows them").metrics;
        let on_gpu: u64 = metrics.values().map(|metrics| metrics.counter("gpu_batches")).sum();
        assert_eq!(on_gpu > 0, run_on == RunOn::RequireGpu, "{metrics:?}");
        answer.column("result").unwrap().clone()
    })
}

/// The numbers of all arrays.
fn flat(arrays: &Column) -> Vec<f32> {
    let arrays = arrays.as_materialized_series().array().unwrap().get_inner();
    arrays.f32().unwrap().iter().map(|number| number.unwrap_or(f32::NAN)).collect()
}

#[test]
fn the_closest_vectors_are_those_of_the_twin() {
    let (dim, rows) = (32, 5000);
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus.parquet");
    let column = |numbers| arrays(Series::new("".into(), numbers), dim).unwrap();
    let mut frame = df!["vector" => column(numbers(1, rows * dim))].unwrap();
    ParquetWriter::new(File::create(&corpus).unwrap()).finish(&mut frame).unwrap();
    let queries = df!["query" => column(numbers(2, 50 * dim))].unwrap().lazy();
    let [on_gpu, twin] = both(|run_on| {
        let top_k = TopK { corpus: corpus.clone(), dim, k: 5 };
        queries.clone().select([top_k.pool().run_on(run_on).on([col("query")]).alias("result")])
    });
    assert!(on_gpu.equals(&twin), "{on_gpu:?}\n{twin:?}");
}

#[test]
fn pictures_become_the_tensors_of_the_twin_and_those_that_are_broken_or_not_whole_null() {
    let sizes: Vec<(i32, i32)> = (0..40).map(|n| (5 + n, 40 - n)).collect();
    let picture = |(h, w): &(i32, i32)| (0..h * w * 3).map(|i| (i * 37 % 251) as u8).collect::<Vec<u8>>();
    let mut bytes: Vec<Vec<u8>> = sizes.iter().map(picture).collect();
    bytes[7].pop();
    let bytes: Vec<_> = (0..).zip(bytes).map(|(n, bytes)| (n != 9).then_some(bytes)).collect();
    // Under the null is a number that would do.
    let sides = |side: fn(&(i32, i32)) -> i32, null: usize| {
        let valid: Bitmap = (0..sizes.len()).map(|n| n != null).collect();
        let numbers = PrimitiveArray::from_vec(sizes.iter().map(side).collect()).with_validity(Some(valid));
        Int32Chunked::with_chunk("".into(), numbers).into_series()
    };
    let (heights, widths) = (sides(|(height, _)| *height, 11), sides(|(_, width)| *width, 13));
    let pictures = df!["bytes" => bytes, "height" => heights, "width" => widths].unwrap().lazy();
    let [on_gpu, twin] = both(|run_on| {
        let resize = Resize { side: 12 }.pool().run_on(run_on);
        pictures.clone().select([resize.on([col("bytes"), col("height"), col("width")]).alias("result")])
    });
    for column in [&on_gpu, &twin] {
        let nulls: Vec<_> = (0..40).filter(|n| column.is_null().get(*n) == Some(true)).collect();
        assert_eq!(nulls, [7, 9, 11, 13]);
    }
    for (a, b) in flat(&on_gpu.drop_nulls()).iter().zip(flat(&twin.drop_nulls())) {
        assert!((a - b).abs() < 1e-4, "{a}, {b}");
    }
}

#[test]
fn what_the_kernels_of_the_examples_do_not_read_is_refused() {
    let session = Session::native().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let floats = |dim| arrays(Series::new("".into(), numbers(1, 8 * dim)), dim).unwrap();
    let data =
        df!["four" => floats(4), "eight" => floats(8), "bytes" => vec![b"abc".to_vec(); 8], "one" => vec![1i64; 8]];
    let data = data.unwrap();
    let corpus = folder.path().join("corpus.parquet");
    let mut frame = df!["vector" => floats(8)].unwrap();
    ParquetWriter::new(File::create(&corpus).unwrap()).finish(&mut frame).unwrap();
    let top_k = |dim| TopK { corpus: corpus.clone(), dim, k: 2 }.pool().run_on(RunOn::CpuOnly);
    let resize = Resize { side: 4 }.pool().run_on(RunOn::CpuOnly);
    for (call, wanted, given) in [
        (top_k(8).on([col("four")]), "array[f32, 8]", "\"four\" (array[f32, 4])"),
        // The corpus.
        (top_k(4).on([col("four")]), "array[f32, 4]", "\"vector\" (array[f32, 8])"),
        (resize.on([col("bytes"), col("one"), col("one")]), "binary, i32, i32", "\"one\" (i64)"),
    ] {
        let run = session.submit(data.clone().lazy().select([call]));
        let refused = run.and_then(|mut run| run.collect()).unwrap_err().to_string();
        assert!(refused.contains(&format!("takes columns of {wanted}")) && refused.contains(given), "{refused}");
    }
}
