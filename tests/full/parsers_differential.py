#!/usr/bin/env python3
"""Our safetensors and GGUF readers against PyPI's `safetensors` and `gguf` on generated files, valid and broken.

    parsers_differential.py PARSE_STREAM [--safetensors 800000] [--gguf 200000] [--seed 1]

PARSE_STREAM is the program built from parse_stream.cpp (target awq_parse_stream). Prints, for each pair of verdicts, how often
it occurred, and for every disagreement the classes of messages with an example. Status 1 when we accept what they reject, but
for the classes in LENIENT, each with the reason why it is harmless. Needs `pip install safetensors gguf`.
"""
import argparse, collections, json, os, pathlib, random, re, signal, struct, subprocess, sys, tempfile, warnings

import gguf
from safetensors import SafetensorError, deserialize

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "fuzz"))
from make_seeds import KINDS, SIZES, TYPES, gguf_string, gguf_value

BATCH = 500
EDGES = [0, 1, 2, 7, 8, 31, 32, 63, 64, 255, 4096, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]

# Messages of the peer on files that we accept, and why that is harmless.
LENIENT = {
    "s": [],
    "g": [
        (r"IndexError: tuple index out of range", "a tensor without dimensions is a scalar; ggml reads it too"),
    ],
}


# ---- safetensors

def safetensors_case(rng):
    header, at, tensors = {}, 0, rng.randrange(4)
    if rng.random() < 0.5:
        header["__metadata__"] = {"format": "pt"}
    for i in range(tensors):
        dtype = rng.choice(list(SIZES))
        shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.randrange(4))]
        count = 1
        for d in shape:
            count *= d
        size = count * SIZES[dtype] // 8
        header[rng.choice(["a", "b", "w.weight", "\u00e9", "", "x" * 40]) + str(i)] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    broken = rng.randrange(3) if rng.random() < 0.7 else 0
    for _ in range(broken):
        at = break_header(rng, header, at)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5, separators=rng.choice([(",", ":"), (", ", ": ")])).encode()
    length, data = len(text), bytes(at)
    if broken and rng.random() < 0.5:
        text, length, data = break_bytes(rng, text, data)
    if rng.random() < 0.2:
        text = text + b" " * rng.randrange(9)
        length = len(text)
    return struct.pack("<Q", length % 2**64) + text + data


def break_header(rng, header, at):
    names = [n for n in header if n != "__metadata__"]
    if not names or rng.random() < 0.15:
        header["__metadata__"] = rng.choice([{"a": 1}, {"a": None}, [], "x", None, {"a": {"b": "c"}}, {"": ""}, 3])
        return at
    entry = header[rng.choice(names)]
    if not isinstance(entry, dict):
        return at
    kind = rng.randrange(10)
    if kind == 0:
        entry["dtype"] = rng.choice(["F31", "f32", "", None, 3, "F32 ", "BOOL", "U8", "F4", "I64"])
    elif kind == 1:
        entry["shape"] = rng.choice([None, 3, "x", [-1], [1.5], [2**32, 2**32], [2**63], [2**64], ["2"], [0, 2**63 - 1, 4], [[2]], [True], [1e2]])
    elif kind == 2 and isinstance(entry.get("shape"), list) and entry["shape"]:
        entry["shape"][rng.randrange(len(entry["shape"]))] = rng.choice(EDGES)
    elif kind == 3:
        entry["data_offsets"] = rng.choice([None, [], [0], [0, 0, 0], [4, 0], [-4, 0], [0, 2**64 - 1], [0, 2**63], ["0", "4"], [0.0, 4.0], {}])
    elif kind in (4, 5) and isinstance(entry.get("data_offsets"), list) and len(entry["data_offsets"]) == 2:
        by = rng.choice([-8, -1, 1, 2, 8])
        for i in (0, 1) if kind == 4 else (rng.randrange(2),):
            if isinstance(entry["data_offsets"][i], int):
                entry["data_offsets"][i] += by
    elif kind == 6:
        entry.pop(rng.choice(list(entry)), None) if entry else None
    elif kind == 7:
        entry[rng.choice(["extra", "Dtype", ""])] = rng.choice([1, "x", None, [1, {}]])
    elif kind == 8:
        header[rng.choice(names)] = rng.choice([None, [], 3, "x", {}])
    else:
        return max(0, at + rng.choice([-8, -1, 1, 4]))
    return at


def break_bytes(rng, text, data):
    kind, length = rng.randrange(9), len(text)
    if kind == 0:
        length = rng.choice(EDGES + [len(text) + len(data), len(text) + len(data) + 1, len(text) - 1, len(text) + 1, 100_000_000, 100_000_001])
    elif kind == 1 and text:
        at = rng.randrange(len(text))
        text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1:]
    elif kind == 2 and text:
        at = rng.randrange(len(text))
        text = text[:at] + text[at + 1:]
        length = len(text)
    elif kind == 3:
        text = rng.choice([b"", b" ", b"[]", b"null", b"{", b"{}{}", b" {}", b"\xef\xbb\xbf{}", b"\x00{}", b"{}\x00", b"[" * 300, b'{"a":' * 200])
        length = len(text)
    elif kind == 4:  # a key twice
        text = text[:-1] + (b"," if len(text) > 2 else b"") + text[1:]
        length = len(text)
    elif kind == 5:
        data = data[:rng.randrange(len(data) + 1)]
    elif kind == 6:
        data += bytes(rng.randrange(1, 9))
    elif kind == 7:
        text = text[:rng.randrange(len(text) + 1)]
    else:
        text = text.replace(b'"', rng.choice([b"'", b'\\"', b'"\\ud800', b'"\xff']), 1)
        length = len(text)
    return text, length, data


# ---- GGUF

def gguf_case(rng):
    values = [(f"k.{i}", *scalar(rng)) for i in range(rng.randrange(4))]
    alignment = 32
    if rng.random() < 0.3:
        alignment = rng.choice([1, 8, 16, 32, 64])
        values.append(("general.alignment", "u32", alignment))
    keys = [gguf_string(key) + gguf_value(kind, value) for key, kind, value in values]
    infos, at, data = [], 0, b""
    for i in range(rng.randrange(4)):
        type_id, block, size = rng.choice(TYPES)
        rows = rng.choice([1, 1, 2, 3])
        dims = [block * rng.choice([1, 2])] + [rows] * rng.randrange(3)
        count = 1
        for d in dims:
            count *= d
        bytes_ = count // block * size
        infos.append([f"t{i}", dims, type_id, at])
        at += (bytes_ + alignment - 1) // alignment * alignment
        data = data.ljust(at, b"\1")
    head = [b"GGUF", struct.pack("<I", rng.choice([2, 3, 3])), struct.pack("<Q", len(infos)), struct.pack("<Q", len(keys))]
    broken = rng.randrange(1, 3) if rng.random() < 0.7 else 0
    for _ in range(broken):
        if rng.random() < 0.5 and infos:
            break_tensor(rng, rng.choice(infos))
        elif rng.random() < 0.3:
            head[rng.randrange(4)] = rng.choice([b"GGUF", b"FUGG", struct.pack("<I", rng.choice([0, 1, 4, 3 << 24])), struct.pack("<Q", rng.choice(EDGES))])
        elif keys and rng.random() < 0.5:
            keys[rng.randrange(len(keys))] = rng.choice([keys[0], gguf_string("") + gguf_value("u8", 1), gguf_string("n") + struct.pack("<I", rng.randrange(20)),
                                                         gguf_string("general.alignment") + gguf_value("u32", rng.choice([0, 3, 7, 2**31])),
                                                         gguf_string("a") + struct.pack("<IIQ", 9, rng.randrange(13), rng.choice(EDGES))])
    out = b"".join(head) + b"".join(keys)
    for name, dims, type_id, offset in infos:
        out += gguf_string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d % 2**64) for d in dims) + struct.pack("<IQ", type_id, offset % 2**64)
    out += bytes(-len(out) % alignment) + data
    if broken and rng.random() < 0.3:
        cut = rng.randrange(len(out) + 1)
        out = out[:cut] if rng.random() < 0.5 else out[:cut - 1] + bytes([rng.randrange(256)]) + out[cut:] if cut else out
    return out


def scalar(rng):
    kind = rng.choice([*KINDS, "string", "[u8]", "[f32]", "[string]", "[i64]"])
    if kind == "string":
        return kind, rng.choice(["", "x", "\u00e9" * 5])
    if kind == "[string]":
        return kind, ["a", "", "b" * rng.randrange(9)]
    return kind, [1, 0, 1][:rng.randrange(4)] if kind.startswith("[") else rng.randrange(2)


def break_tensor(rng, info):
    kind = rng.randrange(5)
    if kind == 0:
        info[0] = rng.choice(["", "t0", "x" * 63, "x" * 64, "\u00e9"])
    elif kind == 1:
        info[1] = rng.choice([[], [0], [1, 2, 3, 4, 5], [2**32, 2**32], [2**63, 1], [2**64 - 1], [31], [33], [256, 0, 2]])
    elif kind == 2:
        info[1] = [rng.choice(EDGES) for _ in info[1]]
    elif kind == 3:
        info[2] = rng.choice([4, 5, 9, 15, 16, 24, 25, 31, 40, 99, 2**31, 2**32 - 1])
    else:
        info[3] = info[3] + rng.choice([-32, -1, 1, 8, 32]) if rng.random() < 0.7 else rng.choice(EDGES)


# ---- verdicts

def peer_safetensors(data):
    try:
        deserialize(data)
        return ""
    except SafetensorError as error:
        return str(error)


def peer_gguf(data, place):
    with open(place, "wb") as file:
        file.write(data)
    signal.setitimer(signal.ITIMER_PROF, 0.1)  # it walks arrays of 2^32 elements that the file does not hold
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = gguf.GGUFReader(place)
            for tensor in reader.tensors:
                tensor.data.sum() if tensor.n_elements < 4096 and tensor.data.dtype.kind != "V" else None
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def out_of_time(*_):
    raise TimeoutError("does not end within 0.1 s")


def our_verdicts(program, format_, cases):
    stream = b"".join(format_ + struct.pack("<I", len(c)) + c for c in cases)
    out, at, verdicts = subprocess.run([program], input=stream, capture_output=True, check=True).stdout, 0, []
    for _ in cases:
        length = struct.unpack_from("<I", out, at)[0]
        verdicts.append(out[at + 4:at + 4 + length].decode())
        at += 4 + length
    assert at == len(out)
    return verdicts


def message_class(message):
    return re.sub(r"'[^']*'|\"[^\"]*\"|-?\d+(\.\d+)?|\[[^\]]*\]", "#", message)[:110]


def compare(name, format_, program, count, seed, generate, peer):
    rng, table, examples = random.Random(seed), collections.Counter(), {}
    for start in range(0, count, BATCH):
        cases = [generate(rng) for _ in range(min(BATCH, count - start))]
        for case, ours in zip(cases, our_verdicts(program, format_, cases)):
            theirs = peer(case)
            table[(not ours, not theirs)] += 1
            if bool(ours) != bool(theirs):
                key = (not ours, message_class(ours or theirs))
                examples.setdefault(key, [0, case])[0] += 1
    print(f"{name}: {count} files; both accept {table[True, True]}, both refuse {table[False, False]}, only we refuse {table[False, True]}, "
          f"only they refuse {table[True, False]}")
    bad = 0
    for (accepted, text), (times, case) in sorted(examples.items(), key=lambda e: -e[1][0]):
        excused = accepted and any(re.search(pattern, text) for pattern, _ in LENIENT[format_.decode()])
        bad += accepted and not excused
        print(f"  {'ONLY THEY REFUSE' if accepted else 'only we refuse'} {times:6} {text}   e.g. {case[:90]!r}")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--safetensors", type=int, default=800_000)
    parser.add_argument("--gguf", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGPROF, out_of_time)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        place = os.path.join(folder, "case.gguf")
        bad = compare("safetensors", b"s", options.program, options.safetensors, options.seed, safetensors_case, peer_safetensors)
        bad += compare("gguf", b"g", options.program, options.gguf, options.seed, gguf_case, lambda data: peer_gguf(data, place))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
