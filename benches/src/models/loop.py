"""A bare onnxruntime loop on one thread: looks for the best batch, then says its documents per CPU-second, last.

The best of several figures is too good by what they vary, so the figure of the best batch is taken anew.
"""
import sys
import time

import numpy as np
import onnxruntime as ort

LOOK_SECONDS = 0.4
SECONDS = 2.0
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])


def rate(batch, seconds):
    ids = np.random.default_rng(1).integers(0, 8192, (batch, 128), dtype=np.int64)
    session.run(None, {"ids": ids})
    documents, begin = 0, time.process_time()
    while time.process_time() - begin < seconds:
        session.run(None, {"ids": ids})
        documents += batch
    return documents / (time.process_time() - begin)


rates = {batch: rate(batch, LOOK_SECONDS) for batch in (1, 8, 32, 64, 256)}
best = max(rates, key=rates.get)
print("bare loop:", ", ".join(f"{batch}: {rate:.0f}" for batch, rate in rates.items()), "best", best, "anew", round(rate(best, SECONDS)))
