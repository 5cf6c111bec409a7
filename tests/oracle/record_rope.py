#!/usr/bin/env python3
"""Records tests/data/model/rope.json: the inverse frequencies transformers computes for published rope settings.

    record_rope.py [-o tests/data/model/rope.json]

Each case is a part of config.json and "inv_freq", head_dim / 2 numbers as transformers has them (computed in float32).
"""
import argparse
import json
import pathlib

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA31 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}
CASES = {
    "default": dict(head_dim=64, rope_theta=10000.0, rope_scaling=None, max_position_embeddings=2048),
    "smollm2": dict(head_dim=64, rope_theta=100000.0, rope_scaling=None, max_position_embeddings=8192),
    "linear-4": dict(head_dim=128, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0},
                     max_position_embeddings=16384),
    "llama-3.1-8b": dict(head_dim=128, rope_theta=500000.0, rope_scaling=LLAMA31, max_position_embeddings=131072),
    "llama-3.2-1b": dict(head_dim=64, rope_theta=500000.0, rope_scaling={**LLAMA31, "factor": 32.0},
                         max_position_embeddings=131072),
    "llama-3.1-in-version-5": dict(head_dim=128, rope_parameters={**LLAMA31, "rope_theta": 500000.0},
                                   max_position_embeddings=131072),
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--out", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "data" / "model" / "rope.json")
    out = p.parse_args().out
    cases = []
    for name, settings in CASES.items():
        heads = 8
        size = dict(hidden_size=heads * settings["head_dim"], num_attention_heads=heads, num_key_value_heads=heads)
        config = LlamaConfig(**size, **json.loads(json.dumps(settings)))
        inv_freq = LlamaRotaryEmbedding(config=config).inv_freq.double().tolist()
        cases.append({"name": name, "config": settings, "inv_freq": inv_freq})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"recorded_by": "tests/oracle/record_rope.py", "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
