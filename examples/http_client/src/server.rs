//! An HTTP service on this machine that takes 20 ms for each request and measures how it is used.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use actix_web::{App, HttpServer, rt, web};

/// The service; it ends with this process.
pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    came: Mutex<Vec<Instant>>,
    now: AtomicUsize,
    at_once: AtomicUsize,
}

impl Server {
    pub(crate) fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = Self { address: format!("http://{}", listener.local_addr()?), seen: Arc::default() };
        let seen = web::Data::from(Arc::clone(&server.seen));
        thread::spawn(|| {
            let app = move || App::new().app_data(seen.clone()).route("/depth/{harbour}", web::get().to(depth));
            rt::System::new().block_on(HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run())
        });
        Ok(server)
    }

    /// When requests came, in this order.
    pub(crate) fn came(&self) -> Vec<Instant> {
        self.seen.came.lock().expect("nobody panics with it").clone()
    }

    /// How many requests there were at once, at most.
    pub(crate) fn at_once(&self) -> usize {
        self.seen.at_once.load(Ordering::Relaxed)
    }
}

async fn depth(harbour: web::Path<u32>, seen: web::Data<Seen>) -> String {
    seen.came.lock().expect("nobody panics with it").push(Instant::now());
    seen.at_once.fetch_max(seen.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    rt::time::sleep(Duration::from_millis(20)).await;
    seen.now.fetch_sub(1, Ordering::Relaxed);
    format!("{}.5", *harbour * 37 % 20)
}
