#!/usr/bin/env python3
"""Reads AutoAWQ "gemm" checkpoints in plain numpy: a second opinion on what the written bytes mean.

    awq_gemm_numpy.py DIR                        one line per quantized linear
    awq_gemm_numpy.py DIR --against DENSE_DIR    largest difference to a dense checkpoint; exit 1 above --tolerance
    awq_gemm_numpy.py DIR --dump OUT.safetensors every weight dense, in float32
    awq_gemm_numpy.py --self-test                the worked example of the layout

For y = x W^T with W [N outputs, K inputs] and groups of g inputs, a linear X is stored as
    X.qweight I32 [K, N/8], X.qzeros I32 [K/g, N/8], X.scales F16 [K/g, N]
and nibble i (bits 4i..4i+3) of word c belongs to output 8c + ORDER[i]. W[n, k] = (q - z) * s; z is stored as it is.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import safetensors_numpy

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def unpack(words):
    """I32 [rows, N/8] -> codes 0..15 as int32 [rows, N]"""
    words = np.ascontiguousarray(words, "<i4").view("<u4")
    codes = np.empty((words.shape[0], words.shape[1], 8), np.int32)
    for i, output in enumerate(ORDER):
        codes[:, :, output] = (words >> np.uint32(4 * i)) & np.uint32(15)
    return codes.reshape(words.shape[0], -1)


def pack(codes):
    """codes 0..15 [rows, N] -> I32 [rows, N/8]"""
    eights = np.asarray(codes).reshape(len(codes), -1, 8).astype(np.uint32)
    words = np.zeros(eights.shape[:2], np.uint32)
    for i, output in enumerate(ORDER):
        words |= eights[:, :, output] << np.uint32(4 * i)
    return words.view(np.int32)


def pack_linear(q, z, s):
    """q [N, K], z [N, G], s [N, G] -> the three tensors as stored"""
    return {"qweight": pack(q.T), "qzeros": pack(z.T), "scales": np.ascontiguousarray(s.T, "<f2")}


def dequantize(qweight, qzeros, scales):
    """-> W [N, K] float32. Exact: a code difference has 4 bits and a sign, an fp16 scale 11."""
    q, z = unpack(qweight), unpack(qzeros)
    if len(q) % len(z) or scales.shape != z.shape or q.shape[1] != z.shape[1]:
        raise SystemExit(f"qweight {qweight.shape}, qzeros {qzeros.shape} and scales {scales.shape} do not fit together")
    group = len(q) // len(z)
    return np.ascontiguousarray(((q - np.repeat(z, group, 0)) * np.repeat(scales.astype("<f4"), group, 0)).T)


def quantization_config(directory):
    """{bits, group_size, zero_point} from config.json or, in older checkpoints, quant_config.json."""
    found = json.loads((directory / "config.json").read_text()).get("quantization_config")
    beside = directory / "quant_config.json"
    if found is None and beside.exists():
        found = json.loads(beside.read_text())
    if found is None:
        raise SystemExit(f"{directory}: expected quantization_config in config.json or a quant_config.json, found neither")
    return {"bits": found.get("bits", found.get("w_bit")), "group_size": found.get("group_size", found.get("q_group_size")),
            "zero_point": found.get("zero_point"), "version": str(found.get("version", "gemm")).lower()}


def load(directory):
    """-> ({name: dense float array}, names of the quantized linears, config)"""
    directory = pathlib.Path(directory)
    config = quantization_config(directory)
    if config["bits"] != 4 or config["version"] != "gemm":
        raise SystemExit(f"{directory}: expected 4 bits in the gemm layout, found {config}")
    stored, _ = safetensors_numpy.read_directory(directory)
    linears = sorted(n[:-len(".qweight")] for n in stored if n.endswith(".qweight"))
    dense = {}
    for x in linears:
        parts = [stored.pop(f"{x}.{p}") for p in ("qweight", "qzeros", "scales")]
        dense[f"{x}.weight"] = dequantize(*parts)
        inputs, groups = len(parts[0]), len(parts[1])
        if inputs // groups != (inputs if config["group_size"] == -1 else config["group_size"]):
            raise SystemExit(f"{x}: expected groups of {config['group_size']}, found {inputs} inputs in {groups} groups")
    dense.update(stored)
    return dense, linears, config


def compare(dense, against, tolerance):
    """Each dense value is first rounded to the other's dtype: a float16 copy of an exact product cannot hold all its bits."""
    other, dtypes = safetensors_numpy.read_directory(against)
    bad = [f"{n}: only in one of the two" for n in sorted(set(dense) ^ set(other))]
    worst = ("", 0.0)
    for name in sorted(set(dense) & set(other)):
        mine, its = dense[name].astype("<f4"), other[name].astype("<f4")
        if mine.shape != its.shape:
            bad.append(f"{name}: shape {mine.shape} against {its.shape}")
            continue
        if dtypes[name] == "F16":
            mine = mine.astype("<f2").astype("<f4")
        elif dtypes[name] == "BF16":
            mine = safetensors_numpy.BFloat16(mine).widened()
        gap = float(np.abs(mine - its).max(initial=0))
        if not gap <= tolerance:
            bad.append(f"{name}: max difference {gap:.3g} for max weight {np.abs(its).max():.3g}")
        if not gap <= worst[1]:
            worst = (name, gap)
    print("\n".join(bad + [f"{len(dense)} tensors, max difference {worst[1]:.3g} {worst[0]}"]))
    return not bad


def self_test():
    """N=16, K=8, one group: q = (n+3k) mod 16, z = (5+n) mod 16, s = 2^-(4 + n mod 3)."""
    n, k = np.arange(16)[:, None], np.arange(8)[None]
    q, z, s = (n + 3 * k) % 16, (5 + n) % 16, 2.0 ** -(4 + n % 3)
    stored = pack_linear(q, z, s)
    lines = ["".join(f"{w:08X}" for w in row) for row in stored["qweight"].view(np.uint32)]
    assert lines == ["75316420FDB9ECA8", "A864975320EC1FDB", "DB97CA86531F420E", "0ECAFDB986427531",
                     "31FD20ECB975A864", "6420531FECA8DB97", "975386421FDB0ECA", "CA86B975420E31FD"], lines
    assert [f"{w:08X}" for w in stored["qzeros"].view(np.uint32)[0]] == ["CA86B975", "420E31FD"]
    assert [f"{b:04X}" for b in stored["scales"].view(np.uint16)[0, :4]] == ["2C00", "2800", "2400", "2C00"]
    w = dequantize(**stored)
    assert w[3, 2] == 0.0625 and np.array_equal(w, (q - z) * s)
    codes = np.random.default_rng(0).integers(0, 16, (24, 40))
    assert np.array_equal(unpack(pack(codes)), codes)
    print("self-test passed")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory", nargs="?", type=pathlib.Path)
    p.add_argument("--against", type=pathlib.Path, metavar="DENSE_DIR")
    p.add_argument("--tolerance", type=float, default=0.0, help="largest difference allowed (0: equal after rounding)")
    p.add_argument("--dump", type=pathlib.Path, metavar="OUT.safetensors")
    p.add_argument("--self-test", action="store_true")
    a = p.parse_args()
    if a.self_test:
        return self_test()
    if a.directory is None:
        p.error("a checkpoint directory is needed")
    dense, linears, config = load(a.directory)
    if a.dump:
        safetensors_numpy.write(a.dump, {n: np.asarray(w, "<f4") for n, w in dense.items()})
    if a.against:
        sys.exit(0 if compare(dense, a.against, a.tolerance) else 1)
    print(json.dumps(config))
    for x in linears:
        w = dense[f"{x}.weight"]
        print(f"{x:48} {w.shape[0]:6} x {w.shape[1]:<6} max {np.abs(w).max():.4g}  rms {np.sqrt((w.astype('f8') ** 2).mean()):.4g}")


if __name__ == "__main__":
    main()
