"""Makes the models that the tests upload: small.tar and small-2.tar, a transformer-like classifier with two sets of
random weights; vector.tar, its pooled layer as an encoder; bad.tar, which hangs, panics or asks for a GiB at will.

Needs onnx and numpy. The same bytes come out each time. usage: small_models.py FOLDER
"""
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from onnx import TensorProto as T
from onnx import checker, helper as h, numpy_helper as nh

VOCABULARY, HIDDEN, LABELS = 2048, 32, ["calm", "urgent", "angry"]
# Hashes of the trigrams "@@H", "@@A" and "@@P" with 8192 ids.
BAD_IDS = 8192


def trigram(text):
    a, b, c = text.encode()
    return (a * 65599 + b * 257 + c) & (BAD_IDS - 1)


class Graph:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.count = [], [], 0

    def const(self, value, dtype=np.float32):
        self.count += 1
        name = f"w{self.count}"
        self.weights.append(nh.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def random(self, *shape):
        return self.const(self.rng.standard_normal(shape) / np.sqrt(shape[0]))

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        out = f"t{self.count}"
        self.nodes.append(h.make_node(kind, list(inputs), [out], **attributes))
        return out

    def model(self, inputs, last, output, columns):
        self.nodes.append(h.make_node("Identity", [last], [output]))
        ids = [h.make_tensor_value_info(name, T.INT64, ["N", "W"]) for name in inputs]
        out = h.make_tensor_value_info(output, T.FLOAT, ["N", columns])
        graph = h.make_graph(self.nodes, "small", ids, [out], self.weights)
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model)
        return model.SerializeToString()


def pooled(g):
    """One attention layer with a mask, then the mean of what is no padding."""
    x = g.op("Gather", g.const(g.rng.standard_normal((VOCABULARY, HIDDEN))), "ids", axis=0)
    mask = g.op("Cast", "mask", to=T.FLOAT)
    q, k, v = (g.op("MatMul", x, g.random(HIDDEN, HIDDEN)) for _ in range(3))
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1]))
    scores = g.op("Mul", scores, g.const(1 / np.sqrt(HIDDEN)))
    hidden = g.op("Mul", g.op("Sub", mask, g.const(1.0)), g.const(10_000.0))
    scores = g.op("Add", scores, g.op("Unsqueeze", hidden, g.const([1], np.int64)))
    x = g.op("Add", x, g.op("MatMul", g.op("Softmax", scores, axis=-1), v))
    wide = g.op("Unsqueeze", mask, g.const([2], np.int64))
    total = g.op("ReduceSum", g.op("Mul", x, wide), g.const([1], np.int64), keepdims=0)
    count = g.op("ReduceSum", mask, g.const([1], np.int64), keepdims=1)
    return g.op("Div", total, g.op("Add", count, g.const(1e-6)))


def small(seed):
    g = Graph(seed)
    logits = g.op("MatMul", pooled(g), g.random(HIDDEN, len(LABELS)))
    return g.model(["ids", "mask"], g.op("Softmax", logits, axis=-1), "probs", len(LABELS))


def vector():
    g = Graph(1)
    return g.model(["ids", "mask"], pooled(g), "vector", HIDDEN)


def bad():
    g = Graph(1)

    def flag(text):
        same = g.op("Cast", g.op("Equal", "ids", g.const(trigram(text), np.int64)), to=T.INT64)
        return g.op("ReduceMax", same, keepdims=0)

    def times(value, factor):
        return g.op("Mul", value, g.const(factor, np.int64))

    def filled(*sizes):
        dims = [g.op("Reshape", size, g.const([1], np.int64)) for size in sizes]
        ones = g.op("ConstantOfShape", g.op("Concat", *dims, axis=0))
        return g.op("ReduceMax", ones, keepdims=0)

    def more(text, size):
        return g.op("Add", times(flag(text), size - 1), g.const(1, np.int64))

    body = h.make_graph(
        [h.make_node("Identity", ["go"], ["on"]), h.make_node("Add", ["sum", "one"], ["next"])],
        "body",
        [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("go", T.BOOL, []),
         h.make_tensor_value_info("sum", T.FLOAT, [])],
        [h.make_tensor_value_info("on", T.BOOL, []), h.make_tensor_value_info("next", T.FLOAT, [])],
        [nh.from_array(np.float32(1), "one")])
    rounds = g.op("Loop", times(flag("@@H"), 2**31 - 1), g.const(True, np.bool_), g.const(0.0), body=body)
    gib = filled(more("@@A", 2**28))
    # 2^63 bytes: no allocation can be asked for that.
    beyond = filled(more("@@P", 2**30), more("@@P", 2**30), more("@@P", 2))
    odd = g.op("Add", g.op("Add", rounds, gib), beyond)
    mean = g.op("ReduceMean", g.op("Cast", "ids", to=T.FLOAT), axes=[1], keepdims=1)
    return g.model(["ids"], g.op("Add", mean, g.op("Mul", odd, g.const(0.0))), "score", 1)


def bundle(path, manifest, onnx):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in [("manifest.json", json.dumps(manifest).encode()), ("model.onnx", onnx)]:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            tar.addfile(info, io.BytesIO(content))


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    fed = {"precision": "fp32", "tokenizer": {"kind": "trigrams", "vocabulary": VOCABULARY}, "tokens_max": 256,
           "inputs": {"ids": "ids", "mask": "mask"}}
    classifier = {"task": "classifier", "labels": LABELS, "output": "probs", **fed}
    bundle(folder / "small.tar", classifier, small(7))
    bundle(folder / "small-2.tar", classifier, small(8))
    bundle(folder / "vector.tar", {"task": "encoder", "output": "vector", **fed}, vector())
    bundle(folder / "bad.tar", {
        "task": "encoder", "output": "score", "precision": "fp32", "tokens_max": 256, "inputs": {"ids": "ids"},
        "tokenizer": {"kind": "trigrams", "vocabulary": BAD_IDS}}, bad())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
