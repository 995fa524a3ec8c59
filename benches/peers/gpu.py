"""The jobs of the benchmark `gpu` in PyTorch and CuPy, as their users write them: `system case figure` lines.

What is not installed is said and left out. The same sizes, numbers and units as gpu/benches/gpu/main.rs."""

import time

import numpy

ROWS, CORPUS, QUERIES, DIM, K = 16 << 20, 1 << 20, 1024, 384, 10
COPY, SIDE, PICTURES = 256 << 20, 8192, 64


def median(call, runs=20):
    for _ in range(3):
        call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def torch_jobs():
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("sees no GPU")
    torch.backends.cuda.matmul.allow_tf32 = True
    wait = torch.cuda.synchronize

    def timed(call):
        def once():
            call()
            wait()

        return median(once)

    pinned = torch.randint(0, 255, (COPY,), dtype=torch.uint8).pin_memory()
    on_device = pinned.cuda()
    other = torch.empty_like(on_device)
    yield "up", COPY / 1e9 / timed(lambda: on_device.copy_(pinned, non_blocking=True))
    yield "down", COPY / 1e9 / timed(lambda: pinned.copy_(on_device, non_blocking=True))
    yield "within", 2 * COPY / 1e9 / timed(lambda: other.copy_(on_device))
    square = torch.rand(SIDE, SIDE, device="cuda") * 2 - 1
    yield "product", 2 * SIDE**3 / 1e12 / timed(lambda: square @ square.T)
    del square

    x, y = (torch.from_numpy(numpy.random.rand(ROWS).astype("f4")) for _ in range(2))
    yield "saxpy", ROWS / 1e6 / timed(lambda: torch.add(y.cuda(), x.cuda(), alpha=2).cpu())

    def chain():
        a, b = x.cuda(), y.cuda()
        for _ in range(3):
            a = torch.add(b, a, alpha=2)
        return a.cpu()

    def hops():
        a = x
        for _ in range(3):
            a = torch.add(y.cuda(), a.cuda(), alpha=2).cpu()

    yield "chain", ROWS / 1e6 / timed(chain)
    yield "hops", ROWS / 1e6 / timed(hops)

    corpus = (torch.rand(CORPUS, DIM, device="cuda") * 2 - 1).half()
    queries = (torch.rand(QUERIES, DIM, device="cuda") * 2 - 1).half()
    yield "top_k", 1e3 * timed(lambda: torch.topk(queries @ corpus.T, K))
    del corpus, queries

    pictures = torch.randint(0, 255, (PICTURES, 1080, 1920, 3), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406], device="cuda").view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225], device="cuda").view(1, 3, 1, 1)

    def resize():
        floats = pictures.cuda().permute(0, 3, 1, 2).float() / 255
        small = torch.nn.functional.interpolate(floats, (224, 224), mode="bilinear", align_corners=False)
        return ((small - mean) / deviation).cpu()

    yield "resize", PICTURES / timed(resize)


def cupy_jobs():
    import cupy

    saxpy = cupy.ElementwiseKernel("float32 a, float32 x, float32 y", "float32 z", "z = a * x + y", "saxpy")
    x, y = (numpy.random.rand(ROWS).astype("f4") for _ in range(2))
    yield "saxpy", ROWS / 1e6 / median(lambda: cupy.asnumpy(saxpy(2, cupy.asarray(x), cupy.asarray(y))))

    def chain():
        a, b = cupy.asarray(x), cupy.asarray(y)
        for _ in range(3):
            a = saxpy(2, a, b)
        return cupy.asnumpy(a)

    yield "chain", ROWS / 1e6 / median(chain)


def main():
    for system, jobs in [("torch", torch_jobs), ("cupy", cupy_jobs)]:
        try:
            for case, figure in jobs():
                print(system, case, figure, flush=True)
        except Exception as error:
            print(f"{system}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
