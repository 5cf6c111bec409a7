#!/usr/bin/env python3
"""A job that is killed continues with the same command, and ends with the same bytes as if nothing had happened.

Usage: resume_test.py PATH_TO_AWQ
"""
import json, os, pathlib, random, shutil, signal, subprocess, tempfile, time, unittest

import tiny
from tiny import awq, digests

BLOCKS = 5


class Resume(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.dir = pathlib.Path(folder.name)
        cls.model = tiny.write_model(cls.dir / "tiny", tiny.llama_config(num_hidden_layers=BLOCKS))
        cls.calib = cls.dir / "calib.txt"
        cls.calib.write_text(tiny.long_text())
        (cls.dir / "reference").mkdir()
        done = awq(*cls.command(cls.dir / "reference" / "out"))
        assert done.returncode == 0, done.stderr
        cls.expected = digests(cls.dir / "reference" / "out")

    @classmethod
    def command(cls, out, *more, model=None, calib=None):
        return ["quantize", model or cls.model, "-o", out, "--calib", calib or cls.calib, "--samples", 4, "--seq-len", 64,
                "--no-check", "--threads", 1, *more]

    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=self.dir)
        self.addCleanup(folder.cleanup)
        self.place = pathlib.Path(folder.name)
        self.out = self.place / "out"
        self.partial = self.place / ".out.partial"

    def start(self, *more):
        return subprocess.Popen([tiny.AWQ, *map(str, self.command(self.out, *more))], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)

    def stop_after(self, blocks, number=signal.SIGKILL, delay=0.0):
        """Sends the signal once the record of so many blocks stands, and `delay` seconds later; its exit status and words."""
        record = self.partial / f"record-{blocks:06}.json"
        process = self.start()
        while process.poll() is None and not record.exists():
            time.sleep(0.0002)
        time.sleep(delay)
        process.send_signal(number)
        words = process.communicate(timeout=60)[1]
        return process.returncode, words

    def finish(self, *more):
        done = awq(*self.command(self.out, *more))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(digests(self.out), self.expected)
        self.assertEqual(os.listdir(self.place), ["out"])
        return done.stderr

    def begin(self, blocks=2):
        while True:  # on a fast machine it may be done before the signal arrives
            status, _ = self.stop_after(blocks)
            if status == -signal.SIGKILL and self.partial.exists():
                return
            shutil.rmtree(self.out)

    def test_the_number_of_samples_is_found_again(self):
        def command(out):
            words = self.command(out)
            words[words.index("--samples") + 1] = "auto"
            return words
        whole = self.place / "whole"
        done = awq(*command(whole))
        self.assertEqual(done.returncode, 0, done.stderr)
        process = subprocess.Popen([tiny.AWQ, *map(str, command(self.out))], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (self.partial / "record-000002.json").exists():
            time.sleep(0.0002)
        process.kill()
        process.wait()
        done = awq(*command(self.out), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        self.assertTrue(result["samples"]["automatic"])
        self.assertGreaterEqual(result["resumed_blocks"], 2)
        written, wanted = digests(self.out), digests(whole)
        for name in ("README.md", "manifest.json"):  # they name the folder
            written.pop(name), wanted.pop(name)
        self.assertEqual(written, wanted)

    def test_killed_after_each_record_and_between_them(self):
        rng = random.Random(7)
        killed = 0
        for blocks in range(BLOCKS + 2):
            for delay in (0, 0.002, rng.uniform(0, 0.03)):
                with self.subTest(blocks=blocks, delay=delay):
                    status, _ = self.stop_after(blocks, delay=delay)
                    killed += status == -signal.SIGKILL
                    if not self.out.exists():
                        self.finish()
                    self.assertEqual(digests(self.out), self.expected)
                    for left in self.place.iterdir():
                        shutil.rmtree(left)
        self.assertGreater(killed, 2 * BLOCKS)

    def test_killed_again_and_again_while_it_resumes(self):
        rng = random.Random(11)
        for _ in range(4):
            kills = 0
            while kills < 30:
                process = self.start()
                try:
                    process.communicate(timeout=rng.uniform(0.02, 0.25))
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    kills += 1
            if not self.out.exists():
                self.finish()
            self.assertEqual(digests(self.out), self.expected)
            for left in self.place.iterdir():
                shutil.rmtree(left)

    def test_continues_after_the_last_block_that_was_done(self):
        self.begin(blocks=3)
        done = json.loads(awq(*self.command(self.out, "--json")).stdout)
        self.assertGreaterEqual(done["resumed_blocks"], 3)
        self.assertEqual(digests(self.out), self.expected)

    def test_the_comparison_with_the_source_continues_too(self):
        checked = [a for a in self.command(self.out) if a != "--no-check"] + ["--method", "rtn"]
        self.assertEqual(awq(*checked).returncode, 0)
        expected = digests(self.out)
        shutil.rmtree(self.out)
        for blocks in (2, BLOCKS):
            process = subprocess.Popen([tiny.AWQ, *map(str, checked)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not (self.partial / f"record-{blocks:06}.json").exists():
                time.sleep(0.0002)
            process.kill()
            self.assertEqual(process.wait(), -signal.SIGKILL)
        done = awq(*checked)
        self.assertIn(f"continuing after {BLOCKS} of {BLOCKS} blocks", done.stderr)
        self.assertEqual(digests(self.out), expected)

    def test_signals_say_how_to_continue(self):
        for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
            for _ in range(20):
                began = time.monotonic()
                code, words = self.stop_after(1, number)
                if code == status:
                    break
                shutil.rmtree(self.out)
            self.assertEqual(code, status)
            self.assertLess(time.monotonic() - began, 30)
            self.assertRegex(words, rf"awq: stopped: [1-{BLOCKS}] of {BLOCKS} blocks are kept: the same command continues, --restart begins anew\n\Z")
            self.assertEqual(os.listdir(self.place), [".out.partial"])
            self.finish("--resume")
            shutil.rmtree(self.out)

    def test_other_inputs_are_refused_by_name(self):
        self.begin()
        kept = digests(self.partial)
        texts = self.dir / "other.txt"
        texts.write_text(tiny.long_text(41))
        other = tiny.write_model(self.dir / "other", tiny.llama_config(num_hidden_layers=BLOCKS),
                                 tiny.random_tensors(tiny.llama_config(num_hidden_layers=BLOCKS), seed=2))
        for arguments, field in [
            (self.command(self.out, "--sym"), "--sym: begun with no, now yes"),
            (self.command(self.out, "--group-size", 32), "--group-size: begun with 64, now 32"),
            (self.command(self.out, "--skip", "down_proj"), "--skip: begun with none, now model.layers.0.mlp.down_proj"),
            (self.command(self.out, "--dtype", "bfloat16"), "--dtype: begun with auto, now bfloat16"),
            (self.command(self.out, "--method", "rtn"), "--method: begun with awq, now rtn"),
            (self.command(self.out, calib=texts), "calibration text: begun with "),
            (self.command(self.out, model=other), "source: begun with "),
        ]:
            with self.subTest(field=field):
                done = awq(*arguments)
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr.splitlines()[-1], r"\Aawq: error: .*holds an unfinished job with other inputs")
                self.assertIn(field, done.stderr)
                self.assertIn("--restart begins anew", done.stderr)
        self.assertEqual(digests(self.partial), kept)
        self.finish()

    def test_restart_discards_and_resume_demands(self):
        done = awq(*self.command(self.out, "--resume"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is no unfinished job", done.stderr)
        self.assertEqual(os.listdir(self.place), [])
        self.begin()
        done = awq(*self.command(self.out, "--restart", "--group-size", 32))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(os.listdir(self.place), ["out"])
        self.assertEqual(awq(*self.command(self.out, "--restart", "--resume")).returncode, 2)

    def test_damage_gives_way_to_the_block_before(self):
        def flip(path):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

        def newest(pattern):
            return sorted(self.partial.glob(pattern), key=lambda p: p.stat().st_mtime_ns)[-1]

        def states(record):
            body = record.read_text().split("\n", 1)[1]
            return [self.partial / ("state-" + s["digest"]) for s in json.loads(body)["states"]]

        for name, damage in [
            ("record flipped", lambda: flip(newest("record-*"))),
            ("record cut", lambda: os.truncate(newest("record-*"), 100)),
            ("states flipped", lambda: flip(states(newest("record-*"))[0])),
            ("states gone", lambda: states(newest("record-*"))[0].unlink()),
        ]:
            with self.subTest(name):
                self.begin(blocks=3)
                damage()
                words = self.finish()
                self.assertIn("awq: warning: ", words)
                self.assertRegex(words, rf"continuing after [2-4] of {BLOCKS} blocks")
                shutil.rmtree(self.out)

    def test_damage_beyond_repair_is_named(self):
        self.begin()
        shard = self.partial / "output" / "model.safetensors"
        shard.write_bytes(bytes(shard.stat().st_size))
        done = awq(*self.command(self.out))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr.splitlines()[-1], r"tensor '.*' at offset \d+: expected content with digest .*--restart begins anew")
        self.assertFalse(self.out.exists())
        self.finish("--restart")

    def test_a_second_process_is_refused(self):
        process = self.start()
        try:
            while process.poll() is None and not (self.partial / "record-000001.json").exists():
                time.sleep(0.0002)
            process.send_signal(signal.SIGSTOP)
            if process.poll() is None and self.partial.exists():
                for more in ([], ["--resume"], ["--restart"]):
                    done = awq(*self.command(self.out, *more))
                    self.assertEqual(done.returncode, 1)
                    self.assertIn("another process is writing this output", done.stderr)
        finally:
            process.send_signal(signal.SIGCONT)
            process.communicate(timeout=60)
        self.assertEqual(digests(self.out), self.expected)

    def test_an_old_output_stays_until_the_new_one_is_done(self):
        awq(*self.command(self.out, "--group-size", 32))
        old = digests(self.out)
        for blocks in (1, BLOCKS + 1):
            process = self.start("--force")
            record = self.partial / f"record-{blocks:06}.json"
            while process.poll() is None and not record.exists():
                time.sleep(0.0002)
            process.kill()
            process.communicate()
            self.assertIn(digests(self.out), [old, self.expected])
        done = awq(*self.command(self.out, "--force"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(digests(self.out), self.expected)
        self.assertEqual(os.listdir(self.place), ["out"])


if __name__ == "__main__":
    unittest.main()
