#!/usr/bin/env python3
"""`awq serve` under load: the same answer in every batch, refusals, clients that leave, stopping.

Usage: serve_under_load.py AWQ MODEL [PART ...]     parts: identical overload leaving stopping (default: all, in this order)

identical  1,000 greedy requests with one prompt, mixed with random ones, in a cache small enough for preemption: one distinct answer.
overload   ten times the rate that 64 clients reach, for a minute: refusals within 50 ms at p99, accepted tokens/s >= 95 % of the
           peak, resident memory within 5 % of what it was after the first ten seconds. Needs the machine to itself.
leaving    10,000 clients that leave at a random moment, half of them with a reset: afterwards no sequence, page or descriptor more.
stopping   SIGTERM while 64 streams run: all of them finish, the process exits with 0.

--requests N, --leavers N, --seconds N make it smaller. Needs Python alone, and Linux for /proc. Prints a JSON object for each
part and ends with 1 when one fails. Works as well on a build with a sanitizer: its reports fail the run through the exit status.
"""
import argparse, asyncio, json, os, random, re, signal, socket, struct, subprocess, sys, threading, time

WORDS = "sea salt tide wind harbour ship rope stone light night river cloud engine copper letter garden window paper".split()
MOST_REFUSAL_MS, LEAST_THROUGHPUT, MOST_GROWTH = 50, 0.95, 1.05


class Server:
    def __init__(self, awq, model, *options):
        self.process = subprocess.Popen([awq, "serve", model, "--port", "0", "--progress", "none", *options], stderr=subprocess.PIPE, text=True)
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if found := re.search(r"at http://[^ ]+:(\d+)", line):
                self.port = int(found.group(1))
                break
        else:
            sys.exit("the server did not start: " + "".join(seen))
        threading.Thread(target=lambda: [print(line, end="", file=sys.stderr) for line in self.process.stderr], daemon=True).start()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def proc(self, name):
        return f"/proc/{self.process.pid}/{name}"

    def descriptors(self):
        return len(os.listdir(self.proc("fd")))

    def resident_mb(self):
        with open(self.proc("status")) as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024

    async def metrics(self):
        text = (await ask(self.port, None, "GET", "/metrics"))[1].decode()
        return {name: float(value) for name, value in re.findall(r"^(awq_\w+) (\S+)$", text, re.M)}


async def ask(port, body, method="POST", path="/v1/completions", opened=None):
    """(status, body, seconds) of one exchange on a connection of its own. opened: called with what has come so far."""
    data = b"" if body is None else json.dumps(body).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        out = b""
        while piece := await reader.read(65536):
            out += piece
            if opened:
                opened(out)
        head, _, rest = out.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]) if head else 0, rest, time.perf_counter() - start
    finally:
        writer.close()


def request(dice, tokens, **more):
    prompt = " ".join(dice.choice(WORDS) for _ in range(dice.randint(3, 60)))
    return {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": dice.choice([0, 0.7, 1.3]), "seed": dice.randint(0, 1 << 30), **more}


async def settled(server):
    for _ in range(600):
        m = await server.metrics()
        if m["awq_sequences_running"] == m["awq_sequences_waiting"] == 0:
            return m
        await asyncio.sleep(0.1)
    return m


async def identical(server, o):
    dice, answers, left, done = random.Random(1), {}, o.requests, asyncio.Event()
    fixed = {"prompt": "The harbour lay still at night, and the", "max_tokens": 12, "temperature": 0, "ignore_eos": True}

    async def asks():
        nonlocal left
        while left > 0:
            left -= 1
            status, body, _ = await ask(server.port, fixed)
            text = json.loads(body)["choices"][0]["text"] if status == 200 else f"status {status}"
            answers[text] = answers.get(text, 0) + 1

    async def disturbs(dice):
        while not done.is_set():
            await ask(server.port, request(dice, dice.randint(1, 40), n=dice.choice([1, 1, 3])))
            await asyncio.sleep(dice.random() * 0.05)

    noise = [asyncio.create_task(disturbs(random.Random(k))) for k in range(6)]
    await asyncio.gather(*(asks() for _ in range(10)))
    done.set()
    await asyncio.gather(*noise)
    m = await settled(server)
    ok = len(answers) == 1 and not next(iter(answers)).startswith("status ")
    return ok, {"requests": sum(answers.values()), "distinct": len(answers), "preemptions": int(m["awq_preemptions_total"]),
                "requests_in_all": int(m["awq_requests_done_total"])}


async def overload(server, o):
    dice, tokens, stop = random.Random(2), 16, time.perf_counter() + 20 * o.seconds / 60
    done = 0

    async def client():
        nonlocal done
        while time.perf_counter() < stop:
            status, _, _ = await ask(server.port, request(dice, tokens))
            done += status == 200

    before, start = await server.metrics(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(64)))
    peak_rate = done / (time.perf_counter() - start)
    after = await server.metrics()
    peak = (after["awq_generated_tokens_total"] - before["awq_generated_tokens_total"]) / (time.perf_counter() - start)

    refused, other, tasks, memory = [], [], set(), []

    async def one():
        status, _, seconds = await ask(server.port, request(dice, tokens))
        (refused if status == 429 else other).append((status, seconds))

    before, start = after, time.perf_counter()
    while (now := time.perf_counter() - start) < o.seconds:
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if now > o.seconds / 6 and (not memory or now - memory[-1][0] > 1):
            memory.append((now, server.resident_mb()))
        await asyncio.sleep(max(0, start + (len(refused) + len(other) + len(tasks)) / (10 * peak_rate) - time.perf_counter()))
    after = await server.metrics()
    accepted = (after["awq_generated_tokens_total"] - before["awq_generated_tokens_total"]) / (time.perf_counter() - start)
    await asyncio.gather(*tasks, return_exceptions=True)
    times = sorted(seconds * 1000 for _, seconds in refused)
    p99 = times[int(len(times) * 0.99)] if times else float("inf")
    growth = max(mb for _, mb in memory) / memory[0][1]
    statuses = sorted({status for status, _ in other})
    ok = p99 <= MOST_REFUSAL_MS and accepted >= LEAST_THROUGHPUT * peak and growth <= MOST_GROWTH and statuses == [200]
    return ok, {"peak_tokens_per_s": round(peak, 1), "peak_requests_per_s": round(peak_rate, 1), "offered_requests_per_s": round((len(refused) + len(other)) / o.seconds, 1),
                "refused": len(refused), "refusal_p50_ms": round(times[len(times) // 2], 1) if times else None, "refusal_p99_ms": round(p99, 1),
                "accepted_tokens_per_s": round(accepted, 1), "accepted_over_peak": round(accepted / peak, 3), "memory_growth": round(growth, 3), "other_statuses": statuses}


async def leaving(server, o):
    await asyncio.gather(*(ask(server.port, request(random.Random(k), 4)) for k in range(32)))
    before = await settled(server)
    await asyncio.sleep(1)
    descriptors, left = server.descriptors(), o.leavers
    loop = asyncio.get_running_loop()

    async def leaves(dice):
        nonlocal left
        while left > 0:
            left -= 1
            data = json.dumps(request(dice, dice.randint(1, 64), stream=dice.random() < 0.7, n=dice.choice([1, 1, 2]))).encode()
            data = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
            s = socket.socket()
            s.setblocking(False)
            if dice.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with s:
                await loop.sock_connect(s, ("127.0.0.1", server.port))
                await loop.sock_sendall(s, data if dice.random() < 0.9 else data[:dice.randint(0, len(data))])
                await asyncio.sleep(dice.random() ** 3 * 0.4)

    await asyncio.gather(*(leaves(random.Random(k)) for k in range(48)))
    after = await settled(server)
    for _ in range(100):  # what a closed connection held is freed by the next turn of its loop
        if server.descriptors() == descriptors:
            break
        await asyncio.sleep(0.1)
    seen = {"descriptors": [descriptors, server.descriptors()]}
    for name in "sequences_running", "sequences_waiting", "kv_pages_used":
        seen[name] = [int(m["awq_" + name]) for m in (before, after)]
    ok = all(a == b for a, b in seen.values()) and after["awq_requests_gone_total"] > before["awq_requests_gone_total"]
    status, _, _ = await ask(server.port, request(random.Random(0), 4))
    return ok and status == 200, {"clients": o.leavers, "before_and_after": seen, "gone": int(after["awq_requests_gone_total"]),
                                  "answer_afterwards": status}


async def stopping(server, o):
    begun, dice = set(), random.Random(4)
    def opened(k):
        return lambda out: begun.add(k) if b"data: " in out else None
    tasks = [asyncio.create_task(ask(server.port, request(dice, 32, stream=True), opened=opened(k))) for k in range(64)]
    while len(begun) < 64 and not any(task.done() for task in tasks):
        await asyncio.sleep(0.005)
    running = 64 - sum(task.done() for task in tasks)
    server.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*tasks)
    status = await asyncio.to_thread(server.process.wait, 120)
    whole = sum(code == 200 and b"data: [DONE]" in body and b'"finish_reason":"length"' in body for code, body, _ in answers)
    return whole == 64 and status == 0 and running >= 60, {"streams": 64, "running_at_the_signal": running, "begun": len(begun), "finished": whole, "exit_status": status}


PARTS = {"identical": (identical, ["--kv-memory", "16MB", "--max-sequences", "24"]),
         "overload": (overload, ["--kv-memory", "256MB", "--max-sequences", "32", "--max-waiting", "32"]),
         "leaving": (leaving, ["--kv-memory", "256MB"]),
         "stopping": (stopping, ["--kv-memory", "512MB", "--max-sequences", "64", "--drain-timeout", "100"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("awq")
    parser.add_argument("model")
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--leavers", type=int, default=10000)
    parser.add_argument("--seconds", type=int, default=60)
    o = parser.parse_args()
    if unknown := set(o.parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    failed = 0
    for name in o.parts or PARTS:
        run, options = PARTS[name]
        server = Server(o.awq, o.model, *options)
        start = time.perf_counter()
        try:
            ok, report = asyncio.run(run(server, o))
            ended = server.stop() if server.process.poll() is None else server.process.returncode
        finally:
            if server.process.poll() is None:
                server.process.kill()
        ok = ok and ended == 0
        failed += not ok
        print(json.dumps({"part": name, "ok": ok, **report, "seconds": round(time.perf_counter() - start, 1)}), flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
