"""First-come batches of 32 on one thread of onnxruntime, padded to the longest of each: documents per CPU-second.
Arguments: a bundle with a graph that takes `input_ids` and `attention_mask`, then the tokens of each document."""
import sys
import tarfile
import time

import numpy as np
import onnxruntime as ort

BATCH = 32
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
with tarfile.open(sys.argv[1]) as bundle:
    graph = bundle.extractfile("model.onnx").read()
session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
lengths = [int(length) for length in sys.argv[2].split(",")]
random = np.random.default_rng(1)


def batch(lengths):
    mask = np.arange(max(lengths))[None, :] < np.array(lengths)[:, None]
    ids = random.integers(1_000, 20_000, mask.shape, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


batches = [batch(lengths[at:at + BATCH]) for at in range(0, len(lengths), BATCH)]
session.run(None, batches[0])
begin = time.process_time()
for inputs in batches:
    session.run(None, inputs)
rate = len(lengths) / (time.process_time() - begin)
padded = sum(inputs["input_ids"].size for inputs in batches)
print(f"first-come batches of {BATCH}: {padded / sum(lengths) - 1:.0%} padding, {rate:.1f}")
