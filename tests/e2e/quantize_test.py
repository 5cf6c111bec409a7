#!/usr/bin/env python3
"""awq quantize from outside, on tiny checkpoints: every option, what the folder it writes holds, and that it runs.

Usage: quantize_test.py PATH_TO_AWQ
"""
import signal, time

from tiny import *

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def all_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(read_safetensors(path))
    return tensors


def levels(data, dtype, columns, group):
    """The most different values any group of a dense row holds, and whether they are symmetric about zero."""
    values = struct.unpack(f"<{len(data) // 2}e", data) if dtype == "F16" else \
        struct.unpack(f"<{len(data) // 2}f", b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))
    width = columns if group < 0 else group
    return max(len(set(values[i:i + width])) for i in range(0, len(values), width))


class Options(TinyCase):
    def setUp(self):
        super().setUp()
        self.model = golden("llama-tied", self.dir)  # hidden 64, MLP 48: groups of 16
        self.out = self.dir / "out"

    def run_of(self, *arguments, **options):
        return self.quantize(self.model, self.out, "--no-check", "--force", *arguments, **options)

    def generates(self, folder):
        result = self.ok("generate", folder, "-p", "The tide", "--max-tokens", 4, "--ignore-eos")
        self.assertEqual(result["tokens"], 4)

    def test_bits(self):
        for bits in (2, 3, 4, 8):
            with self.subTest(bits=bits):
                result = self.run_of("--bits", bits, "--group-size", 16, "--quality", "fast", *([] if bits == 4 else ["--format", "dense"]))
                self.assertEqual(result["scheme"], f"w{bits}g16z")
                self.assertEqual(result["format"], "gemm" if bits == 4 else "dense")
                self.assertAlmostEqual(result["bits_per_weight"], bits + (16 + bits) / 16)
                tensors = all_tensors(self.out)
                if bits == 4:
                    self.assertEqual(tensors["model.layers.0.mlp.up_proj.qweight"][:2], ("I32", [64, 6]))
                    self.assertEqual(config_of(self.out)["quantization_config"]["bits"], 4)
                else:
                    dtype, shape, data = tensors["model.layers.0.mlp.up_proj.weight"]
                    self.assertEqual((dtype, shape), ("F16", [48, 64]))
                    self.assertLessEqual(levels(data, dtype, 64, 16), 2**bits)
                    self.assertNotIn("quantization_config", config_of(self.out))
                self.generates(self.out)

    def test_group_sizes(self):
        wide = write_model(self.dir / "wide", llama_config(), tokenizer=True)  # inputs of 64 and 128
        for model, asked, group in [(self.model, 16, 16), (wide, 32, 32), (self.model, -1, -1), (wide, "auto", 64)]:
            with self.subTest(model=model.name, asked=asked):
                result = self.quantize(model, self.out, "--no-check", "--force", "--quality", "fast", "--group-size", asked)
                self.assertEqual(result["scheme"], f"w4g{group}z" if group > 0 else result["scheme"])
                quantization = config_of(self.out)["quantization_config"]
                self.assertEqual(quantization["group_size"], group)
                rows = 1 if group < 0 else 64 // group
                self.assertEqual(all_tensors(self.out)["model.layers.0.mlp.up_proj.scales"][1][0], rows)
                self.generates(self.out)

    def test_symmetric(self):
        result = self.run_of("--sym", "--group-size", 16)
        self.assertEqual(result["scheme"], "w4g16")
        zeros = [t[2] for name, t in all_tensors(self.out).items() if name.endswith(".qzeros")]
        self.assertTrue(zeros and all(z == b"\x88" * len(z) for z in zeros), "every zero point is 8")
        self.assertTrue(config_of(self.out)["quantization_config"]["zero_point"])
        self.generates(self.out)

    def test_formats_hold_the_same_weights(self):
        self.run_of("--format", "gemm", "--group-size", 16)
        dense = self.dir / "dense"
        result = self.quantize(self.model, dense, "--no-check", "--format", "dense", "--group-size", 16)
        self.assertEqual(result["format"], "dense")
        dtype, _, data = all_tensors(dense)["model.layers.1.mlp.down_proj.weight"]
        self.assertLessEqual(levels(data, dtype, 48, 16), 16)
        # Dense weights are the products of code and scale, rounded once more to 16 bits.
        text = self.dir / "eval.txt"
        text.write_text(long_text(16))
        kl = self.ok("eval", dense, "--task", "kl", "--reference", self.out, "--data", text, "--protocol", "llamacpp512")
        self.assertLess(kl["kl"], 1e-5)

    def test_dtypes(self):
        for asked, dtype, config_dtype in [("float16", "F16", "float16"), ("bfloat16", "BF16", "bfloat16"), ("auto", "F16", "float16")]:
            result = self.run_of("--dtype", asked, "--group-size", 16, "--quality", "fast")
            tensors = all_tensors(self.out)
            self.assertEqual((result["dtype"], tensors["model.norm.weight"][0], tensors["model.embed_tokens.weight"][0],
                              config_of(self.out)["torch_dtype"]), (config_dtype, dtype, dtype, config_dtype))
            self.assertEqual(tensors["model.layers.0.mlp.up_proj.scales"][0], "F16")
            if asked == "bfloat16":  # loaders that turn scales into the model's dtype must not change them
                scales = tensors["model.layers.0.mlp.up_proj.scales"][2]
                values = struct.unpack(f"<{len(scales) // 2}e", scales)
                self.assertTrue(all(struct.pack("<f", v)[:2] == b"\0\0" for v in values), "a scale is no bfloat16")

    def test_activations_beyond_float16_make_auto_choose_bfloat16(self):
        config = llama_config()
        tensors = random_tensors(config)
        loud = [200.0] * 64
        tensors["model.embed_tokens.weight"] = ("BF16", [128, 64], bf16([500.0 * ((i * 7919) % 64 - 32) for i in range(128 * 64)]))
        tensors["model.layers.0.post_attention_layernorm.weight"] = ("BF16", [64], bf16(loud))
        model = write_model(self.dir / "loud", config, tensors)
        self.assertEqual(self.quantize(model, self.out, "--no-check", "--quality", "fast")["dtype"], "bfloat16")

    def test_skip(self):
        self.run_of("--group-size", 16, "--quality", "fast", "--skip", "down_proj", "--skip", "layers.0")
        tensors, skipped = all_tensors(self.out), config_of(self.out)["quantization_config"]["modules_to_not_convert"]
        self.assertIn("model.layers.1.mlp.down_proj.weight", tensors)
        self.assertIn("model.layers.1.mlp.up_proj.qweight", tensors)
        self.assertFalse([name for name in tensors if name.startswith("model.layers.0.") and name.endswith(".qweight")])
        self.assertIn("model.layers.1.mlp.down_proj", skipped)
        self.assertNotIn("model.layers.1.mlp.up_proj", skipped)
        self.assertIn("lm_head", skipped)
        self.assertEqual(len([name for name in skipped if name.startswith("model.layers.0.")]), 7)
        self.generates(self.out)

    def test_parts_that_loaders_fuse_stay_together(self):
        plan = self.ok("quantize", self.model, "-o", self.out, "--dry-run", "--group-size", 16, "--skip", "layers.0.self_attn.q_proj")
        self.assertEqual({s["module"]: s["because"] for s in plan["skipped"]}, {
            "model.layers.0.self_attn.q_proj": "--skip layers.0.self_attn.q_proj",
            "model.layers.0.self_attn.k_proj": "loaders fuse it with q_proj, which is left out",
            "model.layers.0.self_attn.v_proj": "loaders fuse it with q_proj, which is left out"})
        self.run_of("--group-size", 16, "--quality", "fast", "--skip", "layers.0.self_attn.q_proj")
        tensors = all_tensors(self.out)
        for module in ATTENTION:
            self.assertIn(f"model.layers.0.{module}.weight", tensors)
            self.assertIn(f"model.layers.1.{module}.qweight", tensors)
        self.generates(self.out)

    def test_rtn_needs_no_text(self):
        done = awq("quantize", self.model, "-o", self.out, "--method", "rtn", "--no-check", "--group-size", 16, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        result = json.loads(done.stdout)
        self.assertEqual({layer["chosen"] for layer in result["layers"]}, {"round to nearest"})
        self.assertNotIn("check", result)
        manifest = json.loads((self.out / "manifest.json").read_text())
        self.assertIsNone(manifest.get("calibration"))
        self.generates(self.out)

    def test_calibration_from_txt_jsonl_and_standard_input(self):
        text = self.calib.read_text()
        lines = self.dir / "calib.jsonl"
        lines.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in (text[:9000], text[9000:])))
        weights = []
        for source, stdin in [(self.calib, None), (lines, None), ("-", text), ("-", lines.read_text())]:
            done = awq("quantize", self.model, "-o", self.out, "--no-check", "--force", "--group-size", 16, "--quality", "fast",
                       "--calib", source, "--json", input=stdin)
            self.assertEqual(done.returncode, 0, done.stderr)
            weights.append(digests(self.out)["model.safetensors"])
            manifest = json.loads((self.out / "manifest.json").read_text())["calibration"]
            self.assertEqual(manifest["name"], "standard input" if source == "-" else source.name)
            content = stdin if source == "-" else source.read_text()
            self.assertEqual(manifest["sha256"], hashlib.sha256(content.encode()).hexdigest())
        self.assertEqual(weights[0], weights[2], "text through a pipe or from a file")
        self.assertEqual(weights[1], weights[3], "records through a pipe or from a file")

    def test_two_short_sentences_work_with_a_warning(self):
        done = awq("quantize", self.model, "-o", self.out, "--no-check", "--group-size", 16, "--calib", "-",
                   input="The tide went out. The boats lay still.")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"\Aawq: warning: only \d+ tokens of calibration text[^\n]+\n\Z")
        self.generates(self.out)

    def test_samples_and_their_length(self):
        result = self.run_of("--group-size", 16, "--quality", "fast", "--samples", 3, "--seq-len", 64)
        calibration = json.loads((self.out / "manifest.json").read_text())["calibration"]
        self.assertEqual((calibration["samples"], calibration["tokens"]), (3, 192))
        self.assertEqual(result["linears"], 14)


    def test_samples_can_be_found_automatically(self):
        pathlib.Path(self.calib).write_text(long_text(120))
        result = self.run_of("--group-size", 16, "--samples", "auto", "--seq-len", 64)
        samples, manifest = result["samples"], json.loads((self.out / "manifest.json").read_text())
        self.assertTrue(samples["automatic"])
        self.assertEqual(manifest["calibration"]["samples"], samples["used"])
        self.assertEqual(manifest["options"]["samples"], "auto")
        self.assertLessEqual(samples["used"], min(256, samples["available"]))
        self.assertEqual([s["fitted"] for s in samples["steps"]], [8 << i for i in range(len(samples["steps"]))])
        if samples["converged"]:
            self.assertLess(samples["steps"][-1]["gap"], 0.04)
        self.assertIn("--samples auto", (self.out / "README.md").read_text())
        again = self.run_of("--group-size", 16, "--samples", "auto", "--seq-len", 64, "--threads", 1)
        self.assertEqual(again["samples"], samples)
        given = self.run_of("--group-size", 16, "--samples", 9, "--seq-len", 64)
        self.assertEqual(given["samples"], {"automatic": False, "used": 9})
        words = awq("quantize", self.model, "-o", self.out, "--no-check", "--force", "--group-size", 16, "--samples", "auto", "--calib", self.calib,
                    "--seq-len", 64, "--quality", "fast")
        self.assertRegex(words.stdout, r"calib  \d+ sequences of 64 tokens")


class Folder(TinyCase):
    def test_dry_run_predicts_the_size_on_disk_and_writes_nothing(self):
        for name in ("llama-untied", "llama-biases", "qwen2-tied", "llama-sharded"):
            for arguments in (["--group-size", 16], ["--group-size", 16, "--format", "dense"], ["--group-size", 16, "--skip", "o_proj"]):
                model, out = self.dir / name, self.dir / "out"
                if not model.exists():
                    golden(name, self.dir)
                shutil.rmtree(out, ignore_errors=True)
                start = time.monotonic()
                plan = self.ok("quantize", model, "-o", out, "--dry-run", *arguments)
                self.assertLess(time.monotonic() - start, 2)
                self.assertFalse(out.exists())
                self.ok("quantize", model, "-o", out, "--method", "rtn", "--no-check", *arguments)
                written = sum(p.stat().st_size for p in out.glob("model*"))
                self.assertEqual(plan["weight_bytes"], written)
        text = awq("quantize", model, "-o", out, "--dry-run", "--group-size", 16).stdout
        for word in ("model ", "plan ", "skip ", "output ", "needs ", "(exact", "free on disk", "of memory", "threads"):
            self.assertIn(word, text)

    def test_side_files_are_kept_byte_for_byte(self):
        model, out = golden("llama-untied", self.dir), self.dir / "out"
        sides = {"generation_config.json": '{"eos_token_id":2 ,\n\n "temperature": 0.6}', "chat_template.jinja": "{{ messages }}\r\n",
                 "special_tokens_map.json": "{}", "LICENSE": "as you like\n"}
        for name, content in sides.items():
            (model / name).write_bytes(content.encode())
        (model / "README.md").write_text("---\nlicense: mit\n---\n# The source\n")
        (model / "training_args.bin").write_bytes(b"not needed")
        self.quantize(model, out, "--no-check", "--group-size", 16, "--quality", "fast")
        for name in (*sides, "tokenizer.json", "tokenizer_config.json"):
            self.assertEqual((out / name).read_bytes(), (model / name).read_bytes(), name)
        self.assertEqual((out / "README.source.md").read_bytes(), (model / "README.md").read_bytes())
        self.assertFalse((out / "training_args.bin").exists())
        card = (out / "README.md").read_text()
        front = card.split("---\n")[1]
        for line in ("base_model: llama-untied", "base_model_relation: quantized", "license: mit", "- awq"):
            self.assertIn(line + "\n", front)
        self.assertIn("awq quantize llama-untied -o out", card)
        for path in out.iterdir():
            self.assertNotIn(str(self.dir).encode(), path.read_bytes(), path.name)

    def test_the_manifest_lists_every_file(self):
        model, out = golden("llama-untied", self.dir), self.dir / "out"
        self.quantize(model, out, "--no-check", "--group-size", 16, "--quality", "fast")
        manifest = json.loads((out / "manifest.json").read_text())
        found = digests(out)
        del found["manifest.json"]
        self.assertEqual({f["name"]: f["sha256"] for f in manifest["files"]}, found)
        self.assertEqual(len(manifest["layers"]), 14)

    def test_config_keys_keep_their_order(self):
        for name in ("llama-untied", "llama-rope-linear-v4", "qwen2-tied"):
            model, out = golden(name, self.dir), self.dir / f"{name}-out"
            self.ok("quantize", model, "-o", out, "--method", "rtn", "--no-check", "--group-size", 16)
            source, written = config_of(model), config_of(out)
            kept = [key for key in written if key in source]
            self.assertEqual(kept, list(source))
            for key in source:
                if key not in ("dtype", "torch_dtype"):
                    self.assertEqual(written[key], source[key])

    def test_a_tied_head_stays_tied(self):
        for name, tied in (("llama-tied", True), ("llama-untied", False)):
            model, out = golden(name, self.dir), self.dir / f"{name}-out"
            self.ok("quantize", model, "-o", out, "--method", "rtn", "--no-check", "--group-size", 16)
            self.assertEqual("lm_head.weight" in all_tensors(out), not tied)
            self.assertEqual(config_of(out)["tie_word_embeddings"], tied)

    def test_gemma_keeps_its_function(self):
        for name, group in (("gemma3-layer-types-v5", 16), ("gemma3-pattern-v4", 16), ("gemma2-softcaps", 48)):
            with self.subTest(name=name):
                model = golden(name, self.dir)
                rounded, scaled = self.dir / f"{name}-rtn", self.dir / f"{name}-awq"
                self.ok("quantize", model, "-o", rounded, "--method", "rtn", "--bits", 8, "--format", "dense", "--dtype", "bfloat16",
                        "--group-size", group, "--no-check")
                # Without scales a norm is written as it was read: w, not 1 + w.
                norm = "model.layers.1.pre_feedforward_layernorm.weight"
                source = struct.unpack("<48f" if "gemma2" in name else "<32f", all_tensors(model)[norm][2])
                dtype, _, data = all_tensors(rounded)[norm]
                written = struct.unpack(f"<{len(source)}f", b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))
                self.assertEqual(dtype, "BF16")
                for w, s in zip(written, source):
                    self.assertAlmostEqual(w, s, delta=abs(s) / 200)
                # With 8 bits what is left is the rounding of what is not quantized, folded norms included.
                result = self.quantize(model, scaled, "--bits", 8, "--format", "compressed-tensors", "--dtype", "float16",
                                       "--group-size", group)
                self.assertLess(result["check"]["kl"], 1e-3)
                self.assertNotEqual(all_tensors(scaled)[norm][2], all_tensors(rounded)[norm][2])
                again = self.ok("eval", scaled, "--task", "kl", "--reference", model, "--protocol", "llamacpp512", "--limit", 1)
                self.assertLess(again["kl"], 1e-3)

    def test_a_sharded_source_gives_what_the_single_file_gives(self):
        sharded = golden("llama-sharded", self.dir)
        single = self.dir / "single" / "llama-sharded"
        single.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(sharded / name, single / name)
        write_safetensors(single / "model.safetensors", all_tensors(sharded))
        outs = [self.dir / "a" / "out", self.dir / "b" / "out"]
        for model, out in zip((sharded, single), outs):
            self.quantize(model, out, "--no-check", "--group-size", 16)
        self.assertEqual(digests(outs[0])["model.safetensors"], digests(outs[1])["model.safetensors"])
        self.assertFalse((outs[0] / "model.safetensors.index.json").exists())

    def test_a_second_run_gives_the_same_bytes_and_force_replaces(self):
        model, out = golden("qwen2-untied", self.dir), self.dir / "out"
        self.quantize(model, out, "--no-check", "--group-size", 16)
        first = digests(out)
        (out / "stray").write_text("from an older version")
        self.quantize(model, out, "--no-check", "--group-size", 16, "--force")
        self.assertEqual(digests(out), first)
        self.assertEqual(sorted(p.name for p in self.dir.iterdir()), ["calib.txt", "out", "qwen2-untied"])

    def test_the_default_name_stands_beside_the_work(self):
        golden("llama-untied", self.dir)
        result = self.ok("quantize", "llama-untied", "--method", "rtn", "--no-check", "--group-size", 16, cwd=self.dir)
        self.assertEqual(result["output"], "llama-untied-awq")
        self.assertTrue((self.dir / "llama-untied-awq" / "manifest.json").exists())


class Check(TinyCase):
    def test_the_check_agrees_with_eval_and_the_result_reloads(self):
        model, out = golden("llama-untied", self.dir), self.dir / "out"
        done = awq("quantize", model, "-o", out, "--calib", self.calib, "--group-size", 16, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        check = result["check"]
        # Windows as long as the check's, over the same text: the means agree within their intervals and a little.
        kl = self.ok("eval", out, "--task", "kl", "--reference", model, "--data", "builtin", "--precision", "bf16", "--protocol", "llamacpp512")
        self.assertAlmostEqual(check["kl"], kl["kl"], delta=2 * (check["kl_ci95"] + kl["kl_ci95"]))
        self.assertAlmostEqual(check["top1_agreement"], kl["top1_agreement"], delta=0.03)
        self.assertAlmostEqual(math.log(check["perplexity"] / check["perplexity_source"]),
                               math.log(kl["perplexity"] / kl["reference_perplexity"]), delta=0.02)
        manifest = json.loads((out / "manifest.json").read_text())
        self.assertEqual(manifest["check"]["kl"], check["kl"])
        errors = {layer["module"]: layer["relative_error"] for layer in result["layers"]}
        self.assertEqual(result["worst"], max(errors, key=errors.get))
        self.assertEqual(result["bytes"] + (out / "manifest.json").stat().st_size, sum(p.stat().st_size for p in out.iterdir()))
        ppl = self.ok("eval", out, "--task", "ppl", "--data", "builtin", "--limit", 2)
        self.assertEqual(ppl["windows"], 2)
        inspected = awq("inspect", out)
        self.assertIn("AWQ gemm, 4 bits, group size 16", inspected.stdout)

    def test_awq_is_closer_to_the_source_than_rounding(self):
        config = llama_config(num_hidden_layers=2)
        model = write_model(self.dir / "model", config)
        kl = {}
        for method in ("awq", "rtn"):
            out = self.dir / method
            self.quantize(model, out, "--method", method, "--no-check", "--bits", 3, "--group-size", 64)
            kl[method] = self.ok("eval", out, "--task", "kl", "--reference", model, "--data", self.calib, "--protocol", "llamacpp512",
                                 "--limit", 8)["kl"]
        self.assertLess(kl["awq"], 0.8 * kl["rtn"])


class Signals(TinyCase):
    def test_a_job_stopped_in_its_first_block_leaves_nothing(self):
        # Large enough that the search runs for many seconds.
        config = llama_config(hidden_size=256, intermediate_size=512, num_hidden_layers=6)
        model = write_model(self.dir / "model", config)
        before = sorted(self.dir.iterdir())
        for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
            job = subprocess.Popen([AWQ, "quantize", str(model), "-o", str(self.dir / "deep" / "out"), "--samples", "128",
                                    "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            deadline = time.monotonic() + 60
            while not list(self.dir.glob("deep/.out.partial")) and job.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.2)
            self.assertIsNone(job.poll(), "it must still be at work")
            job.send_signal(number)
            stdout, stderr = job.communicate(timeout=60)
            self.assertEqual((job.returncode, stdout), (status, ""), stderr)
            self.assertRegex(stderr, r"awq: stopped: no block was finished, nothing is kept\n\Z")
            self.assertEqual(sorted(self.dir.iterdir()), before)


if __name__ == "__main__":
    unittest.main()
