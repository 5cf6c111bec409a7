#!/usr/bin/env python3
"""AutoAWQ's rule on one group of linears that share an input, in plain numpy: the floor our own search must not fall below.

    autoawq_rule.py --record DIR     write the fixtures
    autoawq_rule.py FILE...          recompute fixtures and compare with what they hold

Written from the paper (Lin et al., MLSys 2024, section 3.2) and from what AutoAWQ 0.2.9's quantizer is known to do:
  scales  20 exponents r = 0, 0.05, ... 0.95; s = x^r / (w^(1-r) + 1e-4), at least 1e-4, divided by sqrt(max * min), where x is the
          mean magnitude of each input channel and w the mean over all outputs of |W| relative to its group's largest. The r with
          the least mean squared error of the linears' outputs wins.
  clip    on the scaled weights, except q and k: each group is clamped to +-m with m = 1, 0.95, ... 0.55 of its largest magnitude;
          the m with the least mean squared error of that group's own contribution to the outputs wins, over every (T // 512)-th
          token.
  round   asymmetric, scale = (max - min) / (2^bits - 1), integer zero point, no widening of the range to include 0.
Each fixture holds
    X F16 [T, K], <linear>.weight F16 [N, K]      the inputs; all arithmetic is on these values widened to float64
    scales F32 [K], ratio F64 [1]                 chosen scales and exponent
    <linear>.gram_loss F64 [1], gram_loss F64 [1] tr(E G E^T) after scale and clip, one linear and their sum; G = X^T X [K, K],
                                                  E = W' / s - W, W' the rounded scaled weights
    gram_loss_rtn, gram_loss_unclipped F64 [1]    the same for plain rounding and for scales without clipping
and, as metadata, bits and group_size.
"""
import argparse
import pathlib
import sys

import numpy as np
import safetensors_numpy

EXPONENTS = [i / 20 for i in range(20)]
SHRINKS = [1 - i / 20 for i in range(10)]
TOKENS_FOR_CLIP = 512

# name: (linears and their outputs, K, group size, bits, what is unusual about the data)
CASES = {
    "qkv-mha-w4g16": ({"q_proj": 64, "k_proj": 64, "v_proj": 64}, 64, 16, 4, ""),
    "qkv-gqa-w3g32": ({"q_proj": 64, "k_proj": 32, "v_proj": 32}, 96, 32, 3, ""),
    "gate-up-w4g32": ({"gate_proj": 96, "up_proj": 96}, 64, 32, 4, "correlated"),
    "gate-up-w3g16": ({"gate_proj": 64, "up_proj": 64}, 96, 16, 3, "heavy tails"),
    "down-w3g32": ({"down_proj": 64}, 96, 32, 3, "one-sided inputs"),
    "down-w4g32": ({"down_proj": 64}, 128, 32, 4, "heavy tails"),
    "o-w3g16": ({"o_proj": 64}, 64, 16, 3, "correlated"),
    "o-w4g32": ({"o_proj": 32}, 128, 32, 4, "one-sided weights"),
}


def pseudo_quantize(w, bits, group):
    """W [N, K] rounded and widened again.

    A group clamped to +-m on both sides has its zero point exactly halfway between two integers, so the last bit of m decides it:
    two correct implementations agree on a loss after the clip only within about 0.3 %.
    """
    v = w.reshape(len(w), -1, group)
    high, low, levels = v.max(-1, keepdims=True), v.min(-1, keepdims=True), 2 ** bits - 1
    scale = np.maximum(high - low, 1e-5) / levels
    zero = np.clip(-np.rint(low / scale), 0, levels)
    return ((np.clip(np.rint(v / scale) + zero, 0, levels) - zero) * scale).reshape(w.shape)


def candidates(x, linears, group):
    """(exponent, scales [K]) for the whole grid"""
    w = np.concatenate(list(linears.values()))
    v = np.abs(w.reshape(len(w), -1, group))
    w_mean = (v / (v.max(-1, keepdims=True) + 1e-6)).reshape(w.shape).mean(0)
    x_mean = np.abs(x).mean(0)
    for r in EXPONENTS:
        s = np.maximum(x_mean ** r / (w_mean ** (1 - r) + 1e-4), 1e-4)
        yield r, s / np.sqrt(s.max() * s.min())


def search_scales(x, linears, bits, group):
    best = (np.inf, None, None)
    for r, s in candidates(x, linears, group):
        error = sum(np.square(x @ (pseudo_quantize(w * s, bits, group) / s - w).T).sum() for w in linears.values())
        if error < best[0]:
            best = (error, r, s)
    return best[1], best[2]


def search_clip(x, w, bits, group):
    """Clamped W; `x` and `w` already scaled."""
    x = x[::max(1, len(x) // TOKENS_FOR_CLIP)].reshape(-1, w.shape[1] // group, group)
    v = w.reshape(len(w), -1, group)
    largest = np.abs(v).max(-1, keepdims=True)
    best, bound = np.full(largest.shape, np.inf), largest.copy()
    for shrink in SHRINKS:
        m = shrink * largest
        change = pseudo_quantize(np.clip(v, -m, m).reshape(w.shape), bits, group).reshape(v.shape) - v
        error = np.square(np.einsum("tgi,ngi->tng", x, change)).mean(0)[..., None]
        better = error < best
        best, bound = np.where(better, error, best), np.where(better, m, bound)
    return np.clip(v, -bound, bound).reshape(w.shape)


def gram_loss(error, gram):
    return float(np.einsum("nk,kl,nl->", error, gram, error))


def rule(x, linears, bits, group):
    """X [T, K], {name: W [N, K]} -> everything a fixture holds beyond its inputs"""
    gram = x.T @ x
    ratio, s = search_scales(x, linears, bits, group)
    s = s.astype("<f4").astype("f8")  # what the fixture holds, so that the losses are those of the recorded scales
    out = {"scales": s.astype("<f4"), "ratio": np.array([ratio])}
    total = rtn = unclipped = 0.0
    for name, w in linears.items():
        scaled = w * s
        clipped = scaled if name in ("q_proj", "k_proj") else search_clip(x / s, scaled, bits, group)
        loss = gram_loss(pseudo_quantize(clipped, bits, group) / s - w, gram)
        out[f"{name}.gram_loss"] = np.array([loss])
        total += loss
        rtn += gram_loss(pseudo_quantize(w, bits, group) - w, gram)
        unclipped += gram_loss(pseudo_quantize(scaled, bits, group) / s - w, gram)
    return {**out, "gram_loss": np.array([total]), "gram_loss_rtn": np.array([rtn]), "gram_loss_unclipped": np.array([unclipped])}


def draw(rng, outputs, inputs, kind, tokens=200):
    """Inputs with a few large channels, as real activations have, and weights that are smaller where the inputs are large."""
    channel = np.exp(0.6 * rng.standard_normal(inputs))
    channel[rng.choice(inputs, max(2, inputs // 32), replace=False)] *= rng.uniform(8, 25)
    x = rng.standard_t(3, (tokens, inputs)) if kind == "heavy tails" else rng.standard_normal((tokens, inputs))
    if kind == "correlated":
        x = x + rng.standard_normal((tokens, inputs // 8)) @ rng.standard_normal((inputs // 8, inputs)) / 2
    if kind == "one-sided inputs":
        x = np.maximum(x, -0.2)
    linears = {}
    for name, n in outputs.items():
        w = rng.standard_normal((n, inputs)) * np.exp(0.3 * rng.standard_normal((n, 1))) / channel ** 0.3
        if kind == "one-sided weights":
            w[::2] = np.abs(w[::2]) + 0.3  # all-positive groups, whose zero point is clamped and whose top is lost
        linears[name] = (0.05 * w).astype("<f2")
    return (x * channel).astype("<f2"), linears


def record(directory):
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, (outputs, inputs, group, bits, kind)) in enumerate(CASES.items()):
        x, linears = draw(np.random.default_rng(seed), outputs, inputs, kind)
        found = rule(x.astype("f8"), {n: w.astype("f8") for n, w in linears.items()}, bits, group)
        file = directory / f"{name}.safetensors"
        safetensors_numpy.write(file, {"X": x, **{f"{n}.weight": w for n, w in linears.items()}, **found},
                                {"format": "pt", "bits": str(bits), "group_size": str(group)})
        print(f"{name:14} {file.stat().st_size / 1024:6.1f} KiB  r {found['ratio'][0]:.2f}  loss {found['gram_loss'][0]:10.4g}  "
              f"unclipped {found['gram_loss_unclipped'][0]:10.4g}  rtn {found['gram_loss_rtn'][0]:10.4g}")


def check(file):
    held, _, metadata = safetensors_numpy.read(file)
    linears = {n[:-len(".weight")]: w.astype("f8") for n, w in held.items() if n.endswith(".weight")}
    linears = {n: linears[n] for n in sorted(linears, key=["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "o_proj",
                                                           "down_proj"].index)}
    found = rule(held["X"].astype("f8"), linears, int(metadata["bits"]), int(metadata["group_size"]))
    wrong = [n for n, v in found.items() if not np.allclose(v, held[n], rtol=3e-3 if "loss" in n else 1e-6)]
    print(f"{file}: {'differs in ' + ', '.join(wrong) if wrong else 'ok'}")
    return not wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*", type=pathlib.Path)
    p.add_argument("--record", type=pathlib.Path, metavar="DIR")
    a = p.parse_args()
    if a.record:
        record(a.record)
    elif not a.files:
        p.error("give --record DIR or fixtures to check")
    sys.exit(0 if all([check(f) for f in a.files]) else 1)


if __name__ == "__main__":
    main()
