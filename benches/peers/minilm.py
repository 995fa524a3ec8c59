"""MiniLM for the peers: the same weights on onnxruntime, with the fused operators that its optimiser would put in place."""

import os
import time
from pathlib import Path

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

HEADS, LAYERS, WIDTH, TOKENS = 12, 6, 384, 256
MICROSOFT = "com.microsoft"
AT_ONCE = 32


def write_onnx(folder):
    """Writes model.onnx beside model.safetensors, unless it is there."""
    path = Path(folder) / "model.onnx"
    if path.exists():
        return
    weights = load_file(Path(folder) / "model.safetensors")
    nodes, tensors = [], []

    def tensor(name, values):
        tensors.append(numpy_helper.from_array(numpy.ascontiguousarray(values), name))
        return name

    def node(kind, inputs, output, domain="", **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def matrix(x, name):
        return node("MatMul", [x, tensor(name + ".weight", weights[name + ".weight"].T)], name)

    def bias(name):
        return tensor(name + ".bias", weights[name + ".bias"])

    def norm(added, x, at, name):
        names = [tensor(f"{at}.{name}.{part}", weights[f"{at}.{name}.{part}"]) for part in ("weight", "bias")]
        return node("SkipLayerNormalization", [added, x, *names], f"{at}.{name}", MICROSOFT, epsilon=1e-12)

    table = "embeddings.{}_embeddings.weight".format
    words = node("Gather", [tensor("words", weights[table("word")] + weights[table("token_type")][0]), "ids"], "word")
    zero, one, two = (tensor(str(axis), numpy.array([axis])) for axis in range(3))
    length = node("Gather", [node("Shape", ["ids"], "shape"), one], "length")
    places = node("Slice", [tensor("places", weights[table("position")]), zero, length], "place")
    names = [tensor(part, weights["embeddings.LayerNorm." + part]) for part in ("weight", "bias")]
    summed = node("Add", [words, places], "sum")
    x = node("LayerNormalization", [summed, *names], "embedded", epsilon=1e-12, axis=-1)
    mask32 = node("Cast", ["mask"], "mask32", to=TensorProto.INT32)
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        parts = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
        attention = [
            tensor(f"{at}.qkv", numpy.concatenate([weights[part + ".weight"].T for part in parts], 1)),
            tensor(f"{at}.qkv.bias", numpy.concatenate([weights[part + ".bias"] for part in parts])),
        ]
        mixed = node("Attention", [x, *attention, mask32], f"{at}.mixed", MICROSOFT, num_heads=HEADS)
        dense = f"{at}.attention.output.dense"
        mixed = node("Add", [matrix(mixed, dense), bias(dense)], f"{dense}.added")
        x = norm(mixed, x, f"{at}.attention.output", "LayerNorm")
        dense = f"{at}.intermediate.dense"
        up = node("BiasGelu", [matrix(x, dense), bias(dense)], f"{dense}.gelu", MICROSOFT)
        dense = f"{at}.output.dense"
        x = norm(node("Add", [matrix(up, dense), bias(dense)], f"{dense}.added"), x, f"{at}.output", "LayerNorm")
    mask = node("Cast", ["mask"], "float", to=TensorProto.FLOAT)
    kept = node("Mul", [x, node("Unsqueeze", [mask, two], "column")], "kept")
    mean = node("ReduceSum", [kept, one], "total", keepdims=0)  # its length becomes 1, so that it need not be divided
    node("Div", [mean, node("ReduceL2", [mean, one], "norm", keepdims=1)], "vector")

    shape = ["texts", "tokens"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("ids", "mask")]
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["texts", WIDTH])]
    graph = helper.make_graph(nodes, "minilm", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path) + ".part")
    os.rename(str(path) + ".part", path)


class Encoder:
    """One replica, on one thread. Leaves in a file of `times` how long it waited between batches, and how long it worked."""

    def __init__(self, folder, times):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", options)
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.tokenizer.enable_truncation(TOKENS)
        self.tokenizer.enable_padding()
        self.times = Path(times) / str(os.getpid())
        self.ended, self.waited, self.worked = None, 0.0, 0.0

    def embed(self, texts):
        started = time.monotonic()
        self.waited += started - (self.ended or started)
        vectors = numpy.empty((len(texts), WIDTH), numpy.float32)
        # As sentence-transformers does: by length, so that little is padded, and 32 at once.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for at in range(0, len(order), AT_ONCE):
            rows = order[at : at + AT_ONCE]
            found = self.tokenizer.encode_batch_fast([texts[row] for row in rows])
            ids, mask = (numpy.array([getattr(text, part) for text in found]) for part in ("ids", "attention_mask"))
            vectors[rows] = self.session.run(None, {"ids": ids, "mask": mask})[0]
        self.ended = time.monotonic()
        self.worked += self.ended - started
        self.times.write_text(f"{self.waited} {self.worked}")
        return vectors
