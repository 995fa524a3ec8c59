extern crate regatta_macros as regatta;

#[regatta::udf]
struct Shout;

#[regatta::udf]
mod shouts {}

struct Loud;

#[regatta::udf]
impl Loud {}

#[regatta::udf(dtype = DataType::Int64)]
impl Udf for Loud {}

fn main() {}
