#!/usr/bin/env python3
"""lm-evaluation-harness over `awq serve` (its local-completions) against `awq eval` on the same questions.

Usage: lm_eval_server.py AWQ MODEL DATA_DIR TOKENIZER_DIR [--task arc_easy] [--items 50]
Needs lm-eval (0.4.13) with its API models (tenacity, aiohttp), transformers, and a folder with the model's tokenizer.json (awq
quantize writes one). Every answer of every question is one prompt: 50 questions of ARC are 200. The log-likelihoods of all must be
equal within 0.01, else it ends with 1.
"""
import argparse, json, os, pathlib, re, subprocess, sys, tempfile, threading
from lm_eval_tasks import MOST_LOGPROB, by_awq, by_harness, make_tasks


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for path in "awq", "model", "data", "tokenizer":
        parser.add_argument(path, type=pathlib.Path)
    parser.add_argument("--task", default="arc_easy")
    parser.add_argument("--items", type=int, default=50)
    o = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import lm_eval
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    server = subprocess.Popen([o.awq.resolve(), "serve", o.model, "--port", "0", "--name", "m", "--precision", "exact", "--kv-dtype", "float32",
                               "--kv-memory", "512MB"], stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if found := re.search(r"at (http://[^ /]+)", line):
            break
    else:
        sys.exit("the server did not start")
    threading.Thread(target=server.stderr.read, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            model = LocalCompletionsAPI(model="m", base_url=found.group(1) + "/v1/completions", tokenizer=str(o.tokenizer), tokenizer_backend="huggingface",
                                        num_concurrent=4, max_length=2048, batch_size=1)
            theirs = by_harness(model, scratch, make_tasks(scratch, o.data, [o.task])[o.task], o.items, 0)
            ours, _ = by_awq(o.awq.resolve(), o.model, o.data, o.task, o.items, scratch)
    finally:
        server.terminate()
        server.wait(60)
    assert ours.keys() == theirs.keys(), f"other questions: {len(ours)} here, {len(theirs)} there"
    far = [abs(a - b) for key in ours for a, b in zip(ours[key][0], theirs[key][0], strict=True)]
    ok = max(far) <= MOST_LOGPROB
    print(json.dumps({"ok": ok, "lm_eval": lm_eval.__version__, "task": o.task, "prompts": len(far), "largest_difference": max(far)}))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
