#!/usr/bin/env python3
"""Diagnosis and plans: what each part costs, bits and groups of single linears, and a checkpoint that runs.

Usage: plan_test.py PATH_TO_AWQ
"""
from tiny import *


def block(i, *names):
    return [f"model.layers.{i}.{name}" for name in names]


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class Plans(TinyCase):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.dir / "model", llama_config(num_hidden_layers=2))
        self.text = self.dir / "text.txt"
        self.text.write_text(long_text(12))

    def plan(self, units, base=(4, 64), name="plan.json"):
        path = self.dir / name
        path.write_text(json.dumps({"schema": "awq.plan/1", "base": {"bits": base[0], "group_size": base[1]}, "units": units}))
        return path

    def mixed(self):
        return self.plan([{"modules": block(0, *QKV), "bits": 8, "group_size": 32},
                          {"modules": block(0, "mlp.down_proj"), "bits": 16},
                          {"modules": block(1, "mlp.gate_proj", "mlp.up_proj"), "bits": 3, "group_size": 32}])

    def kl(self, folder):
        return self.ok("eval", folder, "--task", "kl", "--reference", self.model, "--data", self.text, "--protocol", "raw2048")["kl"]

    def test_each_linear_gets_its_scheme(self):
        out = self.dir / "out"
        result = self.quantize(self.model, out, "--plan", self.mixed())
        self.assertEqual((result["scheme"], result["format"], result["linears"]), ("w3g32z+w4g64z+w8g32", "pack-quantized", 13))
        schemes = {layer["module"]: layer["scheme"] for layer in json.loads((out / "manifest.json").read_text())["layers"]}
        self.assertEqual({schemes[m] for m in block(0, *QKV)}, {"w8g32"})
        self.assertEqual({schemes[m] for m in block(1, "mlp.gate_proj", "mlp.up_proj")}, {"w3g32z"})
        self.assertEqual(schemes[block(1, "mlp.down_proj")[0]], "w4g64z")
        self.assertNotIn(block(0, "mlp.down_proj")[0], schemes)

        settings = json.loads((out / "config.json").read_text())["quantization_config"]
        self.assertEqual(settings["ignore"], ["lm_head", *block(0, "mlp.down_proj")])
        groups = {(g["weights"]["num_bits"], g["weights"]["group_size"], g["weights"]["symmetric"]): g["targets"]
                  for g in settings["config_groups"].values()}
        self.assertEqual(set(groups), {(8, 32, True), (4, 64, False), (3, 32, False)})
        self.assertEqual(groups[8, 32, True], block(0, *QKV))
        tensors = read_safetensors(out / "model.safetensors")
        self.assertEqual(tensors[block(0, "self_attn.q_proj")[0] + ".weight_packed"][1], [64, 16])
        self.assertEqual(tensors[block(0, "mlp.down_proj")[0] + ".weight"][1], [64, 128])

        self.assertEqual(self.ok("verify", out)["ok"], True)
        self.assertEqual(self.ok("generate", out, "-p", "The tide", "--max-tokens", 4, "--ignore-eos")["tokens"], 4)
        # The files mean the same weights as plain tensors do.
        self.quantize(self.model, self.dir / "dense", "--plan", self.mixed(), "--format", "dense", "--dtype", "float16")
        self.quantize(self.model, self.dir / "packed", "--plan", self.mixed(), "--dtype", "float16")
        self.assertAlmostEqual(self.kl(self.dir / "dense"), self.kl(self.dir / "packed"), delta=2e-4)

    def test_more_bits_leave_less_error(self):
        found = {}
        for method in ("awq", "gptq", "rtn"):
            for name, units in (("four", []), ("eight", [{"modules": block(i, *QKV), "bits": 8, "group_size": 64} for i in (0, 1)])):
                self.quantize(self.model, self.dir / (method + name), "--method", method, "--plan", self.plan(units))
                found[method, name] = self.kl(self.dir / (method + name))
            self.assertLess(found[method, "eight"], found[method, "four"])

    def test_a_plan_of_one_scheme_is_the_plain_checkpoint(self):
        self.quantize(self.model, self.dir / "plan", "--plan", self.plan([]))
        self.quantize(self.model, self.dir / "plain", "--format", "compressed-tensors", "--group-size", 64)
        for name in ("model.safetensors", "config.json"):
            self.assertEqual((self.dir / "plan" / name).read_bytes(), (self.dir / "plain" / name).read_bytes())

    def test_bad_plans_are_refused(self):
        whole = {"schema": "awq.plan/1", "base": {"bits": 4, "group_size": 64}, "units": []}
        unit = {"modules": block(0, "mlp.down_proj"), "bits": 8, "group_size": 64}
        cases = [
            ("{", [], "line 1"),
            ("[]", [], "expected a JSON object, got array"),
            ({**whole, "schema": "awq.plan/2"}, [], 'expected "awq.plan/1", got "awq.plan/2"'),
            ({"schema": "awq.plan/1", "base": whole["base"]}, [], '"units", which is missing'),
            ({**whole, "base": {"bits": 16}}, [], "expected 2 to 8 bits, got 16"),
            ({**whole, "base": {"bits": 4}}, [], '"group_size", which is missing'),
            ({**whole, "units": [{**unit, "bits": 9}]}, [], "units[0]: bits: expected 2 to 8 or 16, got 9"),
            ({**whole, "units": [{**unit, "bits": "8"}]}, [], "expected a whole number"),
            ({**whole, "units": [{**unit, "group_size": 4}]}, [], "expected -1 (one group per output) or at least 8, got 4"),
            ({**whole, "units": [{**unit, "group_size": 48}]}, [], "that divides its 128 inputs, got 48"),
            ({**whole, "base": {"bits": 4, "group_size": 48}}, [], "base: expected a group size that divides the 64 inputs"),
            ({**whole, "units": [unit, unit]}, [], "is in two units"),
            ({**whole, "units": [{**unit, "modules": []}]}, [], "expected a list of names"),
            ({**whole, "units": [{**unit, "modules": ["model.layers.7.mlp.down_proj"]}]}, [], "names no linear of this model"),
            ({**whole, "units": [{**unit, "modules": block(1, "self_attn.q_proj")}]}, [], "expected one scheme for both, got w8g64 and w4g64z"),
            (whole, ["--bits", 4], "expected neither --bits nor --group-size nor --sym"),
            (whole, ["--method", "nf4"], "expected --method awq, gptq or rtn, got nf4"),
            (whole, ["--format", "gemm"], "expected --format compressed-tensors or dense"),
        ]
        path = self.dir / "bad.json"
        for content, arguments, expected in cases:
            with self.subTest(expected=expected):
                path.write_text(content if isinstance(content, str) else json.dumps(content))
                done = awq("quantize", self.model, "-o", self.dir / "none", "--calib", self.calib, "--plan", path, *arguments)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(expected, done.stderr)
                self.assertIn("bad.json", done.stderr)
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
                self.assertFalse((self.dir / "none").exists())
        done = awq("quantize", self.model, "-o", self.dir / "none", "--plan", self.dir / "missing.json")
        self.assertEqual(done.returncode, 1)
        self.assertIn("missing.json", done.stderr)


class Diagnosis(TinyCase):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.dir / "model", llama_config(num_hidden_layers=2))

    def diagnose(self, *arguments):
        return self.ok("diagnose", self.model, "--calib", self.calib, "--samples", 8, "--seq-len", 128, "--limit", 2, *arguments)

    def test_samples_can_be_found_automatically(self):
        found = self.ok("diagnose", self.model, "--calib", self.calib, "--samples", "auto", "--seq-len", 64, "--limit", 1, "--exact", 1)
        self.assertTrue(found["samples"]["automatic"])
        self.assertEqual(-(-found["calibration_tokens"] // 64), found["samples"]["used"])

    def test_every_part_is_measured(self):
        found = self.diagnose("--exact", "all")
        self.assertEqual(len(found["units"]), 8)
        self.assertEqual(len(found["linears"]), 14)
        self.assertEqual([d["block"] for d in found["depth"]], [0, 1])
        self.assertTrue(all(u["measured"] for u in found["units"]))
        self.assertEqual([u["kl"] for u in found["units"]], sorted((u["kl"] for u in found["units"]), reverse=True))
        # A part costs less than everything; what is saved by leaving it is of the order of what it costs.
        for u in found["units"]:
            self.assertTrue(0 < u["kl"] < found["kl"], u)
            self.assertTrue(abs(u["kl_saved"]) < found["kl"], u)
        self.assertAlmostEqual(found["depth"][1]["kl_along"], found["kl"], places=9)
        self.assertLess(found["depth"][0]["kl_along"], found["kl"])
        # Estimates come near what is measured.
        exact = {u["name"]: u["kl"] for u in found["units"]}
        for u in self.diagnose("--exact", "1")["units"]:
            if u["measured"]:
                self.assertEqual(u["kl"], exact[u["name"]])
            else:
                self.assertTrue(0.3 < u["kl"] / exact[u["name"]] < 3, (u, exact[u["name"]]))

    def test_what_the_checkpoint_says_is_what_memory_says(self):
        in_memory = self.diagnose()
        self.quantize(self.model, self.dir / "out", "--samples", 8, "--seq-len", 128)
        given = self.diagnose("--quantized", self.dir / "out")
        self.assertAlmostEqual(given["kl"], in_memory["kl"], delta=0.02 * in_memory["kl"])
        memory = {l["module"]: l["relative_error"] for l in in_memory["linears"]}
        for l in given["linears"]:
            # Scales folded into rows are found again to within the error of a row, which adds to the error itself.
            self.assertTrue(0.95 < l["relative_error"] / memory[l["module"]] < 1.5, l)
            self.assertTrue(0.05 < l["times_expected"] < 1, l)  # compensation leaves less than searched ranges do

    def test_planted_damage_is_found(self):
        self.quantize(self.model, self.dir / "out", "--samples", 8, "--seq-len", 128, "--format", "compressed-tensors", "--dtype", "float16")
        good = self.diagnose("--quantized", self.dir / "out")
        for module in block(1, "mlp.up_proj") + block(0, "self_attn.v_proj") + block(0, "mlp.down_proj"):
            tensors = read_safetensors(self.dir / "out" / "model.safetensors")
            kind, shape, data = tensors[module + ".weight_packed"]
            # Codes of two bits: 0, 5, 10, 15.
            tensors[module + ".weight_packed"] = (kind, shape, bytes(5 * ((b & 15) * 3 + 7 >> 4) | 5 * ((b >> 4) * 3 + 7 >> 4) << 4 for b in data))
            damaged = self.dir / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(self.dir / "out", damaged)
            write_safetensors(damaged / "model.safetensors", tensors)
            found = self.diagnose("--quantized", damaged)
            self.assertEqual(found["linears"][0]["module"], module)
            self.assertGreater(found["linears"][0]["times_expected"], 3)
            cost = lambda result: next(u["kl"] for u in result["units"] if module in u["modules"])
            self.assertGreater(cost(found), 3 * cost(good))

    def test_a_plan_keeps_its_bounds_and_its_promise(self):
        plan = self.dir / "plan.json"
        text = self.dir / "text.txt"
        text.write_text(long_text(12))
        uniform = self.quantize(self.model, self.dir / "uniform", "--plan", self.uniform_plan())
        kl = {}
        for name, goal in (("more", ["--size", "+25%"]), ("less", ["--size", "-8%"])):
            found = self.diagnose("--plan-groups", "32,64", "-o", plan, *goal)
            made = self.quantize(self.model, self.dir / name, "--plan", plan, "--samples", 8, "--seq-len", 128)
            self.assertEqual(found["plan"]["weight_bytes"], made["weight_bytes"])
            self.assertLessEqual(made["weight_bytes"], uniform["weight_bytes"] * (1.25 if name == "more" else 0.92))
            kl[name] = self.ok("eval", self.dir / name, "--task", "kl", "--reference", self.model, "--data", text, "--protocol", "raw2048")["kl"]
        kl["uniform"] = self.ok("eval", self.dir / "uniform", "--task", "kl", "--reference", self.model, "--data", text, "--protocol", "raw2048")["kl"]
        self.assertLess(kl["more"], 0.7 * kl["uniform"])
        self.assertLess(kl["uniform"], kl["less"])
        found = self.diagnose("--plan-groups", "32,64", "-o", plan, "--kl", found["kl"] / 3)
        self.assertLessEqual(found["plan"]["expected_kl"], found["kl"] / 3)
        self.assertGreater(found["plan"]["weight_bytes"], uniform["weight_bytes"])

    def uniform_plan(self):
        path = self.dir / "uniform.json"
        path.write_text(json.dumps({"schema": "awq.plan/1", "base": {"bits": 4, "group_size": 64}, "units": []}))
        return path

    def test_page_and_csv(self):
        found = self.diagnose("--html", self.dir / "page.html", "--csv", self.dir / "csv")
        page = (self.dir / "page.html").read_text()
        for expected in ("<svg", "Which parts cost most", "Along the depth", "Which inputs suffer", "Content-Security-Policy"):
            self.assertIn(expected, page)
        self.assertNotIn("http://", page.replace("http://www.w3.org", ""))
        rows = {name: (self.dir / "csv" / f"{name}.csv").read_text().count("\n") for name in ("units", "linears", "depth")}
        self.assertEqual(rows, {"units": 9, "linears": 15, "depth": 3})
        self.assertGreater((self.dir / "csv" / "tokens.csv").read_text().count("\n"), found["tokens"])

    def test_bad_requests_are_refused(self):
        other = write_model(self.dir / "other", llama_config(num_hidden_layers=1))
        self.quantize(other, self.dir / "out")
        for arguments, expected in ((["-o", self.dir / "p.json"], "expected -o FILE with --size or --kl"),
                                    (["--size", "+6%"], "expected -o FILE with --size or --kl"),
                                    (["-o", self.dir / "p.json", "--size", "6 GB"], "--size 6 GB: expected bits per weight"),
                                    (["-o", self.dir / "p.json", "--size", "1bpw"], "the smallest of the schemes allowed"),
                                    (["-o", self.dir / "p.json", "--kl", "0.00000001", "--plan-bits", "3,4"], "the least that the schemes allowed leave"),
                                    (["--quantized", self.model], "without quantized linears"),
                                    (["--quantized", self.dir / "out"], "expected a checkpoint made from"),
                                    (["--data", self.dir / "missing.txt"], "missing.txt")):
            with self.subTest(expected=expected):
                done = awq("diagnose", self.model, "--calib", self.calib, "--samples", 8, "--seq-len", 128, "--limit", 1, *arguments)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(expected, done.stderr)
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
                self.assertFalse((self.dir / "p.json").exists())


if __name__ == "__main__":
    unittest.main()
