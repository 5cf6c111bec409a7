#!/usr/bin/env python3
"""awq quantize --quality max from outside, on tiny checkpoints: what it gains, what it writes, that it continues, what it refuses.

Usage: max_test.py PATH_TO_AWQ
"""
import re, signal, time

import tiny
from tiny import *

STEPS = ("--quality", "max", "--iterations", 12)


class Max(TinyCase):
    def gains(self, result):
        return [float(re.search(r", compensated, tuned: block loss x([0-9.]+)$", layer["chosen"]).group(1)) for layer in result["layers"]]

    def test_blocks_come_closer_and_the_output_says_so(self):
        model = write_model(self.dir / "model", llama_config(num_hidden_layers=2))
        common = ("--group-size", 32, "--samples", 24, "--seq-len", 64)
        best = self.quantize(model, self.dir / "best", *common)
        tuned = self.quantize(model, self.dir / "max", *common, "--quality", "max", "--iterations", 60)
        self.assertLessEqual(max(self.gains(tuned)), 1)
        self.assertLess(min(self.gains(tuned)), 0.95)
        self.assertEqual(tuned["weight_bytes"], best["weight_bytes"])
        options = json.loads((self.dir / "max" / "manifest.json").read_text())["options"]
        self.assertEqual((options["quality"], options["iterations"]), ("max", "60"))
        self.assertIn("--quality max --iterations 60", (self.dir / "max" / "README.md").read_text())
        self.assertTrue(self.ok("verify", self.dir / "max")["ok"])

    def test_same_bytes_for_any_number_of_threads(self):
        config = llama_config(hidden_size=96, intermediate_size=224, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=2)
        model = write_model(self.dir / "model", config)
        for threads in (1, 2, 3):
            self.quantize(model, self.dir / str(threads) / "out", *STEPS, "--seq-len", 96, "--threads", threads)
        expected = digests(self.dir / "1" / "out")
        for threads in (2, 3):
            self.assertEqual(digests(self.dir / str(threads) / "out"), expected)

    def test_every_form_and_architecture(self):
        cases = [("llama-tied", "--bits", 4), ("qwen3-tied", "--bits", 4, "--sym", "--format", "gptq"), ("phi3-plain", "--bits", 3),
                 ("qwen2-window", "--bits", 8, "--sym"), ("llama-biases", "--bits", 4, "--format", "gptq-v2", "--group-size", -1),
                 ("mistral-window", "--bits", 2, "--format", "dense"), ("llama-tied", "--bits", 4, "--skip", "o_proj", "--skip", "layers.0")]
        for i, (name, *arguments) in enumerate(cases):
            with self.subTest(name=name, arguments=arguments):
                group = [] if "--group-size" in arguments else ["--group-size", 16]
                out = self.dir / f"out{i}"
                model = golden(name, self.dir / str(i))
                result = self.quantize(model, out, "--quality", "max", "--iterations", 4, "--seq-len", 64, "--no-check", *group, *arguments)
                self.assertLessEqual(max(self.gains(result)), 1)
                self.assertTrue(self.ok("verify", out)["ok"])
                self.assertEqual(self.ok("generate", out, "-p", "The tide", "--max-tokens", 4, "--ignore-eos")["tokens"], 4)

    def test_a_plan_of_several_schemes(self):
        model = write_model(self.dir / "model", llama_config(num_hidden_layers=2))
        plan = self.dir / "plan.json"
        units = [{"modules": ["model.layers.0.mlp.down_proj"], "bits": 8, "group_size": 32},
                 {"modules": ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"], "bits": 3, "group_size": 32}]
        plan.write_text(json.dumps({"schema": "awq.plan/1", "base": {"bits": 4, "group_size": 64}, "units": units}))
        result = self.quantize(model, self.dir / "out", *STEPS, "--plan", plan, "--no-check")
        self.assertEqual(result["scheme"], "w3g32z+w4g64z+w8g32")
        self.assertLessEqual(max(self.gains(result)), 1)
        self.assertTrue(self.ok("verify", self.dir / "out")["ok"])

    def test_killed_or_stopped_it_continues_with_the_same_bytes(self):
        model = write_model(self.dir / "model", llama_config(num_hidden_layers=3))
        command = ["quantize", model, "--calib", self.calib, "--samples", 16, "--seq-len", 64, *STEPS, "--threads", 1]
        place = self.dir / "place"
        done = awq(*command, "-o", place / "reference")
        self.assertEqual(done.returncode, 0, done.stderr)
        expected = digests(place / "reference")
        for number in (signal.SIGKILL, signal.SIGINT):
            for _ in range(10):  # on a fast machine it may be done before the signal arrives
                shutil.rmtree(place / "reference", ignore_errors=True)
                process = subprocess.Popen([tiny.AWQ, *map(str, command), "-o", place / "reference"], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL)
                while process.poll() is None and not (place / ".reference.partial" / "record-000002.json").exists():
                    time.sleep(0.0005)
                process.send_signal(number)
                if process.wait() in (-signal.SIGKILL, 130):
                    break
            self.assertFalse((place / "reference").exists())
            other = awq(*command[:-3], 13, *command[-2:], "-o", place / "reference")
            self.assertEqual((other.returncode, "--iterations" in other.stderr), (1, True), other.stderr)
            done = awq(*command, "-o", place / "reference", "--resume")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("continuing after", done.stderr)
            self.assertEqual(digests(place / "reference"), expected)

    def test_refusals(self):
        model = write_model(self.dir / "model", llama_config())
        for arguments, words in [(("--method", "gptq"), "--quality max: expected --method awq, got gptq"),
                                 (("--device", "cuda"), "--device cuda: ")]:  # that max runs on the CPU, or that there is no device
            done = awq("quantize", model, "-o", self.dir / "none", "--calib", self.calib, "--quality", "max", *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertFalse((self.dir / "none").exists())
        self.assertEqual(awq("quantize", model, "--quality", "most").returncode, 2)
        self.assertEqual(awq("quantize", model, "--iterations", 0).returncode, 2)


if __name__ == "__main__":
    unittest.main()
