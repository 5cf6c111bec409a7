#!/usr/bin/env python3
"""Records tests/data/golden/autoawq: tiny AutoAWQ "gemm" checkpoints in the spellings other programs leave behind.

    record_autoawq.py [-o tests/data/golden/autoawq]

Codes, zero points and scales are drawn at random and packed by awq_gemm_numpy.py, so every code and zero point 0..15 occurs.
expected.safetensors holds ids I64 [2, 40] and logits F32 [2, 40, vocab], which transformers computed in float64 (eager
attention) from the weights dequantized in numpy. Needs torch and transformers besides numpy.
"""
import argparse
import json
import pathlib
import shutil
import tempfile
import zlib

import numpy as np
import safetensors_numpy
from awq_gemm_numpy import load, pack_linear
from safetensors_numpy import BFloat16

VOCAB, BATCH, LENGTH = 96, 2, 40
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
         "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "rms_norm_eps": 1e-5, "hidden_act": "silu",
         "max_position_embeddings": 64, "vocab_size": VOCAB, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
         "rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float16"}

VARIANTS = {
    # The first releases: no word in config.json, everything in quant_config.json with the other two names.
    "quant-config-json": dict(
        config=LLAMA, group=32, beside={"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
    # A qwen2 (biases on q, k, v), tied, the rest in bfloat16 while scales stay float16, nothing listed as skipped, two shards.
    "null-skip-bf16-sharded": dict(
        config={**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6,
                "tie_word_embeddings": True, "torch_dtype": "bfloat16",
                "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm",
                                        "modules_to_not_convert": None}},
        group=16, rest="bfloat16", shards=2),
    # w_bit and q_group_size inside config.json, one module left dense, transformers 5's dtype and rope_parameters.
    "skipped-down-proj": dict(
        config={**{k: v for k, v in LLAMA.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")}, "dtype": "float16",
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
                "quantization_config": {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True,
                                        "version": "gemm", "modules_to_not_convert": ["down_proj"]}},
        group=64, skip="down_proj"),
}


def linear(rng, outputs, inputs, group):
    """Random codes. Every eighth output has zero point 0 (weights all positive) or 15, the others anything."""
    q = rng.integers(0, 16, (outputs, inputs))
    z = rng.integers(0, 16, (outputs, inputs // group))
    z[0::8], z[4::8] = 0, 15
    return pack_linear(q, z, rng.uniform(0.01, 0.05, z.shape))


def tensors(spec, rng):
    c, group = spec["config"], spec["group"]
    hidden, inter = c["hidden_size"], c["intermediate_size"]
    kv = hidden // c["num_attention_heads"] * c["num_key_value_heads"]
    rest = BFloat16 if spec.get("rest") == "bfloat16" else lambda values: values.astype("<f2")
    normal = lambda std, *shape: rest((std * rng.standard_normal(shape)).astype("<f4"))
    norm = lambda: rest((1 + 0.3 * rng.standard_normal(hidden)).astype("<f4"))
    out = {"model.embed_tokens.weight": normal(0.5, VOCAB, hidden), "model.norm.weight": norm()}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = normal(0.3, VOCAB, hidden)
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
              "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inter, hidden), "mlp.up_proj": (inter, hidden),
              "mlp.down_proj": (hidden, inter)}
    for i in range(c["num_hidden_layers"]):
        block = f"model.layers.{i}."
        out[block + "input_layernorm.weight"], out[block + "post_attention_layernorm.weight"] = norm(), norm()
        for name, (outputs, inputs) in shapes.items():
            if name.endswith(spec.get("skip", "-")):
                out[f"{block}{name}.weight"] = normal(0.2, outputs, inputs)
                continue
            out.update({f"{block}{name}.{p}": t for p, t in linear(rng, outputs, inputs, group).items()})
            if c["model_type"] == "qwen2" and name[-6:-5] in "qkv":
                # AutoAWQ keeps a quantized linear's bias beside its scales, in float16.
                out[f"{block}{name}.bias"] = (0.5 * rng.standard_normal(outputs)).astype("<f2")
    return out


def logits(directory, config, ids):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(1)
    dense, _, _ = load(directory)
    with tempfile.TemporaryDirectory() as plain:
        plain = pathlib.Path(plain)
        (plain / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "quantization_config"}))
        safetensors_numpy.write_directory(plain, {n: np.asarray(w, "<f4") for n, w in dense.items()})
        model, report = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float64, attn_implementation="eager",
                                                             output_loading_info=True)
        if report["missing_keys"] or report["unexpected_keys"]:
            raise SystemExit(f"{directory}: {report}")
        with torch.no_grad():
            return model.eval()(torch.tensor(ids)).logits.float().numpy()


def record(out, name, spec):
    directory = out / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    (directory / "config.json").write_text(json.dumps(spec["config"], indent=2) + "\n")
    if "beside" in spec:
        (directory / "quant_config.json").write_text(json.dumps(spec["beside"], indent=2) + "\n")
    safetensors_numpy.write_directory(directory, tensors(spec, rng), spec.get("shards", 1))
    ids = rng.integers(3, VOCAB, (BATCH, LENGTH))
    safetensors_numpy.write(directory / "expected.safetensors", {"ids": ids, "logits": logits(directory, spec["config"], ids)})
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{name:24} {size / 1024:7.1f} KiB")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--out", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "data" / "golden" / "autoawq")
    a = p.parse_args()
    for name, spec in VARIANTS.items():
        record(a.out, name, spec)


if __name__ == "__main__":
    main()
