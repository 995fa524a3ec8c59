extern crate regatta_macros as regatta;

struct Counter;

impl Counter {
    #[regatta::udf]
    fn next(&self, x: i64) -> i64 {
        x + 1
    }
}

fn main() {}
