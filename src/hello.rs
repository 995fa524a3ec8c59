//! Which build of the program this process is. Two that differ may give different answers to one query.

use std::sync::LazyLock;

use bytes::Bytes;
use regatta_remote::fingerprint;

use crate::config::Config;
use crate::{actor, os, udf};

/// What all processes of a cluster must have in common: nodes refuse each other if it differs. First the build, which covers
/// the code; the rest is what must agree also where somebody says by `REGATTA_BUILD` that builds belong together.
pub(crate) fn hello() -> Bytes {
    static HELLO: LazyLock<Bytes> = LazyLock::new(|| {
        let own = || os::program().and_then(|program| fingerprint(&program));
        // One that cannot be read is like no other.
        let build =
            Config::build().unwrap_or_else(|| own().unwrap_or_else(|why| format!("{:x} ({why})", os::random())));
        let (version, udfs, actors) =
            (env!("CARGO_PKG_VERSION"), udf::registered().join(", "), actor::registered().join(", "));
        let stores = [("s3", cfg!(feature = "s3")), ("gcs", cfg!(feature = "gcs")), ("azure", cfg!(feature = "azure"))];
        let stores: Vec<_> = stores.into_iter().filter_map(|(name, is_in)| is_in.then_some(name)).collect();
        let stores = stores.join(", ");
        let parts = [
            format!("build {build}"),
            format!("regatta {version}"),
            "polars 0.55.2".to_owned(),
            format!("object stores [{stores}]"),
            format!("UDFs [{udfs}]"),
            format!("actors [{actors}]"),
        ];
        parts.join(PART).into()
    });
    HELLO.clone()
}

/// Between the parts of a hello.
const PART: &str = "; ";

/// How two hellos differ, and what to do about it.
pub(crate) fn difference(ours: &[u8], theirs: &[u8]) -> String {
    let (ours, theirs) = (String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs));
    let (of_ours, of_theirs) = (ours.split(PART), theirs.split(PART));
    let (ours, theirs) = if of_ours.clone().count() == of_theirs.clone().count() {
        let differ: Vec<_> = of_ours.zip(of_theirs).filter(|(ours, theirs)| ours != theirs).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = differ.into_iter().unzip();
        (ours.join(PART), theirs.join(PART))
    } else {
        (ours.into_owned(), theirs.into_owned())
    };
    format!(
        "the builds differ: ours is {ours:?}, the head's is {theirs:?}. Builds that differ may answer differently: run the same \
         executable on both. If they are to work together all the same, start the head and whoever joins it with one \
         REGATTA_BUILD=<a name of yours>; versions, object stores, UDFs and actors must agree then, too"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_differs_on_both_sides_and_the_remedies() {
        let of = |build: &str, udfs: &str| format!("build {build}; regatta 1; UDFs [{udfs}]");
        let text = difference(of("a1", "x").as_bytes(), of("b2", "x").as_bytes());
        assert!(text.contains("ours is \"build a1\", the head's is \"build b2\""), "{text}");
        assert!(text.contains("run the same executable") && text.contains("REGATTA_BUILD="), "{text}");
        let text = difference(of("same", "x").as_bytes(), of("same", "x, y").as_bytes());
        assert!(text.contains("ours is \"UDFs [x]\", the head's is \"UDFs [x, y]\""), "{text}");
        let text = difference(of("a1", "x").as_bytes(), b"regatta 7, another program");
        assert!(text.contains("UDFs [x]") && text.contains("another program"), "{text}");
    }
}
