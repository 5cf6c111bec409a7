#!/usr/bin/env python3
"""`awq serve` under load: the same answer in every batch, refusals, clients that leave, that say nothing or dawdle, stopping.

Usage: serve_under_load.py AWQ MODEL [PART ...]     parts: identical overload leaving stopping idle slow memory (default: all, in this order)

identical  1,000 greedy requests with one prompt, mixed with random ones, in a cache small enough for preemption: one distinct answer.
overload   ten times the rate that 64 clients reach in half a minute, for a minute: refusals within 50 ms at p99, accepted tokens/s >= 95 % of the
           peak, resident memory within 5 % of what it was after the first ten seconds. Needs the machine to itself.
leaving    10,000 clients that leave at a random moment, half of them with a reset: afterwards no sequence, page or descriptor more.
stopping   SIGTERM while 64 streams run: all of them finish, the process exits with 0.
idle       10,000 connections that send nothing, held for 2 minutes: at most 32 KiB of resident memory each, and the time to the first
           token of two clients beside them at most 25 % longer at p99 than before (median of five rounds without and with).
slow       5,000 connections that send their head a byte every two seconds and come back when they are refused: the same.
memory     as many sequences of 2,048 tokens as the cache is planned for under `--memory MIB` run together, none gives up its place and
           resident memory stays below it; by what they take each, at most 5 % more would have fitted into it.

--requests N, --leavers N, --seconds N, --rounds N, --hold SECONDS, --alone SECONDS, --answer TOKENS (of stopping) make it smaller. Needs Python alone, and Linux for /proc. Prints a JSON object for each
part and ends with 1 when one fails. Works as well on a build with a sanitizer: its reports fail the run through the exit status.
"""
import argparse, asyncio, itertools, json, multiprocessing, os, random, re, resource, selectors, signal, socket, statistics, struct, subprocess, sys, threading, time

WORDS = "sea salt tide wind harbour ship rope stone light night river cloud engine copper letter garden window paper".split()
MOST_REFUSAL_MS, LEAST_THROUGHPUT, MOST_GROWTH = 50, 0.95, 1.05
MOST_KIB_EACH, MOST_SLOWDOWN = 32, 1.25


class Server:
    def __init__(self, awq, model, *options):
        self.process = subprocess.Popen([awq, "serve", model, "--port", "0", "--progress", "none", *options], stderr=subprocess.PIPE, text=True)
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if found := re.search(r"at http://[^ ]+:(\d+)", line):
                self.port = int(found.group(1))
                self.cache_tokens = int(re.search(r"cache: (\d+) tokens", "".join(seen)).group(1))
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


async def generated(server):
    return (await server.metrics())["awq_generated_tokens_total"], time.perf_counter()


async def overload(server, o):
    dice, tokens, finished, stop = random.Random(2), 16, [], False

    async def client():
        while not stop:
            status, _, _ = await ask(server.port, request(dice, tokens))
            finished.append(status)

    clients = [asyncio.create_task(client()) for _ in range(64)]
    await asyncio.sleep(o.seconds / 6)
    before, start = await generated(server)
    done = finished.count(200)
    await asyncio.sleep(o.seconds / 2)
    after, end = await generated(server)
    peak, peak_rate = (after - before) / (end - start), (finished.count(200) - done) / (end - start)
    stop = True
    await asyncio.gather(*clients)

    refused, other, tasks, memory = [], [], set(), []

    async def one():
        status, _, seconds = await ask(server.port, request(dice, tokens))
        (refused if status == 429 else other).append((status, seconds))

    before, start = await generated(server)
    while (now := time.perf_counter() - start) < o.seconds:
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if now > o.seconds / 6 and (not memory or now - memory[-1][0] > 1):
            memory.append((now, server.resident_mb()))
        await asyncio.sleep(max(0, start + (len(refused) + len(other) + len(tasks)) / (10 * peak_rate) - time.perf_counter()))
    after, end = await generated(server)
    accepted = (after - before) / (end - start)
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
    tasks = [asyncio.create_task(ask(server.port, request(dice, o.answer, stream=True), opened=opened(k))) for k in range(64)]
    while len(begun) < 64 and not any(task.done() for task in tasks):
        await asyncio.sleep(0.005)
    running = 64 - sum(task.done() for task in tasks)
    server.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*tasks)
    status = await asyncio.to_thread(server.process.wait, 120)
    whole = sum(code == 200 and b"data: [DONE]" in body and b'"finish_reason":"length"' in body for code, body, _ in answers)
    return whole == 64 and status == 0 and running >= 60, {"streams": 64, "running_at_the_signal": running, "begun": len(begun), "finished": whole, "exit_status": status}


async def first_tokens(server, dice, seconds):
    """p99 in ms of the time to the first token that two clients see, one request after the other, and how many there were."""
    times, stop = [], time.perf_counter() + seconds

    async def client():
        while time.perf_counter() < stop:
            start, seen = time.perf_counter(), []
            await ask(server.port, request(dice, 12, stream=True), opened=lambda out: seen or b"data: " not in out or seen.append(time.perf_counter()))
            times.append(1000 * (seen[0] - start))

    await asyncio.gather(client(), client())
    return sorted(times)[int(len(times) * 0.99)], len(times)


def hold(port, count, seconds_a_byte, pipe):
    """Keeps `count` connections open until the pipe says something; seconds_a_byte: of a head, from each; None: they send nothing.

    Says when all of them stand, and at the end how many the server had closed. One that was closed is opened again.
    """
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Padding: " + b"a" * 4096
    closed, watched, sockets = 0, selectors.DefaultSelector(), {}

    def connect():
        s = socket.create_connection(("127.0.0.1", port))
        s.setblocking(False)
        sockets[s] = 0
        watched.register(s, selectors.EVENT_READ)

    for _ in range(count):
        connect()
    pipe.send("standing")
    start, sent = time.monotonic(), 0
    while not pipe.poll():
        for key, _ in watched.select(0.01 if seconds_a_byte else 0.2):
            try:
                if key.fileobj.recv(4096):
                    continue
            except OSError:
                pass
            watched.unregister(key.fileobj)
            key.fileobj.close()
            del sockets[key.fileobj]
            closed += 1
            connect()
        if seconds_a_byte:
            due = int((time.monotonic() - start) * count / seconds_a_byte)
            for s in list(itertools.islice(sockets, due - sent)):  # those that have waited longest: the dict's front
                at = sockets.pop(s)
                try:
                    s.send(head[at:at + 1])
                except OSError:
                    pass  # the next select sees that it was closed
                sockets[s] = at + 1
            sent = due
    pipe.send(closed)


async def held(server, o, count, seconds_a_byte):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    dice, rounds, each, closed = random.Random(5), [], [], 0
    await first_tokens(server, dice, o.alone / 4)
    for _ in range(o.rounds):
        alone, alone_requests = await first_tokens(server, dice, o.alone)
        memory = server.resident_mb()
        pipe, theirs = multiprocessing.Pipe()
        holder = multiprocessing.Process(target=hold, args=(server.port, count, seconds_a_byte, theirs))
        holder.start()
        await asyncio.to_thread(pipe.recv)
        beside, beside_requests = await first_tokens(server, dice, o.hold)
        each.append((server.resident_mb() - memory) * 1024 / count)
        pipe.send("enough")
        closed += await asyncio.to_thread(pipe.recv)
        await asyncio.to_thread(holder.join)
        await asyncio.sleep(1)
        rounds.append({"p99_alone_ms": round(alone, 1), "p99_beside_ms": round(beside, 1), "requests": [alone_requests, beside_requests]})
    slowdown = statistics.median(r["p99_beside_ms"] / r["p99_alone_ms"] for r in rounds)
    ok = each[0] <= MOST_KIB_EACH and slowdown <= MOST_SLOWDOWN and (seconds_a_byte is not None) == (closed > 0)
    # Memory is counted in the first round: what it took stays with the process and serves the next ones.
    return ok, {"connections": count, "kib_each": round(each[0], 1), "closed_by_the_server": closed, "slowdown": round(slowdown, 3), "rounds": rounds}


async def idle(server, o):
    return await held(server, o, 10_000, None)


async def slow(server, o):
    return await held(server, o, 5_000, 2)


async def memory(server, o):
    """All the sequences the cache is planned for at once; those that have read their prompt go on slowly while the others read theirs."""
    length, prompt = 2048, 1024
    planned, dice = server.cache_tokens // length, random.Random(6)
    loaded, budget = server.resident_mb(), o.memory
    # Token ids, no two prompts alike, so that nothing is shared.
    bodies = [{"prompt": [dice.randint(100, 10_000) for _ in range(prompt)], "max_tokens": length - prompt, "ignore_eos": True, "temperature": 0} for _ in range(planned)]
    tasks = [asyncio.create_task(ask(server.port, body)) for body in bodies]
    running, pages, peak = 0, 0, 0
    while not all(task.done() for task in tasks):
        m = await server.metrics()
        running, pages = max(running, int(m["awq_sequences_running"])), max(pages, int(m["awq_kv_pages_used"] + m["awq_kv_pages_kept"]))
        peak = max(peak, server.resident_mb())
        await asyncio.sleep(0.2)
    m = await server.metrics()
    answered, preemptions = sum(task.result()[0] == 200 for task in tasks), int(m["awq_preemptions_total"])
    # A page is resident once it was used, and those of finished sequences, which are kept, are used again last: in the end every
    # sequence has had pages of its own, and `pages` counts them.
    each = (peak - loaded) * (length / 16) / pages
    measured = planned + (budget - peak) / each - (server.cache_tokens / length - planned)
    ok = answered == running == planned and preemptions == 0 and peak <= budget and pages >= 0.95 * planned * length / 16 and measured <= 1.05 * planned
    return ok, {"planned": planned, "memory_mib": budget, "loaded_mib": round(loaded, 1), "peak_mib": round(peak, 1), "pages": pages, "mib_each": round(each, 1),
                "measured": round(measured, 2), "running": running, "preemptions": preemptions}


PARTS = {"identical": (identical, ["--kv-memory", "16MB", "--max-sequences", "24"]),
         "overload": (overload, ["--kv-memory", "256MB", "--max-sequences", "32", "--max-waiting", "32"]),
         "leaving": (leaving, ["--kv-memory", "256MB"]),
         "stopping": (stopping, ["--kv-memory", "512MB", "--max-sequences", "64", "--drain-timeout", "100"]),
         "idle": (idle, ["--kv-memory", "64MB"]),
         "slow": (slow, ["--kv-memory", "64MB"]),
         "memory": (memory, ["--max-sequences", "256"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("awq")
    parser.add_argument("model")
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--leavers", type=int, default=10000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--answer", type=int, default=160, metavar="TOKENS")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hold", type=float, default=120)
    parser.add_argument("--alone", type=float, default=60)
    o = parser.parse_args()
    if unknown := set(o.parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(unknown)}: expected some of {', '.join(PARTS)}")
    failed = 0
    for name in o.parts or PARTS:
        run, options = PARTS[name]
        server = Server(o.awq, o.model, *options, *(["--memory", f"{o.memory}MiB"] if name == "memory" else []))
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
