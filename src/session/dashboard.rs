//! The pages of a session for a browser, served by this process.

use std::sync::Arc;

use regatta_dashboard::{Dashboard, Source};
use regatta_observe::{Answering, Ask, Order};

use super::Session;
use super::door::Door;
use crate::actors::Shown;
use crate::error::{ClusterError, Error};

/// The scheduler of this process, as its viewers see it.
struct Here(Arc<Shown>);

impl Source for Here {
    fn name(&self) -> String {
        let program = std::env::current_exe().ok();
        let program =
            program.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        format!("{}, process {}", program.unwrap_or_else(|| "a program".to_owned()), std::process::id())
    }

    fn look(&self, ask: Ask) -> Answering {
        let shown = Arc::clone(&self.0);
        Box::pin(async move { shown.look(ask).await })
    }

    fn may_act(&self) -> bool {
        true
    }

    fn act(&self, order: Order) -> Answering {
        let shown = Arc::clone(&self.0);
        Box::pin(async move { shown.act(order, "a viewer of the dashboard").await })
    }
}

impl Session {
    /// Serves pages that show what this session's scheduler does, of all drivers if it is a cluster's, and yields the address that a
    /// browser is to open. It has a token in it: whoever has that sees every query's plan, figures, errors and log lines, though no
    /// data, and may cancel queries if [`with_control`](Dashboard::with_control) says so. They are served until the session ends, by
    /// its own threads; nobody looks: they cost nothing. A cluster that is not to open such a port is looked at by the command
    /// `regatta dashboard`.
    ///
    /// ```
    /// use regatta::{Dashboard, prelude::*};
    ///
    /// let session = Session::native()?;
    /// let url = session.dashboard(Dashboard::new())?;
    /// assert!(url.starts_with("http://127.0.0.1:"));
    /// # Ok::<(), regatta::Error>(())
    /// ```
    ///
    /// # Errors
    /// No port is free, or the address is not this machine's; this is a driver's session: the head shows what its scheduler does.
    pub fn dashboard(&self, dashboard: Dashboard) -> Result<String, Error> {
        let failed = |why: &dyn std::fmt::Display| ClusterError::network("serve the dashboard", why);
        let Door::Here(scheduler) = &self.inner.door else {
            return Err(failed(
                &"only a session at the head of the cluster can; `regatta dashboard` does, from anywhere",
            )
            .into());
        };
        let source: Arc<dyn Source> = Arc::new(Here(Arc::new(Shown::new(scheduler.clone(), None))));
        let bound = self.host().wait(async move { dashboard.bind(source).await })?;
        let bound = bound.map_err(|error| failed(&error))?;
        let url = bound.url();
        self.host().runtime.handle().spawn(bound.run());
        Ok(url)
    }
}
