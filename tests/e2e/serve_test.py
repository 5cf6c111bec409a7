#!/usr/bin/env python3
"""awq serve over real sockets: framing, limits, keys, streams, leaving clients, stopping."""
import contextlib, http.client, json, os, pathlib, re, signal, socket, subprocess, sys, tempfile, threading, time, unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tiny

BODY = {"prompt": "The tide", "max_tokens": 5, "temperature": 0, "ignore_eos": True}


class Server:
    def __init__(self, folder, *options, key=None):
        environment = {k: v for k, v in os.environ.items() if k != "AWQ_API_KEY"}
        if key:
            environment["AWQ_API_KEY"] = key
        self.process = subprocess.Popen([tiny.AWQ, "serve", str(folder), "--port", "0", "--threads", "1",
                                         *([] if "--memory" in options else ["--kv-memory", "4MB"]), *options],
                                        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"at http://([^ ]+):(\d+)", line)
            if found:
                self.port = int(found.group(2))
                break
        else:
            raise RuntimeError("".join(self.lines))
        threading.Thread(target=self.lines.extend, args=(self.process.stderr,), daemon=True).start()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
        self.process.stderr.close()
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = None if body is None else json.dumps(body)
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text, response

    def raw(self, data, wait=20):
        """Sends bytes, and reads until the server closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as s:
            s.sendall(data)
            out = b""
            with contextlib.suppress(socket.timeout, ConnectionResetError):
                while piece := s.recv(65536):
                    out += piece
            return out

    def metric(self, name):
        text = self.request("GET", "/metrics")[1]
        return float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))


def status_of(data):
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.1 ") else 0


class ServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = tiny.golden("llama-tied", cls.folder.name)
        cls.server = Server(cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    def test_answers_and_keeps_the_connection(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        texts = set()
        for _ in range(3):
            connection.request("POST", "/v1/completions", json.dumps(BODY), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            self.assertEqual(response.status, 200)
            self.assertEqual(answer["model"], "llama-tied")
            texts.add(answer["choices"][0]["text"])
        connection.close()
        self.assertEqual(len(texts), 1)

    def test_two_requests_in_one_packet_are_answered_in_order(self):
        request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        last = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        data = self.server.raw(request + request + last)
        self.assertEqual(data.count(b"HTTP/1.1 200 OK"), 3)
        self.assertLess(data.index(b'"ok"'), data.index(b"llama-tied"))

    def test_a_chunked_body_and_a_slow_one(self):
        body = json.dumps(BODY).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        chunked = b"".join(b"%x\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]) for i in range(0, len(body), 7)) + b"0\r\n\r\n"
        self.assertEqual(status_of(self.server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked)), 200)
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as s:
            for part in [head, b"Content-Length: %d\r\n\r\n" % len(body), body[:5], body[5:]]:
                s.sendall(part)
                time.sleep(0.05)
            self.assertEqual(status_of(s.recv(65536)), 200)

    def test_expect_continue(self):
        body = json.dumps(BODY).encode()
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
                      b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.assertEqual(status_of(s.recv(65536)), 100)
            s.sendall(body)
            self.assertEqual(status_of(s.recv(65536)), 200)

    def test_every_answer_has_a_date(self):
        for data in [b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"nonsense\r\n\r\n"]:
            self.assertRegex(self.server.raw(data).decode(), r"\r\nDate: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n")

    def test_head_has_no_body(self):
        data = self.server.raw(b"HEAD /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, rest = data.partition(b"\r\n\r\n")
        self.assertEqual((status_of(head), rest), (200, b""))
        self.assertIn(b"Content-Length: ", head)

    def test_wrong_framing_is_refused_and_the_connection_closed(self):
        get = b"GET /health HTTP/1.1\r\n"
        for data, status in [(b"nonsense\r\n\r\n", 400), (get + b"\r\n", 400), (get + b"Host: a\r\nHost: a\r\n\r\n", 400),
                             (get + b"Host: localhost\r\nA: b\r\n c\r\n\r\n", 400), (b"GET /health HTTP/1.1\nHost: localhost\n\n", 400),
                             (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 505),
                             (get + b"Host: localhost\r\nA: " + b"x" * 20000 + b"\r\n\r\n", 431),
                             (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n", 413),
                             (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
                             (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400)]:
            answer = self.server.raw(data + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(status_of(answer), status, data[:60])
            self.assertEqual(len(re.findall(rb"HTTP/1\.1 \d", answer)), 1, "what follows is not read as a request")
            self.assertIn(b"Connection: close", answer)
            self.assertIn(b'"error"', answer)

    def test_streams(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps({**BODY, "stream": True}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        self.assertEqual(response.getheader("Transfer-Encoding"), "chunked")
        text = response.read().decode()
        self.assertTrue(text.endswith("data: [DONE]\n\n"))
        pieces = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        whole = json.loads(self.server.request("POST", "/v1/completions", BODY)[1])
        self.assertEqual("".join(p["choices"][0]["text"] for p in pieces), whole["choices"][0]["text"])
        connection.close()
        data = self.server.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 59\r\n\r\n"
                               + json.dumps({"prompt": "The", "stream": True, "max_tokens": 3}).encode().ljust(59))
        self.assertEqual(status_of(data), 200)
        self.assertNotIn(b"chunked", data)
        self.assertTrue(data.endswith(b"data: [DONE]\n\n"))

    def test_who_leaves_frees_pages(self):
        body = json.dumps({**BODY, "max_tokens": 50, "stream": True, "n": 3}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        for i in range(30):
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as s:
                s.sendall(head + body)
                if i % 3:
                    s.recv(100)
        deadline = time.time() + 30
        while time.time() < deadline and (self.server.metric("awq_kv_pages_used") or self.server.metric("awq_sequences_running")):
            time.sleep(0.05)
        self.assertEqual(self.server.metric("awq_kv_pages_used"), 0)
        self.assertEqual(self.server.metric("awq_sequences_waiting"), 0)

    def test_many_at_once_get_what_each_gets_alone(self):
        bodies = [{**BODY, "prompt": p, "max_tokens": n} for p in ["The tide", "A boy walked", "x"] for n in (3, 9, 17)]
        alone = [json.loads(self.server.request("POST", "/v1/completions", b)[1])["choices"] for b in bodies]
        together = [None] * 4 * len(bodies)

        def ask(i):
            together[i] = json.loads(self.server.request("POST", "/v1/completions", bodies[i % len(bodies)])[1])["choices"]
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(together))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(together, 4 * alone)

    def test_other_host_names_are_refused(self):
        self.assertEqual(self.server.request("GET", "/v1/models", Host="evil.example")[0], 403)
        self.assertEqual(self.server.request("GET", "/v1/models", Host="localhost:1")[0], 200)


class ServeProcessTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.model = tiny.golden("llama-tied", self.folder.name)

    def test_keys(self):
        file = pathlib.Path(self.folder.name) / "keys"
        file.write_text("# staff\nkey-from-file\n")
        with Server(self.model, "--api-key-file", str(file), key="key-from-env") as server:
            self.assertEqual(server.request("GET", "/health")[0], 200)
            self.assertEqual(server.request("GET", "/v1/models")[0], 401)
            for key in ["key-from-file", "key-from-env"]:
                self.assertEqual(server.request("GET", "/v1/models", Authorization=f"Bearer {key}")[0], 200)
            self.assertEqual(server.request("POST", "/v1/completions", BODY, Authorization="Bearer key-from-fil")[0], 401)
            self.assertNotIn("key-from", "".join(server.lines))

    def test_load_is_measured(self):
        with Server(self.model, key="secret-key") as server:
            url = f"http://127.0.0.1:{server.port}"
            page = pathlib.Path(self.folder.name) / "load.html"

            def bench(*arguments, key="secret-key", where=url):
                environment = {**os.environ, "AWQ_API_KEY": key}
                return tiny.awq("bench-serve", where, "--max-tokens", 6, "--prompt-characters", 40, *arguments, env=environment)

            done = bench("--clients", "1,3", "--rate", "40", "--requests", 9, "--html", page, "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            levels = json.loads(done.stdout)["levels"]
            self.assertEqual([(level["clients"], level["rate"]) for level in levels], [(None, 40), (1, None), (3, None)])
            for level in levels:
                self.assertEqual((level["done"], level["failed"], level["tokens"]), (9, 0, 54))
                self.assertGreater(level["prompt_tokens"], 9 * 10)
                for name in ("first_token_ms", "between_ms", "answer_ms"):
                    q = level[name]
                    self.assertTrue(0 <= q["p50"] <= q["p95"] <= q["p99"], level)
                self.assertLessEqual(level["first_token_ms"]["p50"], level["answer_ms"]["p50"])
                self.assertAlmostEqual(level["tokens_per_s"], 54 / level["seconds"], places=6)
            self.assertIn("Time to the first token", page.read_text())
            done = bench("--clients", 2, "--requests", 4, "--chat", "--model", "m")
            self.assertEqual(done.returncode, 1)
            self.assertIn("the first request was not answered: status 404", done.stderr)
            done = bench(key="wrong")
            self.assertEqual(done.returncode, 1)
            self.assertIn("status 401", done.stderr)
        done = bench("--clients", 1)
        self.assertEqual(done.returncode, 1)
        self.assertIn("expected an answer, got none", done.stderr)

    def test_memory_bounds_weights_buffers_and_cache_together(self):
        with Server(self.model, "--memory", "96MiB") as server:
            for size in 10, 50:
                self.assertEqual(server.request("POST", "/v1/completions", {**BODY, "prompt": [5 + i % 90 for i in range(size)]})[0], 200)
            tokens = int(re.search(r"cache: (\d+) tokens", "".join(server.lines)).group(1))
            self.assertGreaterEqual(tokens, 2048)
            resident = int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{server.process.pid}/status").read_text()).group(1))
            self.assertLess(resident, 96 * 1024)
        done = tiny.awq("serve", self.model, "--port", "0", "--memory", "8MiB")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"--memory: expected more than [\d.]+ MiB for weights and buffers, got 8.00 MiB")

    def test_dense_models_are_quantized_while_loading(self):
        def answer(*options):
            with Server(self.model, *options) as server:
                status, text, _ = server.request("POST", "/v1/completions", {**BODY, "max_tokens": 24})
                self.assertEqual(status, 200)
                return json.loads(text)["choices"][0]["text"]
        stored, changed = answer(), 0
        for form in "nf4", "rtn", "int8":
            done = tiny.awq("generate", self.model, "-p", BODY["prompt"], "--max-tokens", 24, "--ignore-eos", "--load-in", form,
                            "--kv-dtype", "float16", "--json")
            self.assertEqual(answer("--load-in", form), json.loads(done.stdout)["text"], form)
            changed += answer("--load-in", form) != stored
        self.assertGreater(changed, 0)
        done = tiny.awq("serve", self.model, "--port", "0", "--load-in", "nf5")
        self.assertEqual(done.returncode, 2)
        self.assertIn("nf4", done.stderr)

    def test_other_addresses_need_a_key(self):
        for options in [["--host", "0.0.0.0"], ["--host", "::"]]:
            result = tiny.awq("serve", self.model, "--port", "0", *options)
            self.assertEqual(result.returncode, 1)
            self.assertIn("expected a key", result.stderr)
        with Server(self.model, "--host", "0.0.0.0", "--no-key") as server:
            self.assertEqual(server.request("GET", "/v1/models", Host="any.example")[0], 200)
        self.assertIn("expected an IP address", tiny.awq("serve", self.model, "--host", "nowhere.example", "--no-key").stderr)

    def test_a_port_in_use(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            result = tiny.awq("serve", self.model, "--port", s.getsockname()[1])
            self.assertEqual(result.returncode, 1)
            self.assertIn("cannot listen on 127.0.0.1 port", result.stderr)

    def test_sigterm_lets_running_streams_end(self):
        with Server(self.model) as server:
            connections = []
            for _ in range(16):
                c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                c.request("POST", "/v1/completions", json.dumps({**BODY, "max_tokens": 50, "stream": True}), {"Content-Type": "application/json"})
                connections.append((c, c.getresponse()))
            server.process.send_signal(signal.SIGTERM)
            for connection, response in connections:
                self.assertTrue(response.read().decode().endswith("data: [DONE]\n\n"))
                connection.close()
            self.assertEqual(server.process.wait(30), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
