#!/usr/bin/env python3
"""First errors: what a newcomer meets is said in one line that names the way out, and nothing is left behind.

Usage: errors_test.py PATH_TO_AWQ
"""
import os, stat

from tiny import *

UP = "model.layers.0.mlp.up_proj.weight"


class FirstErrors(TinyCase):
    def setUp(self):
        super().setUp()
        self.config = llama_config()
        self.model = write_model(self.dir / "model", self.config)
        self.weights = self.model / "model.safetensors"

    def files(self):
        return sorted(str(p) for p in self.dir.rglob("*"))

    def refused(self, *arguments, line, status=1, **options):
        """awq must exit with `status` after one line, equal to `line` (DIR stands for the test's folder)."""
        before = self.files()
        done = awq(*arguments, cwd=self.dir, **options)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertEqual(done.stderr.replace(str(self.dir), "DIR"), f"awq: error: {line}\n")
        self.assertEqual(self.files(), before)

    def quantize_refused(self, *arguments, model=None, line, **options):
        self.refused("quantize", model or self.model, "-o", "out", "--calib", self.calib, *arguments, line=line, **options)

    def test_a_model_that_is_not_in_the_cache_names_the_command_that_fetches_it(self):
        hub = {**os.environ, "HF_HUB_CACHE": str(self.dir / "hub")}
        self.refused("quantize", "some-org/some-model", env=hub,
                     line="some-org/some-model: no such folder, and not in the cache DIR/hub; "
                          "fetch it with: hf download some-org/some-model")
        self.refused("generate", "no/such/folder", "-p", "x", env=hub,
                     line="no/such/folder: no such file or folder (expected a model folder, a .gguf file or org/name)")

    def test_a_group_size_that_does_not_divide_names_one_that_does(self):
        wide = write_model(self.dir / "wide", llama_config(hidden_size=576, num_attention_heads=9, num_key_value_heads=3))
        for extra in ([], ["--dry-run"]):
            self.quantize_refused("--group-size", 128, *extra, model=wide,
                                  line="group size 128 does not divide q_proj's 576 inputs: use --group-size auto or 64")
        odd = write_model(self.dir / "odd", llama_config(hidden_size=24, num_attention_heads=1, num_key_value_heads=1))
        self.quantize_refused("--group-size", 64, model=odd,
                              line="group size 64 does not divide q_proj's 24 inputs: use --group-size -1")
        self.quantize_refused(model=odd, line="--group-size auto: none of 128, 64, 32 divides the inputs of all linears; "
                                              "use --group-size -1")

    def test_an_unknown_architecture_names_the_known_ones(self):
        write_model(self.model, {**self.config, "model_type": "mamba2"}, {"a": ("F32", [1], bytes(4))})
        done = awq("quantize", self.model, cwd=self.dir)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Aawq: error: \S+model: model_type 'mamba2' is not supported "
                                      r"\(known: llama, ([a-z0-9_]+, )*qwen2(, [a-z0-9_]+)*\)\n\Z")

    def test_a_pickle_names_the_safe_way(self):
        os.rename(self.weights, self.model / "pytorch_model.bin")
        self.quantize_refused(line="DIR/model/pytorch_model.bin: a pickle can run code when it is read, so it is not read here; "
                                   "convert it where you trust it: python -c \"from transformers import AutoModelForCausalLM as M; "
                                   "M.from_pretrained('DIR/model').save_pretrained('DIR/model-safetensors')\"")

    def test_an_already_quantized_source(self):
        self.quantize(self.model, self.dir / "done", "--no-check")
        self.quantize_refused(model=self.dir / "done",
                              line="DIR/done: expected an unquantized checkpoint, got one that is already quantized (AWQ w4 g64)")

    def test_an_output_that_stands_needs_force_and_foreign_files_are_never_replaced(self):
        out = self.dir / "out"
        self.quantize(self.model, out, "--no-check")
        before = digests(out)
        self.quantize_refused(line="DIR/out: already holds a finished output: use --force to replace it, or choose another directory")
        self.assertEqual(digests(out), before)
        (out / "manifest.json").unlink()
        for force in ([], ["--force"]):
            self.quantize_refused(*force, line="DIR/out: exists and holds files that awq did not write (no manifest.json of awq): "
                                               "choose another directory")

    def test_too_little_disk(self):
        # A hole makes the file as large as its header says without filling the disk: twice what is free here.
        disk = os.statvfs(self.dir)
        free = disk.f_bavail * disk.f_frsize
        if free > 4 << 40:
            self.skipTest("file systems that large may not hold a file twice as large")
        rows = max(2 * free // (2 * 4096), 1)
        config = llama_config(vocab_size=rows, hidden_size=4096, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=1,
                              intermediate_size=32)
        header, offset = {}, 0
        for name, shape in llama_shapes(config).items():
            size = 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        huge = write_model(self.dir / "huge", config, {"a": ("F32", [1], bytes(4))}, tokenizer=False)
        with open(huge / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
        write_tokenizer(huge)
        done = awq("quantize", huge, "-o", "out", "--calib", self.calib, "--no-check", cwd=self.dir)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        size = r"[\d.]+ [KMGT]?i?B \(\d+ bytes\)"
        self.assertRegex(done.stderr, rf"\Aawq: error: \S+/out: too little disk: needs {size}, [\d.]+ [KMGT]?i?B free \(\d+ bytes\)\n\Z")
        self.assertFalse((self.dir / "out").exists())

    def test_a_truncated_file(self):
        data, offset = self.weights.read_bytes(), data_offset(self.weights, "model.layers.0.mlp.down_proj.weight")
        self.weights.write_bytes(data[:-100])
        self.quantize_refused(line="DIR/model/model.safetensors: tensor 'model.layers.0.mlp.down_proj.weight': "
                                   f"at offset {offset}: expected 16384 bytes, the file ends after 16284 (truncated?)")

    def test_a_mis_shaped_or_missing_tensor(self):
        tensors = random_tensors(self.config)
        write_safetensors(self.weights, {**tensors, UP: ("BF16", [64, 128], tensors[UP][2])})
        self.quantize_refused(line=f"DIR/model/model.safetensors: tensor '{UP}' at offset {data_offset(self.weights, UP)}: "
                                   "expected shape [128, 64], got [64, 128]")
        write_safetensors(self.weights, {name: t for name, t in tensors.items() if name != UP})
        self.quantize_refused("--dry-run", line=f"DIR/model: no tensor '{UP}'")

    def test_tensors_that_carry_nan_or_infinity(self):
        tensors = random_tensors(self.config)
        for value, said in ((b"\xc0\x7f", "nan"), (b"\x80\x7f", "inf"), (b"\x80\xff", "-inf")):
            data = bytearray(tensors[UP][2])
            data[200:202] = value
            write_safetensors(self.weights, {**tensors, UP: ("BF16", [128, 64], bytes(data))})
            for method in ("awq", "rtn"):
                self.quantize_refused("--method", method, "--no-check",
                                      line=f"DIR/model/model.safetensors: tensor '{UP}' at offset {data_offset(self.weights, UP)}: "
                                           f"expected finite values, got {said} at element 100")

    def test_a_missing_tokenizer(self):
        (self.model / "tokenizer.json").unlink()
        self.quantize_refused(line="DIR/model: expected a tokenizer.json or tokenizer.model in this folder, found none")

    def test_a_tokenizer_of_another_model(self):
        tensors = random_tensors({**self.config, "vocab_size": 40})
        write_model(self.model, {**self.config, "vocab_size": 40}, tensors)
        done = awq("quantize", self.model, "-o", "out", "--calib", self.calib, cwd=self.dir)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Aawq: error: \S+/model: the tokenizer gives id \d+, the model's vocabulary has 40\n\Z")

    def test_calibration_text_that_cannot_be_used(self):
        lines = self.dir / "texts.jsonl"
        for content, said in [
            ('{"text": "a"}\n\n{"text": "b"\n', 'line 3: expected a JSON object {"text": ...}, got invalid JSON (column 13)'),
            ('{"text": "a"}\n{"txt": "b"}\n', 'line 2: expected a JSON object {"text": ...}, got an object without "text"'),
            ('{"text": 7}\n', 'line 1: expected "text" to be a string, got number'),
            ("", "expected text, got an empty file"),
        ]:
            lines.write_text(content)
            self.refused("quantize", self.model, "-o", "out", "--calib", lines, line=f"DIR/texts.jsonl: {said}")
        latin = self.dir / "latin.txt"
        latin.write_bytes(b"caf\xe9 au lait")
        self.refused("quantize", self.model, "-o", "out", "--calib", latin,
                     line="DIR/latin.txt: expected UTF-8 text, got byte 0xe9 at offset 3")
        self.refused("quantize", self.model, "-o", "out", "--calib", self.dir / "none.txt",
                     line='DIR/none.txt: no such file; expected a text file, a .jsonl file, "builtin" or - for standard input')

    def test_a_directory_that_cannot_be_written(self):
        self.refused("quantize", self.model, "-o", self.calib / "out", "--calib", self.calib,
                     line="DIR/calib.txt/out: cannot create the directory: DIR/calib.txt is not a directory")
        if os.geteuid() == 0:
            return  # permissions do not stop root
        closed = self.dir / "closed"
        closed.mkdir()
        closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
        self.refused("quantize", self.model, "-o", closed / "out", "--calib", self.calib,
                     line="DIR/closed/out: cannot create the directory: DIR/closed: Permission denied")

    def test_what_cannot_be_asked_for(self):
        for arguments, line in [
            (["--skip", "dwn_proj"], "--skip dwn_proj: names no linear of this model"),
            (["--bits", 3, "--format", "gemm"], "--format gemm: 3 bits, expected 4"),
            (["--group-size", 4], "--group-size 4: expected auto, -1 (one group per output) or at least 8"),
        ]:
            self.quantize_refused(*arguments, line=line)

    def test_a_gpu_that_is_not_there(self):
        before = self.files()
        done = awq("quantize", self.model, "-o", "out", "--device", "cuda", cwd=self.dir, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"\Aawq: error: --device cuda: (no CUDA device|built without CUDA)[^\n]*; use --device auto or cpu\n\Z")
        self.assertEqual(self.files(), before)
        self.quantize_refused("--vram", "8GiB", line="--vram: expected --device cuda beside it")

    def test_wrong_flags_suggest_the_right_one(self):
        for arguments, said in [
            (["--bit", 3], "awq quantize has no option '--bit': did you mean --bits?"),
            (["--groupsize", 64], "awq quantize has no option '--groupsize': did you mean --group-size?"),
            (["--dryrun"], "awq quantize has no option '--dryrun': did you mean --dry-run?"),
            (["--method", "rnt"], "awq quantize: --method: 'rnt' is not one of awq, autoawq, gptq, rtn, nf4, smoothquant, llm-int8; did you mean rtn?"),
            (["--dtype", "bflot16"], "awq quantize: --dtype: 'bflot16' is not one of auto, float16, bfloat16; did you mean bfloat16?"),
            (["--group-size", "x"], "awq quantize: --group-size: 'x' is neither auto nor a positive number"),
            (["--samples", 0], "awq quantize: --samples: '0' is neither auto nor a positive number"),
        ]:
            self.quantize_refused(*arguments, status=2, line=said)
        self.refused("quantise", self.model, status=2, line="there is no command 'quantise': did you mean quantize?")


if __name__ == "__main__":
    unittest.main()
