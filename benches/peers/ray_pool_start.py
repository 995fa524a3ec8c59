"""The benchmark `pool_start` on Ray: eight actors that answer, on a cluster that is up; prints `actors seconds`."""

import statistics
import time

import ray

REPLICAS = 8


@ray.remote(num_cpus=0.05)
class Replica:
    def ready(self):
        return True


def once():
    started = time.perf_counter()
    replicas = [Replica.remote() for _ in range(REPLICAS)]
    assert all(ray.get([replica.ready.remote() for replica in replicas]))
    took = time.perf_counter() - started
    for replica in replicas:
        ray.kill(replica)
    return took


def main():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    once()
    print("actors", statistics.median(once() for _ in range(3)))


if __name__ == "__main__":
    main()
