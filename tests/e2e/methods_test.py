#!/usr/bin/env python3
"""Every method and every stored form, on tiny checkpoints: what is written, that it loads and runs as it was measured.

Usage: methods_test.py PATH_TO_AWQ
"""
from tiny import *

METHODS = ("awq", "autoawq", "gptq", "rtn", "nf4", "smoothquant", "llm-int8")


def settings_of(folder):
    return json.loads((folder / "config.json").read_text()).get("quantization_config")


class Methods(TinyCase):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.dir / "model", llama_config(num_hidden_layers=2))
        self.text = self.dir / "text.txt"
        self.text.write_text(long_text(12))

    def kl(self, folder):
        return self.ok("eval", folder, "--task", "kl", "--reference", self.model, "--data", self.text, "--protocol", "raw2048")

    def runs(self, folder):
        self.assertEqual(self.ok("generate", folder, "-p", "The tide", "--max-tokens", 4, "--ignore-eos")["tokens"], 4)

    def test_every_method_writes_its_form_and_runs(self):
        forms = {"nf4": ("bnb-nf4", "nf4g64", "bitsandbytes"), "smoothquant": ("int-quantized", "w8gc-a8", "compressed-tensors"),
                 "llm-int8": ("bnb-int8", "w8gc-a8o6", "bitsandbytes")}
        kl = {}
        for method in METHODS:
            with self.subTest(method=method):
                result = self.quantize(self.model, self.dir / method, "--method", method)
                form, scheme, owner = forms.get(method, ("gemm", "w4g64z", "awq"))
                self.assertEqual((result["format"], result["scheme"]), (form, scheme))
                self.assertEqual(settings_of(self.dir / method)["quant_method"], owner)
                self.assertEqual(json.loads((self.dir / method / "manifest.json").read_text())["method"], method)
                found = self.kl(self.dir / method)
                kl[method] = found["kl"]
                self.assertTrue(0 < found["kl"] < 2, found)
                self.runs(self.dir / method)
        # Eight bits beat four by far, and error compensation beats rounding.
        for eight in ("smoothquant", "llm-int8"):
            self.assertLess(10 * kl[eight], kl["rtn"])
        self.assertLess(kl["gptq"], kl["rtn"])
        self.assertLess(kl["awq"], kl["autoawq"])

    def test_forms_hold_the_same_numbers(self):
        """The same codes in each form: the dense weights they mean are equal, so the measured distributions are."""
        for bits, forms in (4, ("gemm", "gptq", "gptq-v2", "compressed-tensors")), (3, ("gptq", "compressed-tensors")), \
                (8, ("gptq-v2", "compressed-tensors")), (5, ("compressed-tensors",)):
            for symmetric in ([], ["--sym"]):
                dense = self.dir / f"dense{bits}{len(symmetric)}"
                self.quantize(self.model, dense, "--method", "rtn", "--bits", bits, "--format", "dense", "--dtype", "float16", *symmetric)
                expected, among_forms = self.kl(dense)["kl"], None
                for form in forms:
                    with self.subTest(bits=bits, form=form, symmetric=bool(symmetric)):
                        out = self.dir / f"{form}{bits}{len(symmetric)}"
                        result = self.quantize(self.model, out, "--method", "rtn", "--bits", bits, "--format", form, "--dtype", "float16", *symmetric)
                        found = self.kl(out)
                        # Plain tensors round once more, to float16; packed forms do not.
                        self.assertAlmostEqual(found["kl"], expected, delta=0.01 * expected)
                        among_forms = among_forms or found["kl"]
                        self.assertEqual(found["kl"], among_forms)
                        self.assertEqual(self.ok("inspect", out)["quantized"], True)
                        settings = settings_of(out)
                        if form.startswith("gptq"):
                            self.assertEqual(settings["checkpoint_format"], "gptq" if form == "gptq" and symmetric else "gptq_v2")
                            self.assertEqual((settings["bits"], settings["sym"], settings["desc_act"]), (bits, bool(symmetric), False))
                        if form == "compressed-tensors":
                            weights = settings["config_groups"]["group_0"]["weights"]
                            self.assertEqual((weights["num_bits"], weights["symmetric"], weights["group_size"]), (bits, bool(symmetric), 64))
                            self.assertEqual(result["format"], "pack-quantized")

    def test_skipped_linears_are_named_for_every_loader(self):
        for method, key in ("nf4", "llm_int8_skip_modules"), ("smoothquant", "ignore"):
            out = self.dir / method
            self.quantize(self.model, out, "--method", method, "--skip", "layers.1.mlp.down_proj")
            self.assertEqual(settings_of(out)[key], ["lm_head", "model.layers.1.mlp.down_proj"])
            self.runs(out)

    def test_widths_that_do_not_fit_are_left_out(self):
        model = write_model(self.dir / "odd", llama_config(intermediate_size=96))
        result = self.quantize(model, self.dir / "odd-nf4", "--method", "nf4", "--no-check")
        self.assertEqual(result["linears"], 6)
        self.assertEqual(settings_of(self.dir / "odd-nf4")["llm_int8_skip_modules"], ["lm_head", "model.layers.0.mlp.down_proj"])
        self.runs(self.dir / "odd-nf4")

    def test_refusals(self):
        for arguments, expected in [
            (["--method", "nf4", "--bits", 8], "--method nf4 has 4 bits, got --bits 8"),
            (["--method", "nf4", "--group-size", 32], "--method nf4 has groups of 64, got --group-size 32"),
            (["--method", "smoothquant", "--group-size", 64], "--method smoothquant has groups of a whole row (-1)"),
            (["--method", "smoothquant", "--format", "dense"], "quantizes activations too"),
            (["--method", "smoothquant", "--format", "gemm"], "--format gemm: w8gc-a8"),
            (["--method", "rtn", "--format", "bnb-nf4"], "--format bnb-nf4: w4gcz, expected nf4g64"),
            (["--bits", 5, "--format", "gptq"], "--format gptq: 5 bits, expected 2, 3, 4 or 8"),
            (["--bits", 3, "--format", "gemm"], "--format gemm: 3 bits, expected 4"),
        ]:
            with self.subTest(arguments=arguments):
                done = awq("quantize", self.model, "-o", self.dir / "out", *arguments)
                self.assertEqual(done.returncode, 1)
                self.assertIn(expected, done.stderr)
                self.assertFalse((self.dir / "out").exists())

    def test_dense_models_are_quantized_while_loading(self):
        stored = self.ok("generate", self.model, "-p", "The tide", "--max-tokens", 8, "--ignore-eos")["text"]
        for form in ("nf4", "rtn", "int8"):
            loaded = self.ok("generate", self.model, "-p", "The tide", "--max-tokens", 8, "--ignore-eos", "--load-in", form)
            self.assertEqual(loaded["tokens"], 8)
        # The same codes as a quantized folder gives, so the same answer.
        self.quantize(self.model, self.dir / "int8", "--method", "llm-int8", "--no-check", "--dtype", "bfloat16")
        folder = self.ok("generate", self.dir / "int8", "-p", "The tide", "--max-tokens", 8, "--ignore-eos")["text"]
        self.assertEqual(loaded["text"], folder)
        self.assertIsInstance(stored, str)

    def test_statistics_are_kept_for_other_widths_and_guarded(self):
        file = self.dir / "statistics"
        options = ("--calib", self.calib, "--data", self.text, "--no-prompts", "--no-speed", "--samples")
        methods = ("--methods", "awq,awq:b3,autoawq,smoothquant")

        def rows(*arguments):
            return [[row["label"], row["texts"][0]["kl"], row["layers"]]
                    for row in self.ok("compare", self.model, *options, 8, *arguments)["methods"]]
        # One run keeps them without the methods that need more than Gram matrices; another reads them for all.
        first = rows("--methods", "rtn", "--save-stats", file)
        self.assertEqual(first, rows("--methods", "rtn"))
        self.assertEqual(rows(*methods, "--stats", file), rows(*methods))
        self.assertEqual([p.name for p in self.dir.glob("statistics*")], ["statistics"])

        def refused(*arguments):
            done = awq("compare", self.model, *arguments, "--methods", "rtn", "--stats", file)
            self.assertEqual(done.returncode, 1, done.stderr)
            return done.stderr
        self.assertRegex(refused(*options, 4), "statistics: statistics of another run: expected calibration sequences 4, found 8")
        whole = file.read_bytes()
        file.write_bytes(whole[:-100])
        self.assertIn("ends early", refused(*options, 8))
        file.write_bytes(whole[:-1000] + bytes(4) + whole[-996:])
        self.assertIn("damaged", refused(*options, 8))
        file.write_bytes(b"text\n")
        self.assertIn("expected a file of awq compare --save-stats", refused(*options, 8))

    def test_compare_says_how_far_the_texts_lie_apart(self):
        numbers = self.dir / "numbers.txt"
        numbers.write_text("".join(f"{i} {i * i} {i * 7 % 101}\n" for i in range(4000)))
        page = self.dir / "shift.html"
        options = ("compare", self.model, "--calib", self.calib, "--samples", "auto", "--seq-len", 64, "--methods", "rtn,awq:fast",
                   "--data", f"{self.calib},{numbers}", "--limit", 2, "--no-prompts", "--no-speed")
        found = self.ok(*options, "--html", page)
        shift = found["domain_shift"]
        own, other = shift["texts"]
        self.assertTrue(0 <= shift["within_calibration"] < 0.2 and own["mean"] < 0.2, shift)
        self.assertGreater(other["mean"], 2 * own["mean"])
        self.assertTrue(other["mean"] <= other["largest"] <= 1)
        self.assertIn(other["largest_site"], ("attention_in", "attention_out", "mlp_in", "mlp_down"))
        self.assertTrue(found["samples"]["automatic"])
        self.assertEqual(-(-found["calibration_tokens"] // 64), found["samples"]["used"])
        for piece in ("Domain shift", "Calibrated with"):
            self.assertIn(piece, page.read_text())
        words = awq(*options).stdout
        self.assertEqual(words.count("domain shift  "), 2)
        self.assertIn("calibrated with", words)

    def test_compare_puts_every_method_in_one_table(self):
        page = self.dir / "report.html"
        found = self.ok("compare", self.model, "--calib", self.calib, "--samples", 8, "--data", self.text, "--html", page)
        self.assertEqual(found["schema"], "awq.compare/1")
        rows = {row["label"]: row for row in found["methods"]}
        self.assertEqual(list(rows), ["awq", "autoawq", "gptq", "rtn", "nf4", "smoothquant", "llm-int8", "salient-fp16"])
        self.assertEqual(sum(row["texts"][0]["best"] for row in rows.values()), 1)
        for row in rows.values():
            text = row["texts"][0]
            self.assertTrue(text["kl"] > 0 and text["kl_median"] <= text["kl_p99"] <= text["kl_max"])
            self.assertTrue(row["prefill_tokens_per_s"] > 0 and row["decode_tokens_per_s"] > 0)
            self.assertEqual((len(row["answers"]), len(row["layers"])), (10, 14))
            self.assertTrue(text["tied_with_best"])  # a single window tells nothing apart
        self.assertIsNone(rows["salient-fp16"]["bytes"])
        # In memory and through files: the same numbers.
        self.quantize(self.model, self.dir / "gptq", "--method", "gptq", "--no-check")
        self.assertAlmostEqual(self.kl(self.dir / "gptq")["kl"], rows["gptq"]["texts"][0]["kl"], delta=1e-9)
        html = page.read_text()
        for piece in ("<svg", "salient-fp16", "KL against size", "The same prompts"):
            self.assertIn(piece, html)
        self.assertNotIn("http://", html.replace("http://www.w3.org", ""))

        table = awq("compare", self.model, "--calib", self.calib, "--samples", 8, "--data", self.text, "--methods", "rtn:b3,rtn:b8,awq:fast:g32",
                    "--no-prompts", "--no-speed")
        self.assertEqual(table.returncode, 0, table.stderr)
        for piece in ("rtn:b3", "w3g64z", "w8g64z", "w4g32z", "* least KL"):
            self.assertIn(piece, table.stdout)
        for methods, expected in (("magic", "--method magic: expected one of"), ("rtn:b", "'b' is not fast"), ("rtn,rtn", "named twice")):
            done = awq("compare", self.model, "--methods", methods)
            self.assertEqual(done.returncode, 1)
            self.assertIn(expected, done.stderr)

    def test_a_quantized_source_is_refused(self):
        self.quantize(self.model, self.dir / "q", "--method", "nf4", "--no-check")
        done = awq("quantize", self.dir / "q", "-o", self.dir / "out")
        self.assertEqual(done.returncode, 1)
        self.assertIn("already quantized (bitsandbytes NF4)", done.stderr)


if __name__ == "__main__":
    unittest.main()
