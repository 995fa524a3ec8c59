extern crate regatta_macros as regatta;

#[regatta::udf]
unsafe fn trusting(x: i64) -> i64 {
    x
}

#[regatta::udf]
extern "C" fn foreign(x: i64) -> i64 {
    x
}

fn main() {}
