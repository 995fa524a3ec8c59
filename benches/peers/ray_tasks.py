"""The benchmark `tasks` on Ray: tasks that do nothing; prints `name tasks-per-second`."""

import time

import ray

TASKS = 5_000


@ray.remote(num_cpus=0.5)
def nothing():
    return None


@ray.remote(num_cpus=0.5)
def row(at):
    return at


def main():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.get([nothing.remote() for _ in range(TASKS // 5)])
    started = time.perf_counter()
    ray.wait([nothing.remote() for _ in range(TASKS)], num_returns=TASKS, fetch_local=False)
    print("tasks", TASKS / (time.perf_counter() - started))
    started = time.perf_counter()
    assert len(ray.get([row.remote(at) for at in range(TASKS)])) == TASKS
    print("fetched", TASKS / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
