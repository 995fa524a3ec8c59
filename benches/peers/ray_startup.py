"""The benchmark `startup` on Ray: a cluster of this machine whose four workers take tasks; prints `name seconds`."""

import time

import ray


@ray.remote
def process():
    time.sleep(0.05)  # so that no worker runs two of them
    return ray.get_runtime_context().get_worker_id()


def main():
    started = time.perf_counter()
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    print("init", time.perf_counter() - started)
    while len(set(ray.get([process.remote() for _ in range(4)]))) < 4:
        pass
    print("up", time.perf_counter() - started)
    ray.shutdown()
    print("whole", time.perf_counter() - started)


if __name__ == "__main__":
    main()
