"""A bare onnxruntime loop on one thread: documents per CPU-second by batch, the best one last."""
import sys
import time

import numpy as np
import onnxruntime as ort

SECONDS = 0.7
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
rates = {}
for batch in (1, 8, 32, 64, 256):
    ids = np.random.default_rng(1).integers(0, 8192, (batch, 128), dtype=np.int64)
    session.run(None, {"ids": ids})
    documents, begin = 0, time.process_time()
    while time.process_time() - begin < SECONDS:
        session.run(None, {"ids": ids})
        documents += batch
    rates[batch] = documents / (time.process_time() - begin)
print("bare loop:", ", ".join(f"{batch}: {rate:.0f}" for batch, rate in rates.items()), "best", round(max(rates.values())))
