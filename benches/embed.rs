//! Documents to embeddings, with the same weights on every system. See docs/book/src/benchmarks.md.

#[path = "../examples/embed/src/minilm.rs"]
mod minilm;
mod support;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use minilm::MiniLm;
use polars_plan::dsl::{FileWriteFormat, SinkDestination, SinkTarget, UnifiedSinkArgs};
use regatta::{polars::prelude::*, prelude::*};
use serde::{Deserialize, Serialize};
use support::foreign::{figure, python};
use support::local::{WORKERS, workers};
use support::report::{Better, Case, Report};

const FILES: u32 = 8;
const DOCUMENTS: u32 = 1024;
const BATCH: usize = 64;

const RATE: Case = Case { name: "documents, end to end", unit: "/s", better: Better::Higher };
const WAITED: Case = Case { name: "replicas waited", unit: "%", better: Better::Lower };
const ALONE: Case = Case { name: "the model alone, one thread", unit: "/s", better: Better::Higher };
const OURS: &str = "regatta, two workers";

#[derive(Serialize, Deserialize)]
struct Embed {
    model: PathBuf,
}

#[regatta::udf]
impl Udf for Embed {
    /// The model, and when its last batch ended.
    type State = (MiniLm, Option<Instant>);

    fn output(&self, _: &[Field]) -> UdfResult<DataType> {
        Ok(DataType::List(Box::new(DataType::Float32)))
    }

    fn start(&self, cx: &mut Start) -> UdfResult<Self::State> {
        cx.progress("loading weights");
        Ok((MiniLm::load(&self.model)?, None))
    }

    fn run(&self, (model, ended): &mut Self::State, batch: &Batch) -> UdfResult<Column> {
        let started = Instant::now();
        let waited = ended.map(|ended| started - ended).unwrap_or_default();
        let texts = batch.column(0)?.str()?;
        let vectors = model.vectors(&model.tokens(texts.iter().flatten().collect())?)?;
        let lists: ListChunked = vectors.into_iter().map(|vector| Some(Series::from_vec("".into(), vector))).collect();
        batch.metrics().count("waited", waited.as_micros() as u64);
        batch.metrics().count("worked", started.elapsed().as_micros() as u64);
        *ended = Some(Instant::now());
        Ok(lists.into_column())
    }
}

#[regatta::main]
fn main() {
    // A thread for each replica: there are as many as CPUs.
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        let own = std::env::current_exe().expect("this program");
        panic!("{}", Command::new(own).args(std::env::args_os().skip(1)).env("RAYON_NUM_THREADS", "1").exec());
    }
    let model = minilm::fetch().expect("the weights, by pip");
    let folder = tempfile::tempdir().expect("a folder");
    write_documents(folder.path()).expect("documents");
    let (batch, documents) = (BATCH.to_string(), folder.path().to_str().expect("text"));
    let args = [model.to_str().expect("text"), documents, &batch];
    let mut report = Report::from_args("embed", "Daft on Ray");
    for _ in 0..report.repetitions() {
        report.add(&ALONE, OURS, Ok(alone(&model, folder.path())));
        report.add(&ALONE, "Daft on Ray", figure(&python("embed.py", &[&["alone"], &args[..]].concat()), "alone"));
        let (rate, waited, check) = ours(&model, folder.path());
        report.add(&RATE, OURS, Ok(rate));
        report.add(&WAITED, OURS, Ok(waited));
        for (system, name) in [("Daft on Ray", "daft"), ("Ray Data", "ray")] {
            let figures = python("embed.py", &[&[name], &args[..]].concat());
            if let Ok(theirs) = figure(&figures, "check") {
                assert!((check / theirs - 1.0).abs() < 1e-4, "{system} has other vectors: {theirs}, ours {check}");
            }
            report.add(&RATE, system, figure(&figures, "rate"));
            report.add(&WAITED, system, figure(&figures, "waited"));
        }
    }
    report.finish();
}

/// Documents per second, the share of time that replicas waited between batches, and what the vectors come to.
fn ours(model: &Path, documents: &Path) -> (f64, f64, f64) {
    let session = workers();
    let embed = Embed { model: model.to_owned() }.pool().replicas(WORKERS).batch(BATCH);
    let started = Instant::now();
    let query = scan(documents).select([col("id"), embed.on([col("text")]).alias("vector")]);
    let mut run = session.submit(query.sort(["id"], SortMultipleOptions::default())).expect("it is planned");
    let answer = run.collect().expect("it runs");
    let rate = answer.height() as f64 / started.elapsed().as_secs_f64();
    let status = run.status().expect("the session is there").expect("a query's status");
    let metrics = status.metrics.values().next().expect("the UDF's");
    let [waited, worked] = ["waited", "worked"].map(|name| metrics.counter(name) as f64);
    let numbers = answer.column("vector").and_then(|vectors| Ok(vectors.list()?.get_inner())).expect("vectors");
    let numbers: Vec<f32> = numbers.f32().expect("numbers").into_no_null_iter().collect();
    let width = numbers.len() / answer.height();
    let check = numbers.iter().zip(&numbers[width..]).map(|(x, y)| f64::from(x * y)).sum();
    (rate, 100.0 * waited / (waited + worked), check)
}

/// Documents per second of the model in this process, without a system around it.
fn alone(model: &Path, documents: &Path) -> f64 {
    let model = MiniLm::load(model).expect("weights");
    let texts = scan(documents).limit(DOCUMENTS / FILES).collect().expect("documents");
    let texts: Vec<&str> =
        texts.column("text").and_then(|texts| texts.str()).expect("texts").iter().flatten().collect();
    let embed =
        |texts: &[&str]| model.tokens(texts.to_vec()).and_then(|tokens| model.vectors(&tokens)).expect("vectors");
    embed(&texts[..BATCH]);
    let started = Instant::now();
    texts.chunks(BATCH).for_each(|texts| drop(embed(texts)));
    texts.len() as f64 / started.elapsed().as_secs_f64()
}

fn scan(documents: &Path) -> LazyFrame {
    let files = documents.join("*.parquet").to_string_lossy().into_owned();
    LazyFrame::scan_parquet(files.as_str().into(), Default::default()).expect("files")
}

/// Documents of 10 to 110 words, in files of the same number.
fn write_documents(folder: &Path) -> PolarsResult<()> {
    const WORDS: &str = "the sea wind harbour boat sailed at dawn and a captain found old maps under table where nobody \
        looked before rain fell for weeks so prices of fish rose quickly while children learned to read stars in school";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut state = 1u64;
    let mut below = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most
    };
    for file in 0..FILES {
        let ids: Vec<u32> = (0..DOCUMENTS / FILES).map(|row| file * (DOCUMENTS / FILES) + row).collect();
        let texts =
            ids.iter().map(|_| (0..10 + below(101)).map(|_| words[below(words.len())]).collect::<Vec<_>>().join(" "));
        let frame = df!["id" => &ids, "text" => texts.collect::<Vec<_>>()]?;
        // A sink, because `ParquetWriter` notes a type of strings that Daft does not read.
        let path = folder.join(format!("{file}.parquet")).to_string_lossy().into_owned();
        let to = SinkDestination::File { target: SinkTarget::Path(path.as_str().into()) };
        frame.lazy().sink(to, FileWriteFormat::Parquet(Default::default()), UnifiedSinkArgs::default())?.collect()?;
    }
    Ok(())
}
