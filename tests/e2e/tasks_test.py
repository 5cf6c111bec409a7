#!/usr/bin/env python3
"""awq eval on tasks, on a tiny checkpoint: scores, the harness's form, going on where a run was stopped, paired comparison.

Usage: tasks_test.py PATH_TO_AWQ
"""
import http.server, threading

from tiny import *


class Judge:
    """A judge that answers what `verdicts` says, in turn, and keeps what it was asked."""

    def __init__(self, verdicts):
        self.asked, self.keys = [], []
        replies = iter(verdicts)
        judge = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                judge.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                judge.keys.append(self.headers.get("Authorization"))
                verdict = next(replies)
                status, text = verdict if isinstance(verdict, tuple) else (200, json.dumps({"choices": [{"message": {"content": verdict}}]}))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def question(i, **changes):
    return {"question": f"What is {i} and {i + 1}?", "choices": ["the tide", "a boat", "sand"], "answer": i % 3, **changes}


class Tasks(TinyCase):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.dir / "model", llama_config(num_hidden_layers=2))
        self.other = write_model(self.dir / "other", llama_config(num_hidden_layers=2), random_tensors(llama_config(num_hidden_layers=2), 2))

    def lines(self, name, objects):
        path = self.dir / name
        path.write_text("".join(json.dumps(o) + "\n" for o in objects))
        return path

    def test_scores_follow_from_the_log_likelihoods(self):
        data, samples = self.lines("arc.jsonl", map(question, range(20))), self.dir / "samples.jsonl"
        result = self.ok("eval", self.model, "--task", "arc_easy", "--data", data, "--samples", samples, "--limit", 12)
        items = [json.loads(line) for line in samples.read_text().splitlines()[1:]]
        self.assertEqual(len(items), 12)
        right, right_norm = [], []
        for i, item in enumerate(items):
            logprobs, lengths = item["logprobs"], [len(c) for c in question(i)["choices"]]
            self.assertEqual(item["chosen"], max(range(3), key=lambda c: logprobs[c]))
            right.append(item["chosen"] == i % 3)
            right_norm.append(max(range(3), key=lambda c: logprobs[c] / lengths[c]) == i % 3)
        scores = result["results"]["arc_easy"]
        p = sum(right) / 12
        self.assertAlmostEqual(scores["acc,none"], p)
        self.assertAlmostEqual(scores["acc_stderr,none"], math.sqrt(p * (1 - p) / 11))
        self.assertAlmostEqual(scores["acc_norm,none"], sum(right_norm) / 12)
        self.assertEqual(result["n-samples"]["arc_easy"], {"original": 20, "effective": 12})
        self.assertLess(result["config"]["tokens_run"], result["config"]["tokens_asked"])

    def test_a_run_goes_on_and_refuses_anothers_answers(self):
        data, samples = self.lines("obqa.jsonl", map(question, range(10))), self.dir / "samples.jsonl"
        run = ("eval", self.model, "--task", "openbookqa", "--data", data)
        whole = self.ok(*run)
        self.ok(*run, "--samples", samples, "--limit", 4)
        text = samples.read_text()
        samples.write_text(text[:-7])  # as a kill leaves it
        resumed = self.ok(*run, "--samples", samples)
        self.assertEqual(resumed["results"], whole["results"])
        self.assertEqual(len(samples.read_text().splitlines()), 11)
        self.assertEqual(self.ok(*run, "--samples", samples)["config"]["tokens_run"], 0)
        done = awq("eval", self.other, "--task", "openbookqa", "--data", data, "--samples", samples)
        self.assertEqual(done.returncode, 1)
        self.assertIn("belongs to another run: its model_sha256", done.stderr)

    def test_paired_with_a_model_or_its_answers(self):
        data, samples = self.lines("wino.jsonl", [{"question": f"{i} boats: the _ sank.", "choices": ["first", "last"], "answer": i % 2}
                                                  for i in range(16)]), self.dir / "other.jsonl"
        run = ("--task", "winogrande", "--data", data)
        theirs = self.ok("eval", self.other, *run, "--samples", samples)
        against_model = self.ok("eval", self.model, *run, "--reference", self.other)
        against_file = self.ok("eval", self.model, *run, "--reference", samples)
        self.assertEqual(against_model["paired"], against_file["paired"])
        paired = against_file["paired"]["acc,none"]
        ours = against_file["results"]["winogrande"]["acc,none"]
        self.assertAlmostEqual(paired["difference"], ours - theirs["results"]["winogrande"]["acc,none"])
        self.assertAlmostEqual(16 * paired["difference"], paired["only_model"] - paired["only_reference"])
        itself = self.ok("eval", self.other, *run, "--reference", samples)["paired"]["acc,none"]
        self.assertEqual((itself["difference"], itself["mcnemar_p"], itself["tie"]), (0, 1, True))

    def test_mmlu_by_subject_with_examples(self):
        def mmlu(subject, i):
            return question(i, subject=subject, choices=["1", "2", "3", "4"])
        subjects = "anatomy", "astronomy"
        data = self.lines("mmlu.jsonl", [mmlu(s, i) for s in subjects for i in range(6)])
        dev = self.lines("dev.jsonl", [mmlu(s, i) for s in subjects for i in range(5)])
        result = self.ok("eval", self.model, "--task", "mmlu", "--data", data, "--fewshot", dev, "--limit", 4)
        self.assertEqual(result["n-shot"]["mmlu_anatomy"], 5)
        self.assertEqual(result["group_subtasks"]["mmlu"], ["mmlu_stem"])
        self.assertEqual(result["n-samples"]["mmlu_astronomy"], {"original": 6, "effective": 4})
        self.assertAlmostEqual(result["results"]["mmlu"]["acc,none"],
                               sum(result["results"][f"mmlu_{s}"]["acc,none"] for s in subjects) / 2)

    def test_written_answers(self):
        gsm = self.lines("gsm.jsonl", [{"question": f"{i} and {i}?", "answer": f"Twice.\n#### {2 * i}"} for i in range(6)])
        samples = self.dir / "gsm.samples.jsonl"
        run = ("eval", self.model, "--task", "gsm8k", "--data", gsm, "--fewshot", gsm, "--num-fewshot", 2, "--limit", 3, "--samples", samples)
        result = self.ok(*run)
        self.assertEqual(result["n-shot"]["gsm8k"], 2)
        self.assertEqual(set(result["results"]["gsm8k"]) - {"alias"},
                         {f"exact_match{e},{f}" for e in ("", "_stderr") for f in ("strict-match", "flexible-extract")})
        items = [json.loads(line) for line in samples.read_text().splitlines()[1:]]
        self.assertEqual([(i["target"], len(i["resps"])) for i in items], [("0", 1), ("2", 1), ("4", 1)])
        self.assertEqual(self.ok(*run)["results"], result["results"])

    def test_programs_run_against_their_tests(self):
        def problem(number, value):
            return {"task_id": f"T/{number}", "prompt": f"def f():\n    return {value}\n", "entry_point": "f",
                    "test": "def check(c):\n    assert c() == 7\n"}
        data, samples = self.lines("human.jsonl", [problem(0, 7), problem(1, 8)]), self.dir / "human.samples.jsonl"
        done = awq("eval", self.model, "--task", "humaneval", "--data", data, "--answers", 3, "--samples", samples, "--json")
        if "seccomp and Landlock" in done.stderr:
            self.skipTest(done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("pass@2,create_test", json.loads(done.stdout)["results"]["humaneval"])
        wrong = json.loads(samples.read_text().splitlines()[2])
        self.assertEqual((wrong["scores"], len(wrong["resps"])), ([0, 0], 3))

    def test_a_judge_rates_conversations(self):
        (self.model / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")
        data = self.lines("mt.jsonl", [{"question_id": 81 + i, "category": c, "turns": [f"Write {i}.", f"Again {i}."], **more}
                                       for i, (c, more) in enumerate([("writing", {}), ("math", {"reference": ["42", "43"]})])])
        samples = self.dir / "samples.jsonl"
        run = ("eval", self.model, "--task", "mtbench", "--data", data, "--max-tokens", 12, "--judge-model", "j", "--samples", samples)
        judge = Judge([(503, "busy"), "Fine. [[7]]", "no number", "[[4]]", "first [[2]] then [[10]]", "[[5.5]]"])
        result = self.ok(*run, "--judge", judge.url + "/", env={**os.environ, "AWQ_JUDGE_API_KEY": "secret"})
        scores = result["results"]["mtbench"]
        self.assertEqual([scores[f"rating,{k}"] for k in ("turn-1", "turn-2", "mean")], [8.5, 4.75, 6.625])
        self.assertEqual(set(judge.keys), {"Bearer secret"})
        self.assertTrue(all(a["model"] == "j" and a["temperature"] == 0 for a in judge.asked))
        asked = [a["messages"][1]["content"] for a in judge.asked]
        items = [json.loads(line) for line in samples.read_text().splitlines()[1:]]
        answers = {i["question_id"]: i["resps"] for i in items}
        self.assertIn("Write 0.", asked[1])
        self.assertIn(answers[81][0], asked[1])
        self.assertNotIn("Again 0.", asked[1])
        self.assertIn(answers[81][1], asked[2])
        self.assertIn("42", asked[4])
        self.assertEqual(self.ok(*run, "--judge", judge.url)["results"], result["results"])  # everything was done already
        self.assertEqual(len(judge.asked), 6)

        samples.unlink()
        for verdicts, expected in (([(401, "who are you?")], "expected status 200, got 401: who are you?"), (["?"] * 3, "expected a rating as [[1]] to [[10]]"),
                                   ([(200, "{}")], "expected choices[0].message.content, got {}")):
            with self.subTest(expected=expected):
                done = awq(*run, "--judge", Judge(verdicts).url)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(expected, done.stderr)
        done = awq(*run[:-2])
        self.assertEqual(done.returncode, 2)
        self.assertIn("--judge", done.stderr)

    def test_gate_passes_and_fails_by_its_status(self):
        text = self.dir / "text.txt"
        text.write_text(long_text(12))
        near = self.dir / "near"
        self.quantize(self.model, near, "--method", "rtn", "--bits", 8, "--format", "dense")
        gate = ("gate", near, "--reference", self.model, "--data", text)
        kl = self.ok("eval", near, "--task", "kl", "--reference", self.model, "--data", text)
        rise = 100 * (kl["perplexity"] / kl["reference_perplexity"] - 1)
        done = awq(*gate, "--max-kl", 2 * kl["kl"], "--max-ppl-rise", f"{abs(rise) * 2 + 0.01}%", "--min-agreement", "1", "--json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        checks = json.loads(done.stdout)["checks"]
        self.assertAlmostEqual(checks[0]["measured"], kl["kl"])
        self.assertAlmostEqual(checks[1]["measured"], rise)
        self.assertAlmostEqual(checks[2]["measured"], 100 * kl["top1_agreement"])
        for bound in ("--max-kl", kl["kl"] / 2), ("--max-ppl-rise", rise - 0.01), ("--min-agreement", "100.1%"):
            done = awq(*gate, *bound)
            self.assertEqual(done.returncode, 3, bound)
            self.assertIn("FAIL", done.stdout)
        self.assertEqual(awq("gate", self.dir / "absent", "--reference", self.model, "--max-kl", 1).returncode, 1)
        for wrong in (), ("--min-agreement", "much"), ("--max-kl", "-1"):
            self.assertEqual(awq(*gate, *wrong).returncode, 2, wrong)

    def test_wrong_files_and_command_lines(self):
        bad = self.lines("bad.jsonl", [question(0), question(1, answer=3)])
        done = awq("eval", self.model, "--task", "arc_easy", "--data", bad)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Aawq: error: \S*bad\.jsonl:2: \"answer\" or \"label\": expected a whole number from 0 to 2, [^\n]*got 3\n\Z")
        for arguments, message in [(("--task", "arc_easy"), "needs --data FILE"), (("--task", "ppl", "--samples", "x"), "--samples"),
                                   (("--task", "piqa", "--data", "x", "--num-fewshot", "2"), "needs --fewshot FILE")]:
            done = awq("eval", self.model, *arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)


if __name__ == "__main__":
    unittest.main()
