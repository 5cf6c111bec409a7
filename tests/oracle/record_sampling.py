#!/usr/bin/env python3
"""Records tests/data/runtime/sampling.json: what transformers makes of logits before it draws.

    record_sampling.py [-o tests/data/runtime/sampling.json]

Each case: settings, the tokens seen so far, logits, and "probabilities" (zero for tokens that may not be drawn), by the
processors that transformers' generate() itself builds from these settings, in its order. Logits have no ties, which transformers
and awq treat differently.
"""
import argparse
import json
import pathlib

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList

VOCAB = 40
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 0.8, "top_k": 1},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 2.0, "top_p": 0.5},
    {"temperature": 1.0, "top_p": 0.01},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.5, "min_p": 0.3},
    {"temperature": 1.0, "repetition_penalty": 1.5},
    {"temperature": 1.0, "repetition_penalty": 0.7},
    {"temperature": 0.9, "top_k": 12, "top_p": 0.7},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
]


def model():
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                        num_attention_heads=1))


def processors(llama, settings):
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **settings})
    return llama._get_logits_processor(generation_config=config, input_ids_seq_length=6, device="cpu",
                                       logits_processor=LogitsProcessorList())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--out", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "data" / "runtime" / "sampling.json")
    out = p.parse_args().out
    g = torch.Generator().manual_seed(7)
    llama, cases = model(), []
    for settings in SETTINGS:
        logits = (2.5 * torch.randn(1, VOCAB, generator=g)).round(decimals=3)
        logits += torch.arange(VOCAB) * 1e-5  # rounded for the file, distinct all the same
        seen = torch.randint(0, VOCAB, (1, 6), generator=g)
        seen[0, 1] = logits.argmax()  # the penalty must bite
        seen[0, 2] = seen[0, 1]       # and only once
        scores = processors(llama, settings)(seen, logits.clone())
        cases.append({"settings": settings, "seen": seen[0].tolist(), "logits": logits[0].tolist(),
                      "probabilities": torch.softmax(scores.double(), -1)[0].tolist()})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"recorded_by": "tests/oracle/record_sampling.py", "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
