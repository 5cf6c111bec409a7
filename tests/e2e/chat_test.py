#!/usr/bin/env python3
"""awq chat on a terminal and by pipe, generate --chat, and conversations as calibration text.

Usage: chat_test.py PATH_TO_AWQ
"""
import errno, pty, re, select, signal, time

from tiny import *

TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
            "{% if messages[-1].content == 'refuse' %}{{ raise_exception('not that') }}{% endif %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")


class Terminal:
    """awq on a pseudo-terminal of 60 columns."""

    def __init__(self, *arguments):
        self.process, self.screen = None, ""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(AWQ, [AWQ, *map(str, arguments)])
        self.pid = pid

    def send(self, text):
        os.write(self.fd, text.encode())

    def until(self, pattern, timeout=60):
        """Reads up to a match of `pattern`; returns what came before it and takes both off the screen."""
        end = time.monotonic() + timeout
        while True:
            match = re.search(pattern, self.screen, re.DOTALL)
            if match:
                before, self.screen = self.screen[:match.end()], self.screen[match.end():]
                return before
            if time.monotonic() > end:
                raise AssertionError(f"no {pattern!r} on the screen: {self.screen[-2000:]!r}")
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.screen += os.read(self.fd, 65536).decode(errors="replace")
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    raise AssertionError(f"awq ended before {pattern!r}: {self.screen[-2000:]!r}") from None

    def wait(self, timeout=30):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    if not os.read(self.fd, 65536):
                        break
                except OSError:
                    break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Chat(TinyCase):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.dir / "model", llama_config(max_position_embeddings=4096), tokenizer=True)
        (self.model / "chat_template.jinja").write_text(TEMPLATE)

    def piped(self, *arguments, typed):
        return awq("chat", self.model, *arguments, input=typed, cwd=self.dir)

    def test_by_pipe_each_line_is_a_message_and_the_conversation_goes_on(self):
        done = self.piped("--max-tokens", "5", "--json", "--system", "Be kind.", typed="one\ntwo \\\nlines\n\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        self.assertEqual(result["schema"], "awq.chat/1")
        turns = [(m["role"], m["content"]) for m in result["messages"]]
        self.assertEqual([r for r, _ in turns], ["system", "user", "assistant", "user", "assistant"])
        self.assertEqual([turns[i][1] for i in (0, 1, 3)], ["Be kind.", "one", "two \nlines"])
        self.assertLessEqual(result["tokens"], 10)
        self.assertGreater(result["reused_tokens"], 0)  # the second turn goes on from the first one's cache

    def test_answers_stream_to_standard_output_and_speed_to_standard_error(self):
        done = self.piped("--max-tokens", "4", typed="hello\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.endswith("\n"))
        self.assertRegex(done.stderr, r"\[prompt \d+ tokens, 0 of them kept, [\d.]+ tokens/s; answer \d tokens")
        self.assertEqual(self.piped("--max-tokens", "4", "-q", typed="hello\n").stderr, "")

    def test_the_same_answer_as_generate_chat(self):
        chat = self.piped("--max-tokens", "8", "-q", "--system", "S", typed="hello\n").stdout
        once = awq("generate", self.model, "-p", "hello", "--system", "S", "--max-tokens", "8", "-q").stdout
        self.assertEqual(chat, once)
        raw = awq("generate", self.model, "-p", "<system>S</system>\n<user>hello</user>\n<assistant>", "--max-tokens", "8", "-q").stdout
        self.assertEqual(chat, raw)

    def test_commands(self):
        done = self.piped("--max-tokens", "3", typed="hello\n/save a.jsonl\n/reset\n/save b.jsonl\n/system Sing.\n/system\n/nonsense\n/help\n/save no/such/folder\n/exit\nnever\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        saved = json.loads((self.dir / "a.jsonl").read_text())["messages"]
        self.assertEqual([m["role"] for m in saved], ["user", "assistant"])
        self.assertEqual(json.loads((self.dir / "b.jsonl").read_text()), {"messages": []})
        for expected in ("Sing.", "there is no /nonsense", "/reset", "no/such/folder"):
            self.assertIn(expected, done.stderr)
        self.assertEqual(done.stderr.count("[prompt"), 1)  # nothing after /exit

    def test_a_message_that_the_template_refuses_leaves_the_conversation_as_it_was(self):
        done = self.piped("--max-tokens", "3", "--json", typed="refuse\nhello\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("line 2: the template says: not that", done.stderr)
        self.assertEqual([m["content"] for m in json.loads(done.stdout)["messages"] if m["role"] == "user"], ["hello"])

    def test_a_conversation_longer_than_the_context_says_so(self):
        done = self.piped("--context", "64", typed="x" * 500 + "\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("/reset begins a new one", done.stderr)

    def test_a_model_without_template_is_refused(self):
        (self.model / "chat_template.jinja").unlink()
        for done in (self.piped(typed="x\n"), awq("generate", self.model, "-p", "x", "--chat")):
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, r"^awq: error: .*expected a chat template .*, got none\n$")

    def test_on_a_terminal_lines_are_edited_and_recalled(self):
        t = Terminal("chat", self.model, "--max-tokens", "3")
        t.until(">>> ")
        t.send("wrold\x1b[D\x1b[D\x1b[D\x1b[D\x1b[3~\x1b[Cr\x01hello \r")  # wrold -> world, Ctrl-A, "hello "
        t.until(r"\[prompt")
        t.until(">>> ")
        t.send("first\x1b\rsecond \\\rthird\r")  # Alt-Enter, backslash before Enter
        t.until(r"\[prompt")
        t.until(">>> ")
        t.send("\x1b[200~pasted\rlines\x1b[201~\r")
        t.until(r"\[prompt")
        t.until(">>> ")
        t.send("\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x15again: \x05\r")  # up through three messages of seven lines
        t.until(r"\[prompt")
        t.until(">>> ")
        t.send("dropped\x03/save typed.jsonl".replace("typed", str(self.dir / "typed")) + "\r")
        t.until("saved 8 messages")
        t.until(">>> ")
        t.send("\x04")
        self.assertEqual(t.wait(), 0)
        users = [m["content"] for m in json.loads((self.dir / "typed.jsonl").read_text())["messages"] if m["role"] == "user"]
        self.assertEqual(users[:3], ["hello world", "first\nsecond \nthird", "pasted\nlines"])
        self.assertEqual(users[3], "again: ")

    def test_on_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(self):
        # The model may end its answer before the key arrives: then once more, in a new conversation.
        for _ in range(20):
            t = Terminal("chat", self.model, "--max-tokens", "3000", "--temperature", "2")
            t.until(">>> ")
            t.send("go on\r")
            t.until("go on.*?\n.*?[^\x00]{4}")
            t.send("\x03")
            answer = t.until(r"answer \d+ tokens, [^\]]*\]")
            t.until(">>> ")
            t.send("/exit\r")
            self.assertEqual(t.wait(), 0)
            if answer.endswith("; stopped]"):
                break
        else:
            self.fail("no answer was stopped")

    def test_conversations_calibrate_in_the_models_template(self):
        line = {"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]}
        (self.dir / "chat.jsonl").write_text((json.dumps(line) + "\n") * 20)
        text = "".join(f"<{m['role']}>{m['content']}</{m['role']}>\n" for m in line["messages"])
        (self.dir / "text.jsonl").write_text((json.dumps({"text": text}) + "\n") * 20)
        made = []
        for name in ("chat", "text"):
            done = awq("quantize", self.model, "-o", self.dir / f"out-{name}", "--calib", self.dir / f"{name}.jsonl", "--no-check", "-q")
            self.assertEqual(done.returncode, 0, done.stderr)
            made.append((self.dir / f"out-{name}" / "model.safetensors").read_bytes())
        self.assertEqual(made[0], made[1])
        (self.dir / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "refuse"}]}\n')
        done = awq("quantize", self.model, "-o", self.dir / "out", "--calib", self.dir / "bad.jsonl", "-q")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"bad.jsonl: line 1: .*chat_template.jinja: line 2: the template says: not that\n$")


if __name__ == "__main__":
    unittest.main()
