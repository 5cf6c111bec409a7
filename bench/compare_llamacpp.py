#!/usr/bin/env python3
"""Decode and prefill of `awq bench` beside llama.cpp's llama-bench on the same machine, in one run.

    bench/compare_llamacpp.py --awq build/awq --llama-bench LLAMA/bin/llama-bench \
        --gguf model-Q4_0.gguf -- MODEL --head-bits 8
    bench/compare_llamacpp.py ... --gguf llama1b-Q4_0.gguf -- --random-weights llama1b.json --head-bits 8

Everything after -- goes to `awq bench`. The two take turns, --rounds times; the medians are compared. llama.cpp gets the
number of threads, of 1 to the cores this process may use, that is fastest for it, separately for prefill and decode;
several --llama-bench (builds by other compilers, say) compete likewise. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys


def run_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.stderr.write(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}\n")
        return None
    return json.loads(done.stdout)


def llama(bench, gguf, threads, prompt, decode, context):
    """tokens/s of one repetition, or None where this build does not run."""
    command = [bench, "-m", gguf, "-t", str(threads), "-r", "1", "-o", "json", "-p", str(prompt), "-n", str(decode)]
    rows = run_json(command + (["-d", str(context)] if decode else []))
    return None if not rows else rows[0]["avg_ts"]


def best_setting(benches, gguf, cores, **what):
    """(build, threads) with the highest rate in one trial each."""
    trials = {(b, t): llama(b, gguf, t, **what) for b in benches for t in range(1, cores + 1)}
    trials = {key: rate for key, rate in trials.items() if rate}
    if not trials:
        sys.exit("no llama-bench ran")
    return max(trials, key=trials.get)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--awq", default="build/awq")
    parser.add_argument("--llama-bench", action="append", required=True)
    parser.add_argument("--gguf", required=True, help="the model or shape for llama.cpp")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("rest", nargs="+", help="what `awq bench` gets, after --")
    o = parser.parse_args()

    cores = len(os.sched_getaffinity(0))
    prefill = dict(prompt=o.prompt, decode=0, context=0)
    decode = dict(prompt=0, decode=o.decode, context=o.context)
    setting = {name: best_setting(o.llama_bench, o.gguf, cores, **what) for name, what in (("prefill", prefill), ("decode", decode))}
    theirs = {"prefill": [], "decode": []}
    ours = []
    for _ in range(o.rounds):
        for name, what in (("prefill", prefill), ("decode", decode)):
            bench, threads = setting[name]
            theirs[name].append(llama(bench, o.gguf, threads, **what))
        ours.append(run_json([o.awq, "bench", *o.rest, "--json", "-q", "--repeat", "3", "--prompt-tokens", str(o.prompt),
                              "--context", str(o.context), "--decode-tokens", str(o.decode)]))
        if ours[-1] is None:
            sys.exit(1)

    def median(values):
        return statistics.median(values)

    result = {"gguf": os.path.basename(o.gguf), "awq": o.rest, "rounds": o.rounds, "kernels": ours[0]["kernels"]}
    for name in ("prefill", "decode"):
        mine = median([r[f"{name}_tokens_per_s"] for r in ours])
        peer = median(theirs[name])
        result[name] = {"awq": round(mine, 2), "llamacpp": round(peer, 2), "ratio": round(mine / peer, 2),
                        "llamacpp_threads": setting[name][1], "llamacpp_build": setting[name][0]}
    for key in ("read_bytes_per_s", "int8_ops_per_s", "bandwidth_fraction", "operation_fraction", "load_seconds"):
        result[key] = median([r[key] for r in ours])
    for key in ("rss_bytes", "peak_rss_bytes"):
        result[key] = max(r[key] for r in ours)
    for key in ("weight_bytes", "cache_bytes"):
        result[key] = ours[0][key]
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
