#!/usr/bin/env python3
"""What `awq quantize` writes, read by a second implementation of the format that shares no code with it.

Usage: packing_test.py PATH_TO_AWQ          (needs numpy)

Quantizing is deterministic, so the same command with --format dense writes the weights that the packed files must mean.
"""
import contextlib, io, json, pathlib, random, shutil, subprocess, sys, tempfile, unittest

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "oracle"))
import numpy as np
import awq_gemm_numpy
import safetensors_numpy

AWQ = sys.argv.pop(1) if len(sys.argv) > 1 else "build/awq"
LINEARS = 7  # per block of a llama or qwen2

# One token per printable ASCII character: byte-level BPE without merges.
ASCII = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
              "fuse_unk": False, "byte_fallback": False, "vocab": {c: i for i, c in enumerate(ASCII)}, "merges": []},
}
CALIBRATION = "".join(random.Random(1).choices([chr(c) for c in range(32, 127)], k=3000))


class Packing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def source(self, name):
        directory = self.folder / name
        shutil.copytree(TESTS / "data" / "golden" / name, directory, ignore=shutil.ignore_patterns("expected.safetensors"))
        (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        return directory

    def quantize(self, source, output, *options):
        done = subprocess.run([AWQ, "quantize", source, "-o", self.folder / output, "--calib", "-", "--seq-len", "48", "--no-check",
                               "--quiet", *options], input=CALIBRATION, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.folder / output

    def both(self, name, *options):
        source = self.source(name)
        return (self.quantize(source, "packed", "--format", "gemm", *options),
                self.quantize(source, "dense", "--format", "dense", *options))

    def equal(self, packed, dense):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            same = awq_gemm_numpy.compare(awq_gemm_numpy.load(packed)[0], dense, 0.0)
        return same, said.getvalue()

    def test_packed_files_mean_the_dense_weights(self):
        for name, options, group, dense_linears in [
            ("llama-untied", ["--dtype", "float16", "--group-size", "8"], 8, 0),
            ("llama-tied", ["--dtype", "float16", "--group-size", "16"], 16, 0),
            ("llama-biases", ["--dtype", "float16", "--group-size", "16", "--sym"], 16, 0),
            ("llama-multi-query", ["--dtype", "bfloat16"], 64, 0),
            ("llama-head-dim", ["--dtype", "float16", "--group-size", "-1"], -1, 0),
            ("llama-sharded", ["--dtype", "float16", "--method", "rtn", "--group-size", "16"], 16, 0),
            ("qwen2-untied", ["--dtype", "float16", "--group-size", "16", "--skip", "down_proj"], 16, 1),
            ("qwen2-tied", ["--dtype", "bfloat16", "--group-size", "16", "--sym"], 16, 0),
        ]:
            with self.subTest(name=name, options=options):
                self.setUp()
                packed, dense = self.both(name, *options)
                same, said = self.equal(packed, dense)
                self.assertTrue(same, said)
                _, linears, config = awq_gemm_numpy.load(packed)
                layers = json.loads((packed / "config.json").read_text())["num_hidden_layers"]
                self.assertEqual(len(linears), layers * (LINEARS - dense_linears))
                self.assertEqual(config["group_size"], group)
                self.assertNotIn("quantization_config", json.loads((dense / "config.json").read_text()))

    def test_another_order_of_nibbles_would_be_noticed(self):
        packed, dense = self.both("llama-tied", "--dtype", "float16", "--group-size", "16")
        order = awq_gemm_numpy.ORDER
        self.addCleanup(setattr, awq_gemm_numpy, "ORDER", order)
        awq_gemm_numpy.ORDER = tuple(range(8))
        self.assertFalse(self.equal(packed, dense)[0])

    def test_rounding_to_nearest_stays_within_half_a_step_of_the_source(self):
        for symmetric in (False, True):
            with self.subTest(symmetric=symmetric):
                self.setUp()
                source = self.source("qwen2-untied")
                packed = self.quantize(source, "packed", "--method", "rtn", "--group-size", "16", "--format", "gemm",
                                       *(["--sym"] if symmetric else []))
                stored, dtypes = safetensors_numpy.read_directory(packed)
                original, _ = safetensors_numpy.read_directory(source)
                dense, linears, _ = awq_gemm_numpy.load(packed)
                for x in linears:
                    self.assertEqual([dtypes[f"{x}.{p}"] for p in ("qweight", "qzeros", "scales")], ["I32", "I32", "F16"])
                    step = np.repeat(stored[f"{x}.scales"].astype("<f4"), 16, 0).T
                    # An end of the range may be a little over half a step away: scale and zero point are rounded too.
                    # A symmetric code reaches from -8 to 7 steps, so its positive end loses up to a whole one.
                    steps = np.abs(dense[f"{x}.weight"] - original[f"{x}.weight"].astype("<f4")) / step
                    self.assertLess(steps.max(), 1.01, x)
                    self.assertLess(np.quantile(steps, 0.9), 0.5, x)
                    if symmetric:
                        self.assertTrue((awq_gemm_numpy.unpack(stored[f"{x}.qzeros"]) == 8).all(), x)

    def test_config_says_what_loaders_read(self):
        packed = self.quantize(self.source("qwen2-untied"), "packed", "--group-size", "16", "--format", "gemm", "--dtype", "float16")
        config = json.loads((packed / "config.json").read_text())
        skipped = config["quantization_config"].pop("modules_to_not_convert")
        self.assertEqual(config["quantization_config"],
                         {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"})
        self.assertEqual(skipped, ["lm_head"])
        self.assertEqual((config["torch_dtype"], config["architectures"]), ("float16", ["Qwen2ForCausalLM"]))


if __name__ == "__main__":
    unittest.main(verbosity=1)
