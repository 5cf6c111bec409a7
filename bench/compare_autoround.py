#!/usr/bin/env python3
"""auto-round (PyPI) on the calibration tokens that `awq quantize` takes, so that both can be measured side by side.

    bench/compare_autoround.py MODEL --tokenizer tokenizer.json --calib calibration.jsonl -o OUT [--samples 128] [--seq-len 512]
                        [--bits 4] [--group-size 64] [--iters 200] [--format auto_gptq]

MODEL is a Hugging Face folder or a GGUF file, which transformers dequantizes; weights are tuned asymmetrically from fp16.
tokenizer.json is the one that `awq quantize MODEL` writes. `awq eval OUT` then reads the result as it reads its own. Needs
auto-round, torch, transformers, tokenizers, and gguf for GGUF files. Prints one JSON object.
"""

import argparse
import json
import os
import time


def calibration_ids(path, tokenizer_file, samples, seq_len):
    """The sequences of `awq quantize`: records joined without anything between them, cut, evenly spaced."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    stream = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            stream += tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
    whole = len(stream) // seq_len
    if whole < samples:
        raise SystemExit(f"{path}: expected {samples} sequences of {seq_len} tokens, got {whole}")
    step = whole // samples
    return [stream[i * step * seq_len:(i * step + 1) * seq_len] for i in range(samples)]


def load(path):
    import torch
    from transformers import AutoModelForCausalLM

    if path.endswith(".gguf"):
        folder, name = os.path.split(os.path.abspath(path))
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float16)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float16)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--tokenizer", required=True)
    options.add_argument("--calib", required=True)
    options.add_argument("-o", "--output", required=True)
    options.add_argument("--samples", type=int, default=128)
    options.add_argument("--seq-len", type=int, default=512)
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--group-size", type=int, default=64)
    options.add_argument("--iters", type=int, default=200)
    options.add_argument("--format", default="auto_gptq")
    args = options.parse_args()

    import auto_round
    import torch
    from transformers import PreTrainedTokenizerFast

    ids = calibration_ids(args.calib, args.tokenizer, args.samples, args.seq_len)
    model = load(args.model)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=args.tokenizer)
    begin = time.time()
    rounder = auto_round.AutoRound(
        model, tokenizer, bits=args.bits, group_size=args.group_size, sym=False, iters=args.iters, nsamples=args.samples,
        seqlen=args.seq_len, batch_size=8, dataset=[torch.tensor([row]) for row in ids])
    rounder.quantize_and_save(args.output, format=args.format)
    print(json.dumps({"auto_round": auto_round.__version__, "torch": torch.__version__, "output": args.output,
                      "seconds": round(time.time() - begin, 1), "calibration_tokens": args.samples * args.seq_len,
                      "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}))


if __name__ == "__main__":
    main()
