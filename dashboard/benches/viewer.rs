//! What one viewer of a thousand busy workers costs: CPU of this process, which is server, source and viewer, and bytes.
//! `cargo bench -p regatta-dashboard --bench viewer --profile dev`

#[path = "../tests/serving/common.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Made, SECOND, Serving, worker};
use regatta_dashboard::Dashboard;
use serde_json::Value;

/// How long is looked.
const LOOK: Duration = Duration::from_secs(20);

/// CPU time of this process, in seconds.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Another figure for each worker, as if a second had passed.
fn change(made: &Made, round: u32) {
    let mut view = made.view.lock().unwrap();
    view.up += SECOND;
    for (at, worker) in view.workers.iter_mut().enumerate() {
        let figure = (at as u32 * 7 + round * 13) % 100;
        worker.tasks = (figure % 8, figure % 5);
        worker.cpus.1 = f64::from(figure) / 25.0;
        if (at as u32 + round).is_multiple_of(5) {
            (worker.busy, worker.used) = (Some(f64::from(figure) / 33.0), u64::from(figure) << 24);
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let made = Made::new(false);
        made.view.lock().unwrap().workers = (0..1000).map(worker).collect();
        let serving = Serving::new(made, Dashboard::new()).await;
        for (page, path) in [
            ("nobody looks", ""),
            ("overview", "cluster?queries=40&from=0&workers=20"),
            ("workers", "cluster?queries=0&from=0&workers=100"),
            ("a query", "queries/0007/profile?x"),
        ] {
            let asked = serving.made.asked.load(Ordering::Relaxed);
            let (began, before, mut bytes, mut round) = (Instant::now(), cpu(), 0, 0);
            let mut revision = Value::Null;
            while began.elapsed() < LOOK {
                round += 1;
                change(&serving.made, round);
                if path.is_empty() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                let after = if revision.is_null() { String::new() } else { format!("&after={revision}") };
                let told = serving.get(&format!("/api/v1/{path}{after}")).await;
                bytes += told.head.len() + told.body.len();
                let told: Value = serde_json::from_str(&told.body).unwrap();
                revision = told["revision"].clone();
            }
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "{page}: {:.2} % of a core, {:.0} B/s, the source was asked {} times",
                100.0 * (cpu() - before) / seconds,
                f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / seconds,
                serving.made.asked.load(Ordering::Relaxed) - asked
            );
        }
    });
}
