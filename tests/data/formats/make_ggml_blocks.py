#!/usr/bin/env python3
"""Records what the `gguf` package makes of random blocks of every ggml type awq reads.

Needs the PyPI packages gguf and numpy. Usage: make_ggml_blocks.py > ggml_blocks.json
Output: {type: [bytes as hex, weights as hex of little-endian float32]}, two blocks (64 weights for plain types).
"""
import json
import gguf, numpy as np

TYPES = "F32 F16 BF16 F64 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()
# Offsets of the fp16 factors within a block: random bytes there could be NaN.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
          "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}


def blocks(name, rng):
    kind = gguf.GGMLQuantizationType[name]
    if name not in HALVES:
        w = rng.standard_normal(64).astype(np.float32)
        if name == "F64":
            return w.astype(np.float64).tobytes(), w
        raw = gguf.quantize(w, kind)
        return raw.tobytes(), gguf.dequantize(raw, kind).astype(np.float32)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = rng.integers(0, 256, (2, size), dtype=np.uint8)
    for at in HALVES[name]:
        raw[:, at:at + 2] = rng.standard_normal(2).astype("<f2").view(np.uint8).reshape(2, 2)
    if name == "MXFP4":  # exponents: subnormal, usual
        raw[:, 0] = [1, 121]
    return raw.tobytes(), gguf.dequantize(raw, kind).astype(np.float32)


rng = np.random.default_rng(20240607)
print(json.dumps({n: [b.hex(), w.astype("<f4").tobytes().hex()] for n, (b, w) in ((n, blocks(n, rng)) for n in TYPES)}, indent=1))
