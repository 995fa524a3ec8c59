extern crate regatta_macros as regatta;

#[regatta::udf]
fn nothing() -> i64 {
    1
}

#[regatta::udf]
fn whole_column(x: &Series) -> Series {
    x.clone()
}

#[regatta::udf]
fn bytes(x: &[u8]) -> i64 {
    x.len() as i64
}

#[regatta::udf(dtype = DataType::Int64)]
fn value(x: i64) -> i64 {
    x
}

#[regatta::udf]
fn no_answer(x: i64) {
    drop(x)
}

fn main() {}
