"""The benchmark `startup` on Daft, on a Ray cluster that is there: `daft_first_query.py ADDRESS`; prints `name seconds`."""

import sys
import time

import daft


def main():
    started = time.perf_counter()
    daft.set_runner_ray(sys.argv[1])
    rows = daft.from_pydict({"x": list(range(4))})
    rows.where(daft.col("x") < 0).collect()
    print("first", time.perf_counter() - started)


if __name__ == "__main__":
    main()
