#!/usr/bin/env python3
"""awq verify: one case for each rule, damage anywhere in an output, and what it prints."""
import copy, json, struct, unittest

from flips import check_flips
from tiny import AWQ, GOLDEN, TinyCase, awq, llama_config, write_model, write_safetensors

HIDDEN, INNER, VOCAB, GROUP = 64, 128, 32, 32
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
          "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": VOCAB, "torch_dtype": "float16",
          "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
          "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
                                  "modules_to_not_convert": ["lm_head"]}}
LAYER = "model.layers.0."
LINEARS = {LAYER + "self_attn.q_proj": (HIDDEN, HIDDEN), LAYER + "self_attn.k_proj": (HIDDEN, HIDDEN),
           LAYER + "self_attn.v_proj": (HIDDEN, HIDDEN), LAYER + "self_attn.o_proj": (HIDDEN, HIDDEN),
           LAYER + "mlp.gate_proj": (INNER, HIDDEN), LAYER + "mlp.up_proj": (INNER, HIDDEN), LAYER + "mlp.down_proj": (HIDDEN, INNER)}
HALF = 0x3C00  # 1.0 as fp16


def dense(*shape):
    count = 1
    for d in shape:
        count *= d
    return ("F16", list(shape), struct.pack("<H", HALF) * count)


def packed(module, out, inputs, group=GROUP, scale=("F16", struct.pack("<H", HALF))):
    return {module + ".qweight": ("I32", [inputs, out // 8], b"\x51" * (inputs * out // 2)),
            module + ".qzeros": ("I32", [inputs // group, out // 8], b"\x77" * (inputs // group * out // 2)),
            module + ".scales": (scale[0], [inputs // group, out], scale[1] * (inputs // group * out))}


class Checkpoint:
    """A valid one in memory: `config`, `tensors`; written to a folder, whole or in two shards."""

    def __init__(self):
        self.config = copy.deepcopy(CONFIG)
        self.tensors = {"model.embed_tokens.weight": dense(VOCAB, HIDDEN), "model.norm.weight": dense(HIDDEN),
                        "lm_head.weight": dense(VOCAB, HIDDEN), LAYER + "input_layernorm.weight": dense(HIDDEN),
                        LAYER + "post_attention_layernorm.weight": dense(HIDDEN)}
        for module, (out, inputs) in LINEARS.items():
            self.tensors.update(packed(module, out, inputs))
        self.files = {}
        self.sharded = False

    @property
    def settings(self):
        return self.config["quantization_config"]

    def unpack(self, module):
        for suffix in (".qweight", ".qzeros", ".scales"):
            del self.tensors[module + suffix]
        self.tensors[module + ".weight"] = dense(*LINEARS[module])

    def resize(self, out, inputs, group=GROUP):
        self.config["intermediate_size"] = out
        self.settings["group_size"] = group
        for module in LINEARS:
            self.unpack(module)
            n, k = LINEARS[module]
            n, k = (out if n == INNER else n), (inputs if k == INNER else k)
            del self.tensors[module + ".weight"]
            self.tensors.update(packed(module, n, k, group))

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        if self.sharded:
            names, map_ = sorted(self.tensors), {}
            for number, part in enumerate((names[::2], names[1::2]), 1):
                shard = f"model-0000{number}-of-00002.safetensors"
                write_safetensors(folder / shard, {name: self.tensors[name] for name in part})
                map_.update({name: shard for name in part})
            total = sum(len(data) for _, _, data in self.tensors.values())
            self.index = {"metadata": {"total_size": total}, "weight_map": map_}
            (folder / "model.safetensors.index.json").write_text(json.dumps(self.index))
        else:
            write_safetensors(folder / "model.safetensors", self.tensors)
        for name, change in self.files.items():
            change(folder / name)


def edit_index(change):
    def run(path):
        index = json.loads(path.read_text())
        change(index)
        path.write_text(json.dumps(index))
    return run


def replace(checkpoint, name, dtype=None, shape=None, data=None):
    old = checkpoint.tensors[name]
    checkpoint.tensors[name] = (dtype or old[0], shape or old[1], data if data is not None else old[2])


def first_half(value):
    return lambda old: struct.pack("<H", value) + old[2:]


UP, DOWN, Q = LAYER + "mlp.up_proj", LAYER + "mlp.down_proj", LAYER + "self_attn.q_proj"


def case(rule, change, target=None, severity="error"):
    return rule, change, target, severity


def poke(name, value):
    return lambda c: replace(c, name, data=first_half(value)(c.tensors[name][2]))


def sharded(change):
    def run(c):
        c.sharded = True
        c.files["model.safetensors.index.json"] = edit_index(change)
    return run


def set_key(key, value):
    return lambda c: c.settings.__setitem__(key, value)


def drop_key(key):
    return lambda c: c.settings.pop(key)


def elsewhere(c):
    settings = c.config.pop("quantization_config")
    c.files["quant_config.json"] = lambda path: path.write_text(json.dumps(settings))


def rename_first(index):
    name = next(iter(index["weight_map"]))
    index["weight_map"][name + "x"] = index["weight_map"].pop(name)


# What verify says, what breaks it, and for which target.
CASES = [
    case("open", lambda c: c.files.update({"model.safetensors": lambda p: p.write_bytes(p.read_bytes()[:-1])})),
    case("safetensors", lambda c: c.files.update({"more.safetensors": lambda p: p.write_bytes(b"\x01")})),
    case("open", lambda c: c.files.update({"config.json": lambda p: p.write_text("{")})),
    case("config", lambda c: c.config.pop("hidden_size")),
    case("manifest", lambda c: c.files.update({"manifest.json": lambda p: p.write_text("{}")})),
    case("manifest", lambda c: None, severity="note"),
    case("metadata", lambda c: None, severity="note"),
    case("index", sharded(lambda index: index["metadata"].update(total_size=1)), severity="note"),
    case("index", sharded(rename_first)),
    case("index", sharded(lambda index: index["weight_map"].update({"x": "model-00003-of-00002.safetensors"}))),
    case("index", sharded(lambda index: index["weight_map"].update({"model.norm.weight": "../x.safetensors"}))),
    case("missing", lambda c: c.tensors.pop("model.norm.weight")),
    case("missing", lambda c: c.tensors.pop(UP + ".qzeros")),
    case("missing", lambda c: c.config.update(attention_bias=True)),
    case("missing", lambda c: c.config.update(num_hidden_layers=2)),
    case("unexpected", lambda c: c.tensors.update({Q + ".bias": dense(HIDDEN)})),
    case("unexpected", lambda c: c.tensors.update({LAYER + "self_attn.rotary_emb.inv_freq": dense(16)}), severity="note"),
    case("shape", lambda c: c.config.update(vocab_size=VOCAB + 1)),
    case("shape", set_key("group_size", 64)),
    case("dtype", lambda c: replace(c, "model.norm.weight", "I16")),
    case("dtype", lambda c: replace(c, UP + ".qweight", "F32")),
    case("nonfinite", poke("model.embed_tokens.weight", 0x7E00)),
    case("nonfinite", poke(UP + ".scales", 0x7C00)),
    case("zero_scale", poke(UP + ".scales", 0x8000)),
    case("symmetric_zero", set_key("zero_point", False)),
    case("architectures", lambda c: c.config.pop("architectures"), "vllm"),
    case("architectures", lambda c: c.config.update(architectures=[]), "tgi"),
    case("config_json", elsewhere, "transformers"),
    case("config_json", elsewhere, "tgi"),
    case("keys", drop_key("zero_point"), "vllm"),
    case("keys", drop_key("group_size"), "sglang"),
    case("keys", drop_key("bits"), "tgi"),
    case("quant_method", lambda c: (drop_key("quant_method")(c), set_key("w_bit", 4)(c)), "transformers"),
    case("group_kernels", lambda c: c.resize(INNER, INNER, 16), "vllm", "note"),
    case("zero_point", set_key("zero_point", False), "vllm", "note"),
    case("whole_groups", lambda c: c.config.update(intermediate_size=INNER + 8), "transformers"),
    case("whole_words", lambda c: c.config.update(intermediate_size=INNER + 4), "vllm"),
    case("wide_rows", lambda c: c.resize(96, 96), "sglang", "note"),
    case("scales_dtype", lambda c: replace(c, UP + ".scales", "F32", data=struct.pack("<f", 1.0) * (len(c.tensors[UP + ".scales"][2]) // 2)), "vllm"),
    case("fused_parts", lambda c: (c.unpack(Q), set_key("modules_to_not_convert", ["q_proj"])(c)), "vllm"),
    case("lm_head", lambda c: (c.tensors.pop("lm_head.weight"), c.tensors.update(packed("lm_head", VOCAB, HIDDEN))), "vllm"),
    case("embedding", lambda c: c.tensors.update(packed("model.embed_tokens", VOCAB, HIDDEN)), "vllm"),
    case("skip_list_packed", set_key("modules_to_not_convert", ["mlp.gate"]), "vllm"),
    case("skip_list_packed", set_key("modules_to_not_convert", ["gate_up"]), "sglang"),
    case("skip_list_packed", set_key("modules_to_not_convert", ["down_proj"]), "transformers"),
    case("skip_list_dense", lambda c: c.unpack(DOWN), "sglang"),
    case("skip_list_dense", lambda c: (c.unpack(DOWN), set_key("modules_to_not_convert", ["layers.0.mlp.down"])(c)), "transformers"),
    case("no_exceptions", lambda c: (c.unpack(DOWN), set_key("modules_to_not_convert", ["down_proj"])(c)), "tgi"),
    case("symmetric_zero", set_key("zero_point", False), "transformers"),
]
TARGETS = ["vllm", "sglang", "tgi", "transformers"]


def gguf(last=1.0):
    """A llama of one block, all ones but for the last weight."""
    def text(t):
        return struct.pack("<Q", len(t)) + t.encode()

    numbers = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 8, "attention.head_count": 2,
               "attention.head_count_kv": 2, "rope.dimension_count": 4}
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    keys += [text("llama." + key) + struct.pack("<II", 4, n) for key, n in numbers.items()]
    keys += [text("llama." + key) + struct.pack("<If", 6, x) for key, x in (("attention.layer_norm_rms_epsilon", 1e-5), ("rope.freq_base", 1e4))]
    tensors = [("token_embd", [8, 32]), ("output_norm", [8]), *((f"blk.0.{n}", [8, 8]) for n in
               ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")),
               ("blk.0.attn_norm", [8]), ("blk.0.ffn_norm", [8])]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    data = b""
    for name, dims in tensors:
        head += text(name + ".weight") + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", 0, len(data))
        count = 1
        for d in dims:
            count *= d
        data += struct.pack("<f", 1.0) * count
    return head + bytes(-len(head) % 32) + data[:-4] + struct.pack("<f", last)


class VerifyTest(TinyCase):
    def verify(self, path, target=None):
        done = awq("verify", path, "--json", *(["--target", target] if target else []))
        self.assertIn(done.returncode, (0, 1), done.stderr)
        result = json.loads(done.stdout)
        self.assertEqual(result["schema"], "awq.verify/1")
        self.assertEqual(result["ok"], done.returncode == 0)
        self.assertEqual(result["ok"], all(f["severity"] == "note" for f in result["findings"]))
        return result

    def test_valid_ones_have_no_error(self):
        for sharded_ in (False, True):
            checkpoint = Checkpoint()
            checkpoint.sharded = sharded_
            folder = self.dir / f"valid-{sharded_}"
            checkpoint.write(folder)
            for target in (None, *TARGETS):
                result = self.verify(folder, target)
                self.assertEqual([f for f in result["findings"] if f["rule"] not in ("manifest", "metadata")], [], target)
                if target:
                    self.assertEqual(result["target"]["basis"], "rule check, not run")
        for folder in sorted(GOLDEN.glob("llama-*")) + sorted(GOLDEN.glob("q*")) + sorted(GOLDEN.glob("autoawq/*")):
            self.assertTrue(self.verify(folder)["ok"], folder)

    def test_each_rule(self):
        for number, (rule, change, target, severity) in enumerate(CASES):
            with self.subTest(rule=rule, target=target, number=number):
                checkpoint = Checkpoint()
                change(checkpoint)
                folder = self.dir / str(number)
                checkpoint.write(folder)
                result = self.verify(folder, target)
                found = [(f["rule"], f["severity"]) for f in result["findings"]]
                self.assertIn((rule, severity), found)

    def test_every_rule_of_every_target_has_a_case(self):
        Checkpoint().write(self.dir / "m")
        tested = {rule for rule, _, _, _ in CASES}
        for target in TARGETS:
            for row in self.verify(self.dir / "m", target)["target"]["rules"]:
                if row["rule"] != "container":
                    self.assertIn(row["rule"], tested)

    def test_a_gguf_file(self):
        path = self.dir / "m.gguf"
        path.write_bytes(gguf())
        self.assertEqual(self.verify(path)["findings"], [])
        self.assertEqual([f["rule"] for f in self.verify(path, "vllm")["findings"]], ["container"])
        path.write_bytes(gguf()[:-4])
        self.assertEqual([f["rule"] for f in self.verify(path)["findings"]], ["open"])
        path.write_bytes(gguf(float("inf")))
        self.assertEqual([f["rule"] for f in self.verify(path)["findings"]], ["nonfinite"])

    def test_damage_anywhere(self):
        """Bits and lengths at random places of all files of an output (tests/full/verify_flips.py makes 10,000)."""
        out = self.dir / "out"
        self.quantize(write_model(self.dir / "model", llama_config()), out, "--no-check", "--group-size", 32)
        self.assertTrue(self.verify(out, "vllm")["ok"])
        self.assertEqual(check_flips(AWQ, out, 100, seed=1), [])
        (out / "notes.txt").write_text("x")
        self.assertTrue(self.verify(out)["ok"])
        (out / "more.py").write_text("x")
        self.assertFalse(self.verify(out)["ok"])

    def test_words(self):
        Checkpoint().write(self.dir / "m")
        done = awq("verify", self.dir / "m", "--target", "vllm")
        self.assertEqual(done.returncode, 0)
        self.assertIn("no error", done.stdout)
        self.assertIn("vLLM 0.33: rule check, not run", done.stdout)
        self.assertEqual(awq("verify", self.dir / "m", "--target", "vlm").returncode, 2)
        done = awq("verify", self.dir / "no\n\x1b[2Jfile")
        self.assertEqual((done.returncode, done.stderr.count("\n"), done.stderr.count("\x1b")), (1, 1, 0), done.stderr)


if __name__ == "__main__":
    unittest.main()
