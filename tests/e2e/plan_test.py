#!/usr/bin/env python3
"""Plans: bits and groups of single linears, from the file to a checkpoint that runs.

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


if __name__ == "__main__":
    unittest.main()
