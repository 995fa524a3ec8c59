//! TPC-H in a session and in plain Polars.

use regatta::Session;
use regatta::testing::assert_same_as_polars;

use super::data;
use super::queries::{QUERIES, Tables};

/// Each of its queries gives in this session what Polars gives; of as much data as `TPCH_SCALE` says, else of a little.
pub(crate) fn same_on(session: &Session) {
    let folder = tempfile::tempdir().unwrap();
    let scale = std::env::var("TPCH_SCALE").map_or(0.005, |scale| scale.parse().unwrap());
    data::write(folder.path(), scale, 1 << 12).unwrap();
    let tables = Tables(folder.path().to_owned());
    for query in QUERIES {
        let mut query = query(&tables);
        let schema = query.collect_schema().unwrap();
        // All of them are sums and means.
        let floats: Vec<&str> =
            schema.iter().filter(|(_, dtype)| dtype.is_float()).map(|(name, _)| name.as_str()).collect();
        assert_same_as_polars(session, &query, true, &floats);
    }
}
