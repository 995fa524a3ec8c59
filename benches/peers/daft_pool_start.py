"""The benchmark `pool_start` on Daft: `daft_pool_start.py native|ray`: a query on a class of eight instances, which ends with
its first batches; prints `name seconds`."""

import statistics
import sys
import time

import daft
from daft import DataType

REPLICAS = 8
SYSTEM = sys.argv[1]


def seconds(rows, use_process):
    # 0.125 of a CPU each, so that Daft on Ray finds room for eight on two.
    @daft.cls(max_concurrency=REPLICAS, cpus=0.125 if SYSTEM == "ray" else None, use_process=use_process)
    class Same:
        def __init__(self):
            pass

        @daft.method.batch(return_dtype=DataType.int64())
        def same(self, x):
            return x

    def once():
        query = rows.select(Same().same(rows["x"]))
        started = time.perf_counter()
        query.collect()
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(3))


def main():
    if SYSTEM == "ray":
        import ray

        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        daft.set_runner_ray()
    rows = daft.from_pydict({"x": list(range(REPLICAS))}).collect()
    # On Ray an instance is an actor, which is a process, whatever is asked for.
    if SYSTEM != "ray":
        print("plain", seconds(rows, False))
    print("processes", seconds(rows, True))


if __name__ == "__main__":
    main()
