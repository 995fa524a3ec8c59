"""The benchmark `udf_overhead` on Daft: `daft_udf_overhead.py native|ray`; prints `name seconds`."""

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator

import daft
import numpy
import pyarrow.compute
from daft import DataType, Series

ROWS = 500_000
CALLS = 50_000
SYSTEM = sys.argv[1]


@daft.func
def next_value(x: int) -> int:
    return x + 1


@daft.func.batch(return_dtype=DataType.int64())
def next_of_each(x: Series):
    return pyarrow.compute.add(x.to_arrow(), 1)


@daft.func
async def next_later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@daft.func
def itself_and_next(x: int) -> Iterator[int]:
    yield x
    yield x + 1


# On Ray an instance is an actor, which takes its CPUs for itself.
def plus(use_process):
    @daft.cls(max_concurrency=2, cpus=0.25 if SYSTEM == "ray" else None, use_process=use_process)
    class Plus:
        def __init__(self, by: int):
            self.by = by

        @daft.method.batch(return_dtype=DataType.int64())
        def run(self, x: Series):
            return pyarrow.compute.add(x.to_arrow(), self.by)

    return Plus(1)


@daft.udaf(return_dtype=DataType.int64(), state=DataType.int64())
class Total:
    def aggregate(self, x: Series) -> int:
        return pyarrow.compute.sum(x.to_arrow()).as_py()

    def combine(self, states: Series) -> int:
        return pyarrow.compute.sum(states.to_arrow()).as_py()

    def finalize(self, state: int) -> int:
        return state


def seconds(query, left=0):
    def once():
        started = time.perf_counter()
        assert query().collect().count_rows() == left
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(3))


def rows(count):
    rows = daft.from_pydict({"x": numpy.arange(count)})
    return (rows.into_partitions(2) if SYSTEM == "ray" else rows).collect()


def main():
    if SYSTEM == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        daft.set_runner_ray()
    many, few = rows(ROWS), rows(CALLS)
    none = daft.col("x") < 0

    def form(name, rows, column):
        print(name, seconds(lambda: rows.select(column(rows["x"]).alias("x")).where(none)), flush=True)

    print("none", seconds(lambda: many.where(none)), flush=True)
    form("rows", many, next_value)
    form("batches", many, next_of_each)
    if SYSTEM != "ray":
        form("state", many, plus(False).run)
    form("isolated", many, plus(True).run)
    form("async", few, next_later)
    form("generator", many, itself_and_next)
    print("aggregate", seconds(lambda: many.agg(Total()(many["x"]).alias("x")), 1), flush=True)


if __name__ == "__main__":
    main()
