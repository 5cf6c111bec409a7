"""What the end-to-end tests share: running awq, tiny checkpoints, a tokenizer for them, safetensors in a few lines.

Only the standard library: these tests must run where awq runs.
"""
import hashlib, json, math, os, pathlib, random, shutil, struct, subprocess, sys, tempfile, unittest

AWQ = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "build/awq"
GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "data" / "golden"

TEXT = (
    "The tide went out before dawn, and the boats lay on their sides in the mud like sleeping cattle. "
    "A boy walked between them with a bucket, counting the crabs that had been left behind. "
    "\"Seven,\" he said to nobody, \"and one that has lost a claw.\"\n"
    "def area(w, h):\n    return w * h  # both in metres\n"
    "If 3 loaves feed 4 people, then 12 loaves feed 16; the ratio stays 3:4.\n"
)


def awq(*arguments, timeout=120, **options):
    options.setdefault("text", True)
    return subprocess.run([AWQ, *map(str, arguments)], capture_output=True, timeout=timeout, **options)


def long_text(copies=40):
    """Enough for a calibration without a warning; the numbers keep the copies from being equal."""
    return "".join(f"{i}. {TEXT}" for i in range(copies))


# --- safetensors -----------------------------------------------------------------------------------------------

def write_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}"""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (e["dtype"], e["shape"], data[8 + length + e["data_offsets"][0]:8 + length + e["data_offsets"][1]])
            for name, e in header.items()}


def data_offset(path, name):
    """Where the bytes of a tensor begin in its file."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        return 8 + length + json.loads(file.read(length))[name]["data_offsets"][0]


# --- tokenizer -------------------------------------------------------------------------------------------------

def write_tokenizer(folder, vocab=128):
    """A byte-level BPE over printable ASCII, space and newline, with merges learned by hand; other bytes are dropped."""
    symbols = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a"]
    tokens = ["<unk>", "<s>", "</s>", *symbols]
    merges = []
    for left, right in [("t", "h"), ("th", "e"), ("\u0120", "a"), ("\u0120", "the"), ("i", "n"), ("e", "r"), ("a", "n"), ("o", "n"),
                        ("\u0120", "w"), ("\u0120", "s"), ("an", "d"), ("\u0120", "and"), ("o", "u"), ("\u0120", "b"), ("e", "d")]:
        if len(tokens) >= vocab:
            break
        tokens.append(left + right)
        merges.append([left, right])
    special = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i in range(3)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}
    spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, indent=1))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast",\n   "eos_token": "</s>"}\n')


# --- models ----------------------------------------------------------------------------------------------------

def golden(name, into):
    """A copy of a recorded checkpoint with a tokenizer beside it."""
    folder = pathlib.Path(into) / name
    shutil.copytree(GOLDEN / name, folder, ignore=shutil.ignore_patterns("expected.safetensors"))
    write_tokenizer(folder)
    return folder


def llama_config(**changes):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
              "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "rms_norm_eps": 1e-05,
              "hidden_act": "silu", "max_position_embeddings": 2048, "vocab_size": 128, "tie_word_embeddings": True,
              "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0, "torch_dtype": "bfloat16"}
    return {**config, **changes}


def llama_shapes(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [config["vocab_size"], hidden]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes.update({p + "input_layernorm.weight": [hidden], p + "post_attention_layernorm.weight": [hidden],
                       p + "self_attn.q_proj.weight": [hidden, hidden], p + "self_attn.k_proj.weight": [kv, hidden],
                       p + "self_attn.v_proj.weight": [kv, hidden], p + "self_attn.o_proj.weight": [hidden, hidden],
                       p + "mlp.gate_proj.weight": [inner, hidden], p + "mlp.up_proj.weight": [inner, hidden],
                       p + "mlp.down_proj.weight": [hidden, inner]})
    return shapes


def bf16(values):
    """Rounded towards zero: any bf16 numbers will do as weights."""
    data = struct.pack(f"<{len(values)}f", *values)
    out = bytearray(2 * len(values))
    out[0::2], out[1::2] = data[2::4], data[3::4]
    return bytes(out)


def random_tensors(config, seed=1):
    """Weights of the usual size, with a few loud input channels as trained models have them."""
    rng, tensors = random.Random(seed), {}
    for name, shape in llama_shapes(config).items():
        n = math.prod(shape)
        if len(shape) == 1:
            values = [rng.choice([0.5, 1.0, 1.0, 1.0, 6.0]) for _ in range(n)]
        else:
            std = 1 / math.sqrt(shape[1])
            values = [rng.gauss(0, std) for _ in range(n)]
        tensors[name] = ("BF16", shape, bf16(values))
    return tensors


def write_model(folder, config, tensors=None, tokenizer=True):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_safetensors(folder / "model.safetensors", tensors or random_tensors(config))
    if tokenizer:
        write_tokenizer(folder, config["vocab_size"])
    return folder


def digests(folder):
    """SHA-256 of every file below a folder, by name."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()}


class TinyCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)
        self.calib = self.dir / "calib.txt"
        self.calib.write_text(long_text())

    def ok(self, *arguments, **options):
        """The JSON object a command prints, once it has succeeded."""
        done = awq(*arguments, "--json", **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def quantize(self, model, out, *arguments, **options):
        samples = [] if "--samples" in arguments else ["--samples", 8]
        return self.ok("quantize", model, "-o", out, "--calib", self.calib, *samples, *arguments, **options)
