//! The pages of a Regatta cluster, for a browser: a small HTTP server over whoever knows the cluster, and the files of the pages.
//!
//! It serves in the process of a session (`session.dashboard(..)`), or beside any cluster (`regatta dashboard`), which then opens no
//! HTTP port itself. Strangers get nothing: every question needs the token of this server, which a browser gets in the part of the
//! address that it never sends; whoever asks under another name, or from a page of somebody else, is refused.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn serve(source: Arc<dyn regatta_dashboard::Source>) -> std::io::Result<()> {
//! let bound = regatta_dashboard::Dashboard::new().bind(source).await?;
//! println!("look: {}", bound.url());
//! bound.run().await;
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

mod access;
mod answer;
mod asking;
mod delta;
mod files;
mod http;
mod profiles;
mod seats;
mod server;
mod summary;
mod views;

pub use access::Token;
pub use server::{Bound, Dashboard};

use regatta_observe::{Answering, Ask, Order};

/// Who knows the cluster.
pub trait Source: Send + Sync + 'static {
    /// What is looked at, in words: `the cluster at head:7700`.
    fn name(&self) -> String;

    /// Answers a question.
    fn look(&self, ask: Ask) -> Answering;

    /// Whether it does anything but look.
    fn may_act(&self) -> bool;

    /// Does what a viewer wants.
    fn act(&self, order: Order) -> Answering;
}
