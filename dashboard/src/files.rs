//! The files of the pages: all that a browser loads.

use crate::http::{Body, Response};

macro_rules! files {
    ($($path:literal $kind:literal $name:literal,)*) => {
        /// Each file: its path, its kind and its bytes.
        const FILES: &[(&str, &str, &[u8])] = &[$(($path, $kind, include_bytes!(concat!("../web/", $name)))),*];
    };
}

files! {
    "/" "text/html; charset=utf-8" "index.html",
    "/app.css" "text/css; charset=utf-8" "app.css",
    "/app.js" "text/javascript; charset=utf-8" "app.js",
    "/server.js" "text/javascript; charset=utf-8" "server.js",
    "/words.js" "text/javascript; charset=utf-8" "words.js",
    "/parts.js" "text/javascript; charset=utf-8" "parts.js",
    "/cluster.js" "text/javascript; charset=utf-8" "cluster.js",
    "/query.js" "text/javascript; charset=utf-8" "query.js",
    "/pictures.js" "text/javascript; charset=utf-8" "pictures.js",
    "/icon.svg" "image/svg+xml" "icon.svg",
}

/// The file at a path.
pub(crate) fn file(path: &str) -> Option<Response> {
    let (_, kind, bytes) = FILES.iter().find(|(of, ..)| *of == path)?;
    Some(Response { status: 200, kind, body: Body::Fixed(bytes) })
}

#[cfg(test)]
mod tests;
