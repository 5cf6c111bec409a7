"""A small safetensors reader and writer on json, struct and numpy alone, so that the oracles share no code with what they check.

Layout (huggingface.co/docs/safetensors): u64 little-endian header length, JSON {name: {dtype, shape, data_offsets}}, data.
bfloat16 has no numpy type: it is read as float32 (exact) and written from `BFloat16`.
"""
import json
import pathlib
import struct

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}


class BFloat16:
    """float32 values to be stored as bfloat16, rounded to nearest even."""

    def __init__(self, values):
        bits = np.ascontiguousarray(values, "<f4").view("<u4")
        self.bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")

    def widened(self):
        return (self.bits.astype("<u4") << 16).view("<f4")


def read(path):
    """-> ({name: array}, {name: dtype as stored}, metadata)"""
    raw = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8:8 + length])
    metadata = header.pop("__metadata__", {})
    data, arrays, dtypes = memoryview(raw)[8 + length:], {}, {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            array = (np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16).view("<f4")
        else:
            array = np.frombuffer(data[begin:end], TYPES[entry["dtype"]])
        arrays[name], dtypes[name] = array.reshape(entry["shape"]), entry["dtype"]
    return arrays, dtypes, metadata


def read_directory(directory):
    """All tensors of a directory: the shards its index names, or its .safetensors files."""
    directory = pathlib.Path(directory)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        where = json.loads(index.read_text())["weight_map"]
        files = sorted(set(where.values()))
    elif (directory / "model.safetensors").exists():
        where, files = None, ["model.safetensors"]
    else:
        raise SystemExit(f"{directory}: expected model.safetensors or model.safetensors.index.json, found neither")
    arrays, dtypes = {}, {}
    for file in files:
        a, d, _ = read(directory / file)
        arrays.update(a)
        dtypes.update(d)
    if where is not None and set(where) != set(arrays):
        raise SystemExit(f"{index}: names {sorted(set(where) ^ set(arrays))[:4]} stand in the index or the shards alone")
    return arrays, dtypes


def write(path, tensors, metadata=None):
    header, chunks, at = {"__metadata__": metadata or {"format": "pt"}}, [], 0
    names = {np.dtype(v): k for k, v in TYPES.items()}
    for name in sorted(tensors):
        value = tensors[name]
        array = value.bits if isinstance(value, BFloat16) else np.ascontiguousarray(value)
        dtype = "BF16" if isinstance(value, BFloat16) else names[array.dtype]
        chunk = array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(np.shape(array)), "data_offsets": [at, at + len(chunk)]}
        chunks.append(chunk)
        at += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def write_directory(directory, tensors, shards=1):
    """model.safetensors, or `shards` files and their index with the tensors dealt out in turn, so that the qweight, qzeros and
    scales of one linear lie in different files."""
    directory = pathlib.Path(directory)
    if shards == 1:
        write(directory / "model.safetensors", tensors)
        return
    where, names = {}, sorted(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        write(directory / file, {n: tensors[n] for n in names[i::shards]})
        where.update({n: file for n in names[i::shards]})
    total = sum((t.bits if isinstance(t, BFloat16) else t).nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
