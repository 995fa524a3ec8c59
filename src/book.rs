//! The guide (`docs/book`) and README.md: all of their Rust code is compiled, and what they list is what there is.

/// Each page's code is tests of documentation of a type.
#[cfg(doctest)]
macro_rules! pages {
    ($($(#[$only:meta])? $page:ident: $file:literal,)*) => {
        $(#[doc = include_str!($file)] $(#[$only])? struct $page;)*
    };
}

#[cfg(doctest)]
pages! {
    Readme: "../README.md",
    Actors: "../docs/book/src/actors.md",
    Cluster: "../docs/book/src/cluster.md",
    FirstProgram: "../docs/book/src/first-program.md",
    FirstUdf: "../docs/book/src/first-udf.md",
    #[cfg(feature = "gpu")]
    Gpu: "../docs/book/src/gpu.md",
    Hosts: "../docs/book/src/hosts.md",
    Index: "../docs/book/src/index.md",
    Inside: "../docs/book/src/inside.md",
    #[cfg(feature = "kubernetes")]
    Kubernetes: "../docs/book/src/kubernetes.md",
    Pilots: "../docs/book/src/pilots.md",
    Ray: "../docs/book/src/ray.md",
    Sinks: "../docs/book/src/sinks.md",
    Sql: "../docs/book/src/sql.md",
    Testing: "../docs/book/src/testing.md",
    Udfs: "../docs/book/src/udfs.md",
}

#[cfg(test)]
mod tests;
