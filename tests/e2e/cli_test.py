#!/usr/bin/env python3
"""The frame of the command line, seen from outside: exit statuses, suggestions, help, JSON, signals, the report page.

Usage: cli_test.py PATH_TO_AWQ
"""
import html.parser, json, os, pathlib, re, signal, subprocess, sys, tempfile, time, unittest

AWQ = sys.argv.pop(1) if len(sys.argv) > 1 else "build/awq"


def awq(*arguments, **options):
    return subprocess.run([AWQ, *arguments], capture_output=True, text=True, timeout=60, **options)


def commands():
    listed = awq("--help").stdout.split("\nCommands", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^  (\w[\w-]*)", listed, re.M)


def catches(pid, number):
    caught = re.search(r"^SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(caught.group(1), 16) >> (number - 1) & 1)


class CommandLine(unittest.TestCase):
    def test_wrong_command_lines_exit_2_in_one_line_with_a_suggestion(self):
        for arguments, meant in [
            (["evn"], "did you mean env?"),
            (["env", "--jsn"], "did you mean --json?"),
            (["env", "--thread", "3"], "did you mean --threads?"),
            (["env", "--threds=3"], "did you mean --threads?"),
            (["env", "--progress", "plian"], "did you mean plain?"),
            (["report", "--sectoin", "a=b"], "did you mean --section?"),
            (["report"], "--section is required"),
            (["env", "extra"], "does not expect 'extra'"),
            (["env", "--threads", "0"], "not in range"),
            (["qqqqqqqq"], "there is no command 'qqqqqqqq'"),
            ([], "no command given"),
        ]:
            with self.subTest(arguments=arguments):
                done = awq(*arguments)
                self.assertEqual(done.returncode, 2)
                self.assertEqual(done.stdout, "")
                self.assertRegex(done.stderr, r"\Aawq: error: [^\n]+\n\Z")
                self.assertIn(meant, done.stderr)

    def test_no_suggestion_for_what_resembles_nothing(self):
        self.assertNotIn("did you mean", awq("qqqqqqqq").stderr)
        self.assertNotIn("did you mean", awq("env", "--qqqqqqqq").stderr)

    def test_failures_exit_1_in_one_line(self):
        for arguments in [["env", "--device", "cuda"], ["report", "--section", "a=/nonexistent", "-o", "x.html"]]:
            done = awq(*arguments)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"\Aawq: error: [^\n]+\n\Z")

    def test_a_result_that_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([AWQ, "env"], stdout=full, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 1)

    def test_help_opens_with_two_examples_and_fits_80_columns(self):
        self.assertIn("env", commands())
        for command in [[], *([name] for name in commands())]:
            with self.subTest(command=command):
                done = awq(*command, "--help")
                self.assertEqual(done.returncode, 0)
                lines = done.stdout.splitlines()
                start = "  awq " + " ".join(command)
                self.assertTrue(lines[0].startswith(start) and lines[1].startswith(start), lines[:3])
                self.assertEqual([line for line in lines if len(line) > 80], [])
                for option in ("--json", "--progress", "--quiet", "--verbose", "--threads", "--device"):
                    self.assertIn(option, done.stdout)

    def test_options_are_taken_before_and_after_the_command(self):
        for arguments in [["--json", "env", "--threads", "1"], ["--threads", "1", "env", "--json"]]:
            done = awq(*arguments)
            self.assertEqual(done.returncode, 0)
            result = json.loads(done.stdout)
            self.assertEqual((result["schema"], result["threads"]), ("awq.env/1", 1))

    def test_env_agrees_with_the_system(self):
        result = json.loads(awq("env", "--json").stdout)
        self.assertEqual(awq("--version").stdout, f"awq {result['version']}\n")
        self.assertEqual(result["ram_bytes"], os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        self.assertLessEqual(result["cores"], len(os.sched_getaffinity(0)))
        portable = json.loads(awq("env", "--json", env={**os.environ, "AWQ_ISA": "portable"}).stdout)
        self.assertEqual(portable["isa"], "portable")

    def test_a_second_signal_ends_at_once(self):
        with tempfile.TemporaryDirectory() as folder:
            pipe = os.path.join(folder, "pipe")
            os.mkfifo(pipe)  # opening it blocks, which stands for a step that takes long
            for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
                job = subprocess.Popen([AWQ, "report", "--section", f"a={pipe}", "-o", os.path.join(folder, "r")],
                                       stderr=subprocess.DEVNULL)
                deadline = time.monotonic() + 20
                while not catches(job.pid, number) and time.monotonic() < deadline:
                    time.sleep(0.01)
                job.send_signal(number)
                time.sleep(0.2)
                self.assertIsNone(job.poll(), "the first signal lets the step finish")
                job.send_signal(number)
                self.assertEqual(job.wait(timeout=20), status)


class Report(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def section(self, name, **result):
        path = os.path.join(self.folder.name, f"{len(os.listdir(self.folder.name))}.json")
        with open(path, "w") as file:
            json.dump(result, file)
        return ["--section", f"{name}={path}"]

    def sections(self):
        layers = [{"module": f"model.layers.{i}.mlp.up_proj", "relative_error": 0.001 * (i + 1)} for i in range(4)]
        return [
            *self.section("original", schema="awq.eval/1", task="ppl", perplexity=21.5, stderr=0.1, tokens=1000, seconds=1),
            *self.section("original", schema="awq.generate/1", prompt="Why?", text="Because <b> & so.", tokens=3, tokens_per_s=5.25),
            *self.section("w4", schema="awq.quantize/1", bytes=3 << 20, source_bytes=10 << 20, bits_per_weight=4.5,
                          seconds=75, peak_rss_bytes=1 << 30, layers=layers),
            *self.section("w4", schema="awq.eval/1", task="kl", kl=0.0625, perplexity=22.25, top1_agreement=0.875, stderr=0.001),
            *self.section("w4", schema="awq.generate/1", prompt="Why?", text="No idea.", tokens=2, tokens_per_s=7.5),
        ]

    def test_summary_and_page_say_what_the_results_say(self):
        page = os.path.join(self.folder.name, "report.html")
        done = awq("report", *self.sections(), "--title", "A & B", "-o", page)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        text = pathlib.Path(page).read_text()
        for shown in ("21.500 ±0.196", "22.250", "0.0625 ±0.0020", "87.5 %", "3.00 MiB", "10.00 MiB", "4.50", "1 min 15 s", "1.00 GiB"):
            self.assertIn(shown, done.stdout)
            self.assertIn(shown, text)
        self.assertIn("<title>A &amp; B</title>", text)
        self.assertIn("Because &lt;b&gt; &amp; so.", text)
        self.assertIn("model.layers.3.mlp.up_proj", text)
        self.assertIn("0.400 %", text)
        self.assertRegex(done.stdout, r"Because <b> & so\. +\| No idea\.")
        self.assertNotRegex(text, r"<script|<link|<img|https?:| src=| href=")
        html.parser.HTMLParser().feed(text)

    def test_the_same_results_give_the_same_page(self):
        sections, pages = self.sections(), [os.path.join(self.folder.name, name) for name in ("a.html", "b.html")]
        for page in pages:
            self.assertEqual(awq("report", *sections, "-o", page).returncode, 0)
        self.assertEqual(pathlib.Path(pages[0]).read_bytes(), pathlib.Path(pages[1]).read_bytes())

    def test_results_it_does_not_know_are_named(self):
        page = os.path.join(self.folder.name, "x.html")
        broken = os.path.join(self.folder.name, "broken.json")
        pathlib.Path(broken).write_text('{"schema": ')
        for section in (["--section", f"a={broken}"], self.section("a", schema="awq.env/1"), self.section("a", other=1)):
            done = awq("report", *section, "-o", page)
            self.assertEqual(done.returncode, 1)
            self.assertIn(section[1].split("=")[1], done.stderr)
        self.assertFalse(os.path.exists(page))


if __name__ == "__main__":
    unittest.main(verbosity=1)
