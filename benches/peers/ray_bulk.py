"""The benchmark `bulk` on Ray: numpy bytes that an actor puts into the object store and the driver gets.

Prints lines of `name GB/s`."""

import time

import numpy
import ray

TOTAL = 1 << 30


@ray.remote(num_cpus=0)
class Source:
    def make(self, size):
        if not hasattr(self, "bytes") or self.bytes.nbytes != size:
            self.bytes = numpy.full(size, 7, dtype=numpy.uint8)
        return self.bytes


def run(sources, size):
    for _ in range(TOTAL // size // len(sources)):
        for bytes in ray.get([source.make.remote(size) for source in sources]):
            assert bytes.nbytes == size


def main():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    sources = [Source.remote() for _ in range(4)]
    for name, size, at_once in [("64", 64 << 20, 1), ("1", 1 << 20, 1), ("64x4", 64 << 20, 4)]:
        run(sources[:at_once], size)
        started = time.perf_counter()
        run(sources[:at_once], size)
        print(name, TOTAL / 1e9 / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
