"""The benchmark `ask` on a Ray actor: the same message, number in flight and windows; prints lines of `name value`."""

import threading
import time

import numpy
import ray

MESSAGE = "x" * 64
IN_FLIGHT = 512
WINDOW = 1.0
WARM_UP = 0.2
TRANSFER = 64 << 20


@ray.remote(num_cpus=0)
class Echo:
    async def echo(self, text):
        return text


@ray.remote(num_cpus=0)
class Source:
    def __init__(self):
        self.bytes = numpy.full(TRANSFER, 7, dtype=numpy.uint8)

    def make(self):
        return self.bytes


def one_at_a_time(actor):
    times = []
    started = time.perf_counter()
    while time.perf_counter() - started < WARM_UP + WINDOW:
        asked = time.perf_counter()
        ray.get(actor.echo.remote(MESSAGE))
        if time.perf_counter() - started > WARM_UP:
            times.append((time.perf_counter() - asked) * 1e6)
    return sorted(times)


def pipelined(actor):
    flying = [actor.echo.remote(MESSAGE) for _ in range(IN_FLIGHT)]
    started, since, count = time.perf_counter(), None, 0
    while since is None or time.perf_counter() - since < WINDOW:
        done, flying = ray.wait(flying, num_returns=IN_FLIGHT // 8)
        ray.get(done)
        flying += [actor.echo.remote(MESSAGE) for _ in done]
        if since is None:
            if time.perf_counter() - started > WARM_UP:
                since = time.perf_counter()
        else:
            count += len(done)
    rate = count / (time.perf_counter() - since)
    ray.get(flying)
    return rate


def at(times, share):
    return times[round((len(times) - 1) * share)]


def main():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    actor, source = Echo.remote(), Source.remote()
    ray.get([actor.echo.remote(MESSAGE), source.make.remote()])  # both are up
    times = one_at_a_time(actor)
    print("p50", at(times, 0.5))
    print("p99", at(times, 0.99))
    print("p99.9", at(times, 0.999))
    print("pipelined", pipelined(actor))

    moved, ending = [0], threading.Event()

    def transfers():
        while not ending.is_set():
            moved[0] += ray.get(source.make.remote()).nbytes

    beside = threading.Thread(target=transfers)
    started = time.perf_counter()
    beside.start()
    times = one_at_a_time(actor)
    print("bulk_p50", at(times, 0.5))
    print("bulk_p99", at(times, 0.99))
    print("bulk", moved[0] / (time.perf_counter() - started) / 1e9)
    ending.set()
    beside.join()


if __name__ == "__main__":
    main()
