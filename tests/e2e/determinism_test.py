#!/usr/bin/env python3
"""The same bytes for any number of threads, on each instruction-set path of this machine; between paths, the same quality.

Usage: determinism_test.py PATH_TO_AWQ
"""
import itertools

from tiny import *

PATHS = ("portable", "avx2", "avx512", "avx512bf16")


def paths():
    best = json.loads(awq("env", "--json", env={k: v for k, v in os.environ.items() if k != "AWQ_ISA"}).stdout)["isa"]
    return PATHS[:PATHS.index(best) + 1]


class Determinism(TinyCase):
    def test_same_bytes_for_1_2_and_5_threads_three_runs_each(self):
        # Dimensions that no tile divides, so that threads get uneven shares; grouped queries and an odd number of blocks.
        config = llama_config(hidden_size=96, intermediate_size=224, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=3)
        model = write_model(self.dir / "model", config)
        kl = {}
        for isa in paths():
            environment = {**os.environ, "AWQ_ISA": isa}
            first = None
            for threads, repeat in itertools.product((1, 2, 5), range(3)):
                out = self.dir / f"{isa}-{threads}-{repeat}" / "out"
                result = self.quantize(model, out, "--no-check", "--threads", threads, env=environment)
                self.assertEqual((result["isa"], result["threads"]), (isa, threads))
                first = first or digests(out)
                self.assertEqual(digests(out), first, f"{isa}, {threads} threads")
            kl[isa] = self.ok("eval", out, "--task", "kl", "--reference", model, "--data", self.calib, "--protocol", "llamacpp512",
                              "--limit", 8)["kl"]
        for isa, value in kl.items():
            self.assertAlmostEqual(value / kl["portable"], 1, delta=0.1, msg=str(kl))

    def test_the_check_gives_the_same_numbers_for_any_number_of_threads(self):
        model = write_model(self.dir / "model", llama_config())
        folders = [self.dir / str(threads) / "out" for threads in (1, 5)]
        for threads, out in zip((1, 5), folders):
            self.quantize(model, out, "--threads", threads, "--quality", "fast")
        self.assertEqual(digests(folders[0]), digests(folders[1]))

    def test_evaluations_give_the_same_numbers_for_any_number_of_threads(self):
        model = write_model(self.dir / "model", llama_config())
        results = []
        for threads in (1, 2, 5):
            result = self.ok("eval", model, "--task", "ppl", "--data", self.calib, "--protocol", "llamacpp512", "--threads", threads)
            results.append((result["nll"], result["perplexity"]))
        self.assertEqual(len(set(results)), 1, results)

    def test_invariant_is_accepted_on_a_cpu_and_refused_with_bf16(self):
        model = write_model(self.dir / "model", llama_config())
        command = ("generate", model, "-p", "The tide", "--max-tokens", 8, "--ignore-eos", "--device", "cpu")
        self.assertEqual(self.ok(*command, "--invariant")["text"], self.ok(*command)["text"])
        refused = awq(*command, "--invariant", "--precision", "bf16")
        self.assertEqual(refused.returncode, 1)
        self.assertRegex(refused.stderr, r"\Aawq: error: --invariant: expected --precision fast or exact on the CPU[^\n]*\n\Z")


if __name__ == "__main__":
    unittest.main()
