#!/usr/bin/env python3
"""Reads awq's outputs with the owners' own Python code and compares the weights with awq's.

    read_back.py FOLDER...            outputs of `awq quantize` in any form; needs torch and, per form, gptqmodel,
                                      compressed-tensors or bitsandbytes
    read_back.py --record DIR         small linears packed by those packages, as fixtures for the unit tests

For each quantized linear the owner's unpack and dequantize on the stored tensors is compared with a few lines of numpy per
form, written from docs/formats.md: weights must be equal or, where the owner computes in another precision, within its last bit.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "oracle"))
import safetensors_numpy  # noqa: E402


def tensors_of(folder):
    held = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        from safetensors.torch import load_file
        held.update(load_file(path))
    return held


# --- numpy: the forms as docs/formats.md states them -----------------------------------------------------------

def unpack_stream(words, bits, n):
    """words [.., W] uint32 -> codes [.., n]: lowest bits first, across words."""
    bit = np.unpackbits(words.astype("<u4").view(np.uint8).reshape(*words.shape[:-1], -1), axis=-1, bitorder="little")
    bit = bit[..., :n * bits].reshape(*words.shape[:-1], n, bits)
    return (bit.astype(np.int64) << np.arange(bits)).sum(-1)


def mine_gptq(t, x, settings):
    bits, v1 = settings["bits"], settings["checkpoint_format"] == "gptq"
    k = len(t[x + ".g_idx"])
    q = unpack_stream(np.ascontiguousarray(t[x + ".qweight"].numpy().T), bits, k)
    scales = t[x + ".scales"].float().numpy().T
    z = unpack_stream(t[x + ".qzeros"].numpy(), bits, len(q)).T + (1 if v1 else 0)
    group = k // scales.shape[1]
    return q, (q - np.repeat(z % (1 << bits), group, 1)).astype("f4") * np.repeat(scales, group, 1)


def mine_packed(t, x, settings):
    bits = settings["config_groups"]["group_0"]["weights"]["num_bits"]
    n, k = t[x + ".weight_shape"].tolist()
    q = unpack_stream(t[x + ".weight_packed"].numpy(), bits, k)
    scales = t[x + ".weight_scale"].float().numpy()
    group = k // scales.shape[1]
    if x + ".weight_zero_point" in t:
        z = unpack_stream(np.ascontiguousarray(t[x + ".weight_zero_point"].numpy().T), bits, n).T
    else:
        z = np.full_like(scales, 1 << bits - 1)
    return q, (q - np.repeat(z, group, 1)).astype("f4") * np.repeat(scales, group, 1)


def mine_int(t, x, settings):
    q = t[x + ".weight"].numpy()
    return q, q.astype("f4") * t[x + ".weight_scale"].float().numpy()


def mine_int8(t, x, settings):
    q = t[x + ".weight"].numpy()
    return q, q.astype("f4") * (t[x + ".SCB"].numpy()[:, None] / np.float32(127))


def mine_nf4(t, x, settings):
    w = x + ".weight"
    state = json.loads(bytes(t[w + ".quant_state.bitsandbytes__nf4"].tolist()).decode())
    byte = t[w].numpy().reshape(-1)
    q = np.stack([byte >> 4, byte & 15], 1).reshape(state["shape"])
    u8 = t[w + ".absmax"].numpy()
    nested = np.repeat(t[w + ".nested_absmax"].numpy(), state["nested_blocksize"])[:len(u8)]
    absmax = t[w + ".nested_quant_map"].numpy()[u8] * nested + np.float32(state["nested_offset"])
    blocks = t[w + ".quant_map"].numpy()[q].reshape(-1, state["blocksize"])
    return q, (blocks * absmax[:, None]).reshape(state["shape"])


# --- the owners ------------------------------------------------------------------------------------------------

def theirs_gptq(t, x, settings):
    """gptqmodel's torch kernel: its post_init and dequantize_weight, after its own v1 -> v2 conversion."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
    n, k = t[x + ".scales"].shape[1], len(t[x + ".g_idx"])
    groups = t[x + ".scales"].shape[0]
    layer = TorchLinear(bits=settings["bits"], group_size=k // groups, sym=settings["sym"], desc_act=settings["desc_act"], in_features=k,
                        out_features=n, bias=False, register_buffers=True)
    for name in ("qweight", "qzeros", "scales", "g_idx"):
        getattr(layer, name).data = t[f"{x}.{name}"].clone()
    if settings["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(layer, bits=settings["bits"], pack_dtype=torch.int32)
    layer.post_init()
    return layer.dequantize_weight().T.float().numpy()


def theirs_packed(t, x, settings):
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    weights = {k: v for k, v in settings["config_groups"]["group_0"]["weights"].items() if v is not None}
    args = QuantizationArgs(**weights)
    shape = torch.Size(t[x + ".weight_shape"].tolist())
    q = unpack_from_int32(t[x + ".weight_packed"], args.num_bits, shape)
    scale, zero = t[x + ".weight_scale"].float(), None
    if x + ".weight_zero_point" in t:
        zero = unpack_from_int32(t[x + ".weight_zero_point"], args.num_bits, torch.Size([shape[0], scale.shape[1]]), packed_dim=0)
    return dequantize(q, scale, zero, args=args, dtype=torch.float32).numpy()


def theirs_int(t, x, settings):
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    weights = {k: v for k, v in settings["config_groups"]["group_0"]["weights"].items() if v is not None}
    return dequantize(t[x + ".weight"], t[x + ".weight_scale"].float(), None, args=QuantizationArgs(**weights), dtype=torch.float32).numpy()


def theirs_int8(t, x, settings):
    from bitsandbytes.functional import int8_vectorwise_dequant
    return int8_vectorwise_dequant(t[x + ".weight"], t[x + ".SCB"]).numpy()


def theirs_nf4(t, x, settings):
    from bitsandbytes.functional import QuantState, dequantize_4bit
    w = x + ".weight"
    state = QuantState.from_dict({k[len(w) + 1:]: v for k, v in t.items() if k.startswith(w + ".")}, device=torch.device("cpu"))
    state.dtype = torch.float32
    return dequantize_4bit(t[w], state).numpy()


FORMS = {  # marker: (name, mine, theirs)
    ".qweight": ("gptq", mine_gptq, theirs_gptq),
    ".weight_packed": ("pack-quantized", mine_packed, theirs_packed),
    ".weight_scale": ("int-quantized", mine_int, theirs_int),
    ".weight.quant_state.bitsandbytes__nf4": ("bnb-nf4", mine_nf4, theirs_nf4),
    ".SCB": ("bnb-int8", mine_int8, theirs_int8),
}


def check(folder):
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    t = tensors_of(folder)
    marker = next(m for m in FORMS if any(n.endswith(m) for n in t))
    name, mine, theirs = FORMS[marker]
    linears = sorted(n[:-len(marker)] for n in t if n.endswith(marker))
    equal, worst = 0, 0.0
    for x in linears:
        _, ours = mine(t, x, settings)
        got = theirs(t, x, settings)
        if name == "gptq":  # gptqmodel multiplies in float16
            ours = ours.astype("<f2").astype("<f4")
        equal += np.array_equal(ours, got)
        worst = max(worst, float(np.abs(ours - got).max() / np.abs(ours).max()))
    # Where a product is formed in another order or precision the last bits differ: fp16 has 2^-11.
    ok = worst <= 2**-10
    print(f"{folder.name}: {name}: {len(linears)} linears, {equal} equal bit for bit, largest difference {worst:.2g}: {'ok' if ok else 'DIFFERS'}")
    return ok


# --- fixtures packed by the owners -----------------------------------------------------------------------------

def record(directory):
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    w = torch.tensor(rng.standard_normal((32, 128)).astype("f4") * np.exp(rng.standard_normal((32, 1))).astype("f4"))

    def write(name, tensors, dense, settings):
        arrays = {("m" + k): v.numpy() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
        arrays["expected"] = dense.numpy().astype("<f4")
        safetensors_numpy.write(directory / f"{name}.safetensors", arrays, {"format": "pt", "settings": json.dumps(settings)})
        print(name, (directory / f"{name}.safetensors").stat().st_size, "bytes")

    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    for bits, symmetric, group in (3, False, 32), (4, True, 128), (4, False, 64), (8, True, 32), (5, False, 64):
        v = w.reshape(32, -1, group)
        low, high = v.amin(-1).clamp(max=0), v.amax(-1).clamp(min=0)
        middle = 1 << bits - 1
        scale = (torch.maximum(-low, high) / (middle - 0.5) if symmetric else (high - low) / (2**bits - 1)).half().float()
        zero = torch.zeros_like(scale) if symmetric else (-middle - low / scale).round().clamp(-middle, middle - 1)
        q = (v / scale[..., None] + zero[..., None]).round().clamp(-middle, middle - 1)
        tensors = {".weight_packed": pack_to_int32(q.reshape(32, -1).to(torch.int8), bits), ".weight_scale": scale.half(),
                   ".weight_shape": torch.tensor([32, 128])}
        if not symmetric:
            tensors[".weight_zero_point"] = pack_to_int32(zero.to(torch.int8), bits, packed_dim=0)
        dense = ((q - zero[..., None]) * scale[..., None]).reshape(32, 128)
        write(f"compressed-tensors-w{bits}g{group}{'' if symmetric else 'z'}", tensors, dense, {"form": "pack-quantized", "bits": bits, "group": group})

    import bitsandbytes.functional as bnb
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)
    tensors = {".weight": packed, **{".weight." + k: v for k, v in state.as_dict(packed=True).items()}}
    write("bitsandbytes-nf4", tensors, bnb.dequantize_4bit(packed, state), {"form": "bnb-nf4", "bits": 4, "group": 64})
    codes, scb, _ = bnb.int8_vectorwise_quant(w.half())
    write("bitsandbytes-int8", {".weight": codes, ".SCB": scb, ".weight_format": np.array(0, dtype=np.uint8)},
          bnb.int8_vectorwise_dequant(codes, scb), {"form": "bnb-int8", "bits": 8, "group": -1})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="*", type=pathlib.Path)
    p.add_argument("--record", type=pathlib.Path, metavar="DIR")
    a = p.parse_args()
    if a.record:
        record(a.record)
    elif not a.folders:
        p.error("give folders to read, or --record DIR")
    sys.exit(0 if all([check(f) for f in a.folders]) else 1)


if __name__ == "__main__":
    main()
