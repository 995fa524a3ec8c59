"""The benchmark `identity_udf` on Daft: `daft_identity.py native|ray`; prints `name seconds`."""

import statistics
import sys
import time

import daft
import numpy
from daft import DataType

ROWS = 10_000_000


@daft.func.batch(return_dtype=DataType.int64())
def identity(x):
    return x


def seconds(query):
    def once():
        started = time.perf_counter()
        assert query().collect().count_rows() == 0
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(3))


def main():
    if sys.argv[1] == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        daft.set_runner_ray()
    rows = daft.from_pydict({"x": numpy.arange(ROWS)})
    if sys.argv[1] == "ray":
        rows = rows.into_partitions(2)
    rows = rows.collect()
    print("without", seconds(lambda: rows.where(daft.col("x") < 0)))
    print("with", seconds(lambda: rows.select(identity(rows["x"]).alias("x")).where(daft.col("x") < 0)))


if __name__ == "__main__":
    main()
