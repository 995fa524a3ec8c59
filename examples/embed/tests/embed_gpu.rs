//! The example on the fake driver: what kernels and products give is what the model on CPUs gives.

#[path = "../src/gpu/embed.rs"]
mod embed;
#[path = "../src/gpu/encoder.rs"]
mod encoder;
#[path = "../src/minilm.rs"]
mod minilm;

use std::sync::Once;

use embed::{Embed, Tokenise};
use regatta::gpu::{self, GpuUdf};
use regatta::polars::prelude::*;
use regatta::prelude::*;
use regatta::udf::RunOn;

regatta::testing::worker!();

/// The fake driver, for this process's children.
fn with_gpus() {
    static ONCE: Once = Once::new();
    // SAFETY: the first thing that each test does; no other thread reads the environment meanwhile.
    ONCE.call_once(|| unsafe { std::env::set_var("REGATTA_TEST_FAKES", regatta_fakes::folder()) });
}

#[test]
fn what_the_kernels_do_not_read_is_refused() {
    with_gpus();
    let session = Session::native().unwrap();
    let ids = Series::new("ids".into(), vec![1i32; 8 * 32]);
    let ids = ids.reshape_array(&[ReshapeDimension::new(8), ReshapeDimension::new(32)]).unwrap();
    let embed = Embed { model: "unused".into() }.pool().run_on(RunOn::CpuOnly);
    let run = session.submit(DataFrame::new(8, vec![ids.into()]).unwrap().lazy().select([embed.on([col("ids")])]));
    let refused = run.and_then(|mut run| run.collect()).unwrap_err().to_string();
    let given = "\"ids\" (array[i32, 32])";
    assert!(refused.contains("takes columns of array[i32, 64]") && refused.contains(given), "{refused}");
}

#[test]
fn minilm_of_kernels_and_products_means_what_the_cpu_model_means() {
    let model = match minilm::fetch() {
        Ok(model) => model,
        Err(why) => return eprintln!("SKIPPED: the weights cannot be fetched: {why}"),
    };
    let texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove."];
    let known = embed::known(&model, &texts).unwrap().concat();
    let texts = df!["text" => texts].unwrap().lazy();
    with_gpus();
    let session = Session::local(1).unwrap();
    let [on_gpu, twin] = [RunOn::RequireGpu, RunOn::CpuOnly].map(|run_on| {
        let tokens = Tokenise { model: model.clone() }.pool().on([col("text")]);
        let embed = Embed { model: model.clone() }.pool().run_on(run_on);
        let query = texts.clone().with_column(tokens.alias("tokens"));
        let answer = query.select([embed.on([col("tokens")]).alias("vector")]).collect_on(&session).unwrap();
        let numbers = answer.column("vector").unwrap().as_materialized_series().array().unwrap().get_inner();
        numbers.f32().unwrap().iter().map(|number| number.unwrap_or(f32::NAN)).collect::<Vec<_>>()
    });
    assert_eq!(on_gpu.len(), 3 * encoder::MINILM.hidden);
    for ((a, b), known) in on_gpu.iter().zip(&twin).zip(&known) {
        assert!((a - known).abs() < 1e-4 && (b - known).abs() < 1e-4, "{a}, {b}, {known}");
    }
}
