#!/usr/bin/env python3
"""Writes a checkpoint of random bf16 weights for a Llama config.json, with a tokenizer of as many tokens: for measurements of shapes.

    random_checkpoint.py CONFIG.json OUT

Weights are of the size trained ones have; they repeat after 4 Mi numbers. Only the standard library.
"""
import json, math, os, pathlib, struct, sys

arguments, sys.argv = sys.argv[1:], sys.argv[:1]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from tiny import llama_shapes, write_tokenizer

BLOCK = 4 << 20  # numbers


def random_block(scale):
    """Numbers between scale / 2 and scale or their negatives; scale is a power of two."""
    exponent = 127 + int(math.log2(scale)) - 1
    raw = os.urandom(2 * BLOCK)
    out = bytearray(2 * BLOCK)
    out[0::2] = raw[0::2].translate(bytes((b & 127) | (exponent & 1) << 7 for b in range(256)))
    out[1::2] = raw[1::2].translate(bytes((b & 128) | exponent >> 1 for b in range(256)))
    return bytes(out)


def write_tensors(path, shapes):
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    blocks = {}
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            left = 2 * math.prod(shape)
            if len(shape) == 1:
                file.write(b"\x80\x3f" * (left // 2))
                continue
            scale = 2.0 ** round(math.log2(1.4 / math.sqrt(shape[1])))
            if scale not in blocks:
                blocks[scale] = random_block(scale)
            while left > 0:
                left -= file.write(blocks[scale][:left])


def write_padded_tokenizer(folder, vocab):
    write_tokenizer(folder)
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    known = spec["model"]["vocab"]
    for i in range(len(known), vocab):
        known[f"unused{i}"] = i
    path.write_text(json.dumps(spec, ensure_ascii=False))


def main():
    if len(arguments) != 2:
        sys.exit(__doc__)
    config, folder = json.loads(pathlib.Path(arguments[0]).read_text()), pathlib.Path(arguments[1])
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tensors(folder / "model.safetensors", llama_shapes(config))
    write_padded_tokenizer(folder, config["vocab_size"])


if __name__ == "__main__":
    main()
