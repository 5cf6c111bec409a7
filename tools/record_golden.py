#!/usr/bin/env python3
"""Records the golden checkpoints under tests/data/golden: tiny random-weight models and the logits transformers gives them.

    record_golden.py [-o tests/data/golden] [--only NAME]...

Each NAME/ is an ordinary Hugging Face directory (config.json, safetensors) plus expected.safetensors:
    ids     I64 [2, 40]         two independent sequences, positions 0..39
    logits  F32 [2, 40, vocab]  transformers, eager attention, weights as stored widened to float64
    stepwise  the same shape, fed token by token through transformers' cache: where the rotation depends on the length, keys
            cached early keep their early rotation, and the two differ
Together they cover the architectures, the spellings of config.json in transformers 4 and 5, every rope variant, sliding
windows, biases, tied heads, query-to-kv ratios, storage dtypes and sharding. The logits come from loading the directory that was just written, so a spelling
transformers itself reads differently cannot slip in.

golden.json beside them states versions, the largest difference between float32 and float64 runs (the room a test's tolerance has
to leave), and for each feature how far the logits move when a reader ignores it: recording fails if that is under 1e-2, because
such a checkpoint would test nothing.

Needs torch, transformers, safetensors. Deterministic: the same versions give the same bytes.
"""
import argparse
import json
import pathlib
import shutil
import zlib

import safetensors
import safetensors.torch
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

VOCAB, BATCH, LENGTH = 128, 2, 40
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Wavelengths for head_dim 16 and theta 500 are 6.3, 13.7, 29.7, 64.6, ...: with 32 original positions and factors 4 and 1 they
# fall into all three bands (below 8 kept, 8..32 blended, above 32 divided), and the 40 recorded positions run past 32.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}


def llama(hidden, inter, heads, kv, *, eps=1e-5, **extra):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": inter,
            "num_attention_heads": heads, "num_key_value_heads": kv, "num_hidden_layers": 2, "rms_norm_eps": eps,
            "hidden_act": "silu", "max_position_embeddings": 64, "vocab_size": VOCAB, "tie_word_embeddings": False,
            "bos_token_id": 1, "eos_token_id": 2, **extra}


def qwen2(hidden, inter, heads, kv, **extra):
    return {**llama(hidden, inter, heads, kv, eps=1e-6), "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **extra}


def mistral(hidden, inter, heads, kv, **extra):
    return {**llama(hidden, inter, heads, kv), "architectures": ["MistralForCausalLM"], "model_type": "mistral", **extra}


def qwen3(hidden, inter, heads, kv, **extra):
    return {**llama(hidden, inter, heads, kv, eps=1e-6), "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **extra}


def phi3(hidden, inter, heads, kv, **extra):
    return {**llama(hidden, inter, heads, kv), "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "pad_token_id": None,
            "sliding_window": None, **extra}


def gemma(kind, hidden, inter, heads, kv, **extra):
    base = {k: v for k, v in llama(hidden, inter, heads, kv, eps=1e-6).items() if k not in ("hidden_act", "tie_word_embeddings")}
    names = {"gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"}
    return {**base, "architectures": [names[kind]], "model_type": kind, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16,
            "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, **extra}


# One divisor per rotated pair; far apart, so that the wrong list shows.
def factors(pairs, last):
    return [round(1 + (last - 1) * i / (pairs - 1), 3) for i in range(pairs)]


# Per checkpoint: config.json, dtype as stored, number of shards, whether the logits of single steps are recorded as well, and
# for each feature the edit that ignores it: keys of the loaded config, the module whose biases are zeroed, or (in a tuple) the
# norms whose gains are set to one.
VARIANTS = {
    "llama-untied": dict(
        config=llama(48, 64, 3, 3, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, dtype="float32"),
        ignoring={"rope_theta": {"rope_theta": 500000.0}, "rms_norm_eps": {"rms_norm_eps": 1e-6}}),
    "llama-tied": dict(
        config=llama(64, 48, 4, 2, eps=1e-6, tie_word_embeddings=True, rope_theta=10000.0, rope_scaling=None,
                     torch_dtype="float32"),
        ignoring={"rms_norm_eps": {"rms_norm_eps": 1e-5}}),
    # The oldest files leave out everything that has a default: MHA, eps 1e-6, theta 10000, untied, head_dim.
    "llama-defaults": dict(
        config={k: v for k, v in llama(48, 64, 3, 3, torch_dtype="float32").items()
                if k not in ("num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "hidden_act")},
        ignoring={"rms_norm_eps": {"rms_norm_eps": 1e-5}, "rope_theta": {"rope_theta": 500000.0}}),
    "llama-biases": dict(
        config=llama(48, 64, 6, 2, attention_bias=True, mlp_bias=True, dtype="float32",
                     rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        ignoring={"attention_bias": "self_attn", "mlp_bias": "mlp"}),
    "llama-rope-linear-v4": dict(
        config=llama(48, 64, 3, 1, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0}, torch_dtype="float32"),
        ignoring={"rope_scaling": {"rope_type": "default"}}),
    "llama-rope-linear-v5": dict(
        config=llama(64, 96, 8, 2, rope_parameters={"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.5},
                     dtype="bfloat16"),
        dtype="bfloat16", ignoring={"rope_scaling": {"rope_type": "default"}, "rope_theta": {"rope_theta": 10000.0}}),
    "llama-rope-llama3-v4": dict(
        config=llama(64, 96, 4, 1, rope_theta=500.0, rope_scaling=LLAMA3, torch_dtype="float16"),
        dtype="float16", ignoring={"rope_scaling": {"rope_type": "default"}, "bands": {"rope_type": "linear"}}),
    "llama-rope-llama3-v5": dict(
        config=llama(48, 64, 3, 3, rope_parameters={**LLAMA3, "rope_theta": 500.0}, tie_word_embeddings=True, dtype="float32"),
        ignoring={"rope_scaling": {"rope_type": "default"}, "bands": {"rope_type": "linear"}}),
    "llama-head-dim": dict(  # 4 heads of 24: q_proj writes 96 values for a hidden size of 48
        config=llama(48, 48, 4, 2, head_dim=24, rope_theta=10000.0, rope_scaling=None, torch_dtype="float32"), ignoring={}),
    "llama-multi-query": dict(
        config=llama(64, 128, 8, 1, rope_theta=10000.0, rope_scaling=None, torch_dtype="bfloat16"), dtype="bfloat16", ignoring={}),
    "llama-sharded": dict(
        config=llama(48, 64, 6, 3, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, dtype="float32"),
        shards=2, ignoring={}),
    "qwen2-untied": dict(  # with the sliding-window keys of published files, switched off as there
        config=qwen2(48, 64, 6, 2, rope_theta=1000000.0, torch_dtype="float32", use_sliding_window=False, sliding_window=8,
                     max_window_layers=1),
        ignoring={"qkv_bias": "self_attn", "rope_theta": {"rope_theta": 10000.0}}),
    "qwen2-tied": dict(
        config=qwen2(64, 96, 4, 4, tie_word_embeddings=True, dtype="float16",
                     rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        dtype="float16", ignoring={"qkv_bias": "self_attn"}),
    "qwen2-window": dict(
        config=qwen2(32, 48, 4, 2, rope_theta=10000.0, torch_dtype="float16", use_sliding_window=True, sliding_window=5,
                     max_window_layers=1),
        dtype="float16", ignoring={"window": {"layer_types": ["full_attention"] * 2},
                                   "max_window_layers": {"layer_types": ["sliding_attention"] * 2}}),
    "mistral-window": dict(
        config=mistral(48, 64, 6, 2, rope_theta=10000.0, sliding_window=6, torch_dtype="bfloat16"),
        dtype="bfloat16", ignoring={"window": {"sliding_window": None}, "one_less": {"sliding_window": 5}}),
    "mistral-head-dim": dict(  # as Nemo: heads narrower than the hidden size divided by them, no window
        config=mistral(48, 48, 4, 2, head_dim=8, rope_theta=1000000.0, sliding_window=None, torch_dtype="bfloat16"),
        dtype="bfloat16", ignoring={"rope_theta": {"rope_theta": 10000.0}}),
    "ministral-layer-types": dict(
        config={**mistral(48, 64, 3, 1, head_dim=16, sliding_window=7, layer_types=["sliding_attention", "full_attention"], dtype="float16",
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
                "architectures": ["MinistralForCausalLM"], "model_type": "ministral"},
        dtype="float16", ignoring={"window": {"layer_types": ["full_attention"] * 2},
                                   "layer_types": {"layer_types": ["sliding_attention"] * 2}}),
    "qwen3-untied": dict(
        config=qwen3(48, 64, 4, 2, head_dim=16, rope_theta=1000000.0, rope_scaling=None, torch_dtype="float16",
                     attention_bias=False, use_sliding_window=False, sliding_window=None, max_window_layers=2),
        dtype="float16", ignoring={"q_norm": ("q_norm",), "k_norm": ("k_norm",)}),
    "qwen3-tied": dict(
        config=qwen3(32, 48, 3, 1, head_dim=32, tie_word_embeddings=True, attention_bias=True, dtype="bfloat16",
                     rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        dtype="bfloat16", ignoring={"q_norm": ("q_norm",), "k_norm": ("k_norm",), "attention_bias": "self_attn"}),
    "phi3-plain": dict(
        config=phi3(48, 64, 3, 3, rope_theta=10000.0, rope_scaling=None, sliding_window=9, torch_dtype="float16"),
        dtype="float16", ignoring={"window": {"sliding_window": None}}),
    "phi3-longrope-short": dict(
        config=phi3(48, 64, 6, 2, rope_theta=10000.0, torch_dtype="bfloat16", max_position_embeddings=256,
                    original_max_position_embeddings=64,
                    rope_scaling={"type": "longrope", "short_factor": factors(4, 1.6), "long_factor": factors(4, 9)}),
        dtype="bfloat16", ignoring={"longrope": {"rope_type": "default"}, "short_factor": {"short_factor": factors(4, 9)},
                                    "magnitude": {"attention_factor": 1.0}}),
    "phi3-longrope-long": dict(  # the crossing lies inside the recorded positions
        config=phi3(48, 64, 6, 6, dtype="bfloat16", max_position_embeddings=128, original_max_position_embeddings=16,
                    rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors(4, 1.6),
                                     "long_factor": factors(4, 9), "original_max_position_embeddings": 16}),
        dtype="bfloat16", stepwise=True, ignoring={"long_factor": {"long_factor": factors(4, 1.6)}}),
    "phi3-partial": dict(  # grouped queries, part of each head rotated, tied, the oldest name of longrope
        config=phi3(64, 48, 4, 2, rope_theta=10000.0, torch_dtype="float16", tie_word_embeddings=True, partial_rotary_factor=0.75,
                    max_position_embeddings=256, original_max_position_embeddings=64,
                    rope_scaling={"type": "su", "short_factor": factors(6, 2), "long_factor": factors(6, 20),
                                  "original_max_position_embeddings": 64}),
        dtype="float16", ignoring={"short_factor": {"short_factor": [1.0] * 6}}),
    "llama-yarn": dict(  # as Qwen2.5's: factor, original length; the ramp's ends fall inside the 8 pairs
        config=llama(48, 64, 3, 1, rope_theta=500.0, torch_dtype="bfloat16",
                     rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
        dtype="bfloat16", ignoring={"yarn": {"rope_type": "default"}, "ramp": {"rope_type": "linear"},
                                    "magnitude": {"attention_factor": 1.0}}),
    "llama-yarn-options": dict(
        config=llama(64, 48, 4, 2, dtype="float16",
                     rope_parameters={"rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "beta_fast": 4.0, "beta_slow": 0.5,
                                      "mscale": 1.0, "mscale_all_dim": 0.4, "truncate": False,
                                      "original_max_position_embeddings": 32}),
        dtype="float16", ignoring={"truncate": {"truncate": True}, "beta_fast": {"beta_fast": 32.0},
                                   "mscale": {"attention_factor": 1.0}}),
    "llama-dynamic": dict(  # starts beyond position 16
        config=llama(48, 64, 3, 1, rope_theta=10000.0, torch_dtype="bfloat16", max_position_embeddings=16,
                     rope_scaling={"type": "dynamic", "factor": 4.0}),
        dtype="bfloat16", stepwise=True, ignoring={"dynamic": {"rope_type": "default"}, "factor": {"factor": 2.0}}),
    # Spellings of transformers 4: a pattern, two thetas, the scaling of full attention only. Three layers of which the second is full.
    "gemma3-pattern-v4": dict(
        config=gemma("gemma3_text", 32, 48, 4, 2, num_hidden_layers=3, sliding_window=6, sliding_window_pattern=2, rope_theta=1000000.0,
                     rope_local_base_freq=100.0, rope_scaling={"rope_type": "linear", "factor": 8.0}, query_pre_attn_scalar=24,
                     torch_dtype="float32"),
        ignoring={"window": {"layer_types": ["full_attention"] * 3}, "pattern": {"layer_types": ["sliding_attention"] * 3},
                  "rope_local_base_freq": {("sliding_attention", "rope_theta"): 1000000.0}, "query_pre_attn_scalar": {"query_pre_attn_scalar": 16},
                  "rope_scaling": {("full_attention", "rope_type"): "default"},
                  "q_norm": ("q_norm",), "post_attention_layernorm": ("post_attention_layernorm",),
                  "post_feedforward_layernorm": ("post_feedforward_layernorm",)}),
    "gemma3-layer-types-v5": dict(  # heads of 24: wider than the hidden size divided by them; one key/value head
        config=gemma("gemma3_text", 32, 48, 4, 1, head_dim=24, sliding_window=5, layer_types=["sliding_attention", "full_attention"],
                     rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                      "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}},
                     query_pre_attn_scalar=24, dtype="float32"),
        ignoring={"layer_types": {"layer_types": ["full_attention", "sliding_attention"]}, "k_norm": ("k_norm",),
                  "theta": {("sliding_attention", "rope_theta"): 10000.0}}),
    "gemma2-softcaps": dict(
        config=gemma("gemma2", 48, 48, 6, 2, sliding_window=7, rope_theta=10000.0, query_pre_attn_scalar=16, attn_logit_softcapping=2.0,
                     final_logit_softcapping=2.0, torch_dtype="float32"),
        ignoring={"attn_logit_softcapping": {"attn_logit_softcapping": None}, "final_logit_softcapping": {"final_logit_softcapping": None},
                  "window": {"layer_types": ["full_attention"] * 2}, "pre_feedforward_layernorm": ("pre_feedforward_layernorm",)}),
}


def random_weights(config, seed):
    """State dict of `config`. Everything is drawn wider than a fresh model's 0.02, so that a wrong head, bias or norm shows;
    embeddings stay small because only then does eps matter in the first norm."""
    g = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        names = {n: p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    std = {"embed_tokens": 0.01, "lm_head": 0.4, "q_proj": 0.2, "k_proj": 0.2, "qkv_proj": 0.2}
    if config.model_type.startswith("gemma"):
        std["embed_tokens"] = 0.2  # it is the head as well, and its logits are to reach the cap
    out = {}
    for name in sorted(names):
        draw = torch.randn(names[name], generator=g)
        part = name.split(".")[-2]
        if name.endswith("bias"):
            out[name] = 0.5 * draw
        elif len(names[name]) == 1:
            out[name] = (0 if config.model_type.startswith("gemma") else 1) + 0.3 * draw  # gemma's gains are 1 + w
        else:
            out[name] = std.get(part, 0.3) * draw
    return out


def save(directory, weights, shards):
    if shards == 1:
        safetensors.torch.save_file(weights, directory / "model.safetensors", {"format": "pt"})
        return
    names, where = sorted(weights), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]  # interleaved, so that the parts of one layer lie in different files
        safetensors.torch.save_file({n: weights[n] for n in part}, directory / file, {"format": "pt"})
        where.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def logits(directory, ids, dtype=torch.float64, ignore=None, stepwise=False):
    config = AutoConfig.from_pretrained(directory)
    if isinstance(ignore, dict):
        for key, value in ignore.items():
            if isinstance(key, tuple):  # of one kind of layer
                ropes = config.rope_parameters
                config.rope_parameters = {**ropes, key[0]: {**ropes[key[0]], key[1]: value}}
                continue
            if key in config.rope_parameters or key in ("attention_factor", "truncate", "beta_fast"):
                config.rope_parameters = {**config.rope_parameters, key: value}
            else:
                setattr(config, key, value)
    model = AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=dtype, attn_implementation="eager").eval()
    if isinstance(ignore, str):
        for name, p in model.named_parameters():
            if name.endswith("bias") and ignore in name:
                p.zero_()
    if isinstance(ignore, tuple):
        for name, p in model.named_parameters():
            if any(part in name for part in ignore):
                p.fill_(0 if model.config.model_type.startswith("gemma") else 1)
    if not stepwise:
        return model(ids).logits
    cache, steps = DynamicCache(config=config), []
    for at in range(ids.shape[1]):
        steps.append(model(ids[:, at:at + 1], past_key_values=cache, use_cache=True).logits)
    return torch.cat(steps, 1)


def relative(a, b):
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def record(out, name, spec):
    directory = out / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(spec["config"], indent=2) + "\n")
    seed = zlib.crc32(name.encode())  # of the name, so that adding a variant leaves the others as they are
    dtype = DTYPES[spec.get("dtype", "float32")]
    weights = random_weights(AutoConfig.from_pretrained(directory), seed)
    if "embed_tokens" not in " ".join(weights):
        raise SystemExit(f"{name}: no embedding among the parameters")
    save(directory, {n: w.to(dtype).contiguous() for n, w in weights.items()}, spec.get("shards", 1))

    ids = torch.randint(3, VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed + 1))
    want = logits(directory, ids)
    expected = {"ids": ids, "logits": want.float().contiguous()}
    if spec.get("stepwise"):
        expected["stepwise"] = logits(directory, ids, stepwise=True).float().contiguous()
        if relative(expected["stepwise"], want) < 1e-2:
            raise SystemExit(f"{name}: steps give what a whole sequence gives: the rotation does not change")
    safetensors.torch.save_file(expected, directory / "expected.safetensors")
    moved = {f: relative(logits(directory, ids, ignore=edit), want) for f, edit in spec["ignoring"].items()}
    weak = [f for f, by in moved.items() if by < 1e-2]
    if weak:
        raise SystemExit(f"{name}: ignoring {weak} moves the logits by under 1e-2 ({moved}): choose other weights")
    size = sum(f.stat().st_size for f in directory.iterdir())
    row = {"float32_difference": float(f"{relative(logits(directory, ids, torch.float32), want):.1e}"),
           "difference_when_ignored": {f: float(f"{by:.2g}") for f, by in moved.items()}}
    print(f"{name:24} {size / 1024:7.1f} KiB  {row}")
    return row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-o", "--out", type=pathlib.Path,
                   default=pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "golden")
    p.add_argument("--only", action="append", choices=sorted(VARIANTS), help="record these alone")
    a = p.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    file = a.out / "golden.json"
    done = json.loads(file.read_text())["checkpoints"] if a.only and file.exists() else {}
    for name in a.only or VARIANTS:
        done[name] = record(a.out, name, VARIANTS[name])
    about = {"recorded_by": "tools/record_golden.py",
             "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
                          "safetensors": safetensors.__version__},
             "checkpoints": {n: done[n] for n in VARIANTS if n in done}}
    file.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
