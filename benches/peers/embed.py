"""The benchmark `embed`: `embed.py daft|ray|alone MODEL DOCUMENTS BATCH`; prints lines of `name value`.

`alone` is the model without a system around it: one replica in one process."""

import glob
import os
import sys
import tempfile
import time

SYSTEM, MODEL, DOCUMENTS, BATCH = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))  # for the workers

import numpy
from minilm import WIDTH, Encoder, write_onnx

REPLICAS = 2


def alone(times):
    import pyarrow.parquet

    texts = pyarrow.parquet.read_table(sorted(glob.glob(DOCUMENTS + "/*"))[0])["text"].to_pylist()
    encoder = Encoder(MODEL, times)
    encoder.embed(texts[:BATCH])
    started = time.monotonic()
    for at in range(0, len(texts), BATCH):
        encoder.embed(texts[at : at + BATCH])
    print("alone", len(texts) / (time.monotonic() - started))


def on_daft(times):
    import daft
    from daft import DataType

    @daft.cls(max_concurrency=REPLICAS, cpus=0.5)
    class Embed:
        def __init__(self):
            self.encoder = Encoder(MODEL, times)

        @daft.method.batch(return_dtype=DataType.embedding(DataType.float32(), WIDTH), batch_size=BATCH)
        def embed(self, text):
            return self.encoder.embed(text.to_pylist())

    daft.set_runner_ray()
    # A task for each file, as the others have it; Daft would read all of these small ones in one.
    daft.set_execution_config(scan_tasks_min_size_bytes=0, enable_scan_task_split_and_merge=False)
    documents = daft.read_parquet(DOCUMENTS + "/*.parquet")
    answer = documents.select(documents["id"], Embed().embed(documents["text"]).alias("vector"))
    return lambda: answer.sort("id").to_arrow()["vector"].combine_chunks().storage.flatten().to_numpy()


def on_ray_data(times):
    import ray.data

    class Embed:
        def __init__(self):
            self.encoder = Encoder(MODEL, times)

        def __call__(self, batch):
            return {"id": batch["id"], "vector": self.encoder.embed(list(batch["text"]))}

    def run():
        # A block for each batch: Ray Data would read all of these small files into one, for one actor.
        documents = ray.data.read_parquet(DOCUMENTS).repartition(target_num_rows_per_block=BATCH)
        answer = documents.map_batches(Embed, batch_size=BATCH, concurrency=REPLICAS, num_cpus=0.5).take_all()
        return numpy.concatenate([row["vector"] for row in sorted(answer, key=lambda row: row["id"])])

    return run


def main():
    write_onnx(MODEL)
    with tempfile.TemporaryDirectory() as times:
        if SYSTEM == "alone":
            return alone(times)

        import ray

        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        run = on_daft(times) if SYSTEM == "daft" else on_ray_data(times)
        started = time.monotonic()
        vectors = run().reshape(-1, WIDTH)
        print("rate", len(vectors) / (time.monotonic() - started))
        files = [open(path).read().split() for path in glob.glob(times + "/*")]
        waited, worked = (sum(float(file[at]) for file in files) for at in range(2))
        print("replicas", len(files))
        print("waited", 100 * waited / (waited + worked))
        # That all have computed the same: the sum over documents of the products with the one before.
        print("check", float((vectors[1:] * vectors[:-1]).sum()))


if __name__ == "__main__":
    main()
