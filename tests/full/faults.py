#!/usr/bin/env python3
"""Every call with which a tiny job opens, writes, syncs or renames a file fails once and for ever; disks of 50 sizes; writes
cut short; every allocation fails. The job must end with status 1 and one line of explanation, or do its work; nothing but a
whole output may ever stand under its name; and the same command must succeed once the fault is gone.

    faults.py PATH_TO_AWQ [--blocks 2] [--every 1] [--allocations 5000] [--workers 2] [--only calls|replace|disk|short|memory]

Needs strace, a C compiler, and for the disks the right to mount (else they are left out, and it says so).
"""
import argparse, concurrent.futures, os, pathlib, re, shutil, subprocess, sys, tempfile

from strace_job import Job, MEMORY, changes_files
from tiny import AWQ, digests

ERRORS = ["ENOSPC", "EIO", "EINTR"]


def verdict(job, place, done, allowed=()):
    """What is wrong about a run that met a fault, or ""."""
    out = place / "out"
    whole = not out.exists() or digests(out) in (job.expected, *allowed)
    if not whole:
        return "a broken output stands under its name"
    if done.returncode == 0:
        return "" if digests(out) == job.expected else "status 0 without the output"
    lines = [line for line in done.stderr.splitlines() if not line.startswith("awq: warning: ")]
    if done.returncode != 1:
        return f"status {done.returncode}: {done.stderr.strip()[-300:]}"
    if len(lines) != 1 or not lines[0].startswith("awq: error: "):
        return f"not one line of explanation: {done.stderr.strip()[-300:]}"
    if "please report" in lines[0] or "internal" in lines[0]:
        return f"not explained: {lines[0]}"
    if out.exists() and digests(out) not in allowed:
        return f"status 1 with a new output in place: {lines[0]}"
    return ""


def recovers(job, place, *more):
    if (place / "out").exists() and digests(place / "out") == job.expected:
        return ""
    done = job.run(place, *more)
    if done.returncode != 0:
        return f"does not recover: {done.stderr.strip()[-300:]}"
    if digests(place / "out") != job.expected:
        return "recovers with other bytes"
    return "" if os.listdir(place) == ["out"] else f"left behind: {os.listdir(place)}"


def names_a_path(done, place):
    return done.returncode == 0 or "/" in done.stderr.splitlines()[-1]


class Tally:
    def __init__(self, title):
        self.title, self.runs, self.refused, self.failed, self.kinds = title, 0, 0, 0, {}

    def add(self, point, kind, done, wrong):
        self.runs += 1
        self.refused += done.returncode != 0
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if wrong:
            self.failed += 1
            print(f"FAILED {self.title} {point}: {wrong}", flush=True)

    def show(self):
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.kinds.items()))
        print(f"{self.title}: {self.runs} runs ({kinds}), {self.refused} refused, {self.runs - self.refused} carried out, "
              f"{self.failed} failed", flush=True)


def system_calls(job, options, pool, title, more=(), prepare=lambda place: None, old=(), keep=lambda call: True):
    place, calls = job.calls(*more, prepare=prepare)
    shutil.rmtree(place)
    # Loading the program and its libraries is not ours.
    first = next(i for i, call in enumerate(calls) if str(job.model) in call[3])
    points, seen = [], set()
    for main, name, number, arguments, path in calls[first:]:
        call = (main, name, number, arguments, path)
        if not keep(call) or (name == "write" and not changes_files(call)):
            continue
        if not main or name == "fsync":  # threads count for themselves: by file
            if name != "fsync" or path in seen:
                continue
            seen.add(path)
            points.append((name, 1, path.replace(str(place), "PLACE")))
        else:
            points.append((name, number, ""))

    def run(point):
        name, number, path, error, ever = point
        where = job.place()
        try:
            prepare(where)
            injected = ["-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={number}{'+' if ever else ''}"]
            if path and not ever:
                injected += ["-P", path.replace("PLACE", str(where))]
            done = job.strace(where, injected, *more)
            wrong = verdict(job, where, done, old) or ("" if names_a_path(done, where) else f"no path: {done.stderr}")
            return done, wrong or recovers(job, where, *more)
        finally:
            shutil.rmtree(where)

    tally = Tally(title)
    work = [(*point, error, ever) for point in points[::options.every] for error in ERRORS for ever in (False, True)]
    for point, (done, wrong) in zip(work, pool.map(run, work)):
        tally.add(point, point[0], done, wrong)
    tally.show()
    return tally


def disks(job, options):
    tally = Tally("disk sizes")
    needed = sum(f.stat().st_size for f in job.folder.rglob("out/*")) or 200_000
    for level in range(1, 51):
        kib = 4 * level * max(1, round(needed * 4 / 50 / 4096))
        place, mount = job.place(), job.place()
        script = (f"mount -t tmpfs -o size={kib}k none {mount} || exit 77; " + " ".join(job.command(mount)) + "; status=$?; "
                  f"ls -A {mount} > {place}/left; [ ! -d {mount}/out ] || cp -r {mount}/out {place}/; exit $status")
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=120)
        if done.returncode in (77, 1) and "mount:" in done.stderr + done.stdout or "unshare:" in done.stderr:
            print("disk sizes: left out, mounting is not allowed here")
            return tally
        wrong = verdict(job, place, done)
        if not wrong and done.returncode == 1 and not re.search(r"needs|too little disk|no space", done.stderr, re.I):
            wrong = f"does not say what was needed: {done.stderr}"
        tally.add(f"{kib} KiB", "sizes", done, wrong)
        shutil.rmtree(place)
        shutil.rmtree(mount)
    tally.show()
    return tally


def preload(job, library, where, variables, *more):
    environment = {**os.environ, "LD_PRELOAD": str(library), **variables}
    return subprocess.run(job.command(where, *more), capture_output=True, text=True, timeout=120, env=environment, errors="replace")


def short_writes(job, library):
    tally = Tally("short writes")
    for bytes_ in (1, 7, 100, 4095, 65536):
        where = job.place()
        done = preload(job, library, where, {"FAULT_SHORT": str(bytes_)})
        wrong = verdict(job, where, done) or ("" if done.returncode == 0 else done.stderr)
        tally.add(f"at most {bytes_} bytes", "limits", done, wrong)
        shutil.rmtree(where)
    tally.show()
    return tally


def allocations(job, options, pool, library):
    def count(command):
        number = job.folder / "count"
        subprocess.run(command, capture_output=True, env={**os.environ, "LD_PRELOAD": str(library), "FAULT_COUNT": str(number)})
        return int(number.read_text())

    where = job.place()
    # What it takes until the model is looked for belongs to the libraries and to the command line.
    first = count([job.awq, "quantize", str(job.folder / "missing"), "--quiet"])
    total = count(job.command(where))
    shutil.rmtree(where)
    step = max(1, 2 * (total - first) // options.allocations)
    print(f"allocations: {total - first} while loading and quantizing, every {step}. fails, once and for ever", flush=True)

    def run(point):
        number, ever = point
        place = job.place()
        try:
            done = preload(job, library, place, {"FAULT_ALLOCATION": f"{number}{'+' if ever else ''}"})
            return done, verdict(job, place, done) or recovers(job, place)
        finally:
            shutil.rmtree(place)

    tally = Tally("allocations")
    work = [(n, ever) for n in range(first + 1, total + 1, step) for ever in (False, True)]
    for point, (done, wrong) in zip(work, pool.map(run, work)):
        tally.add(point, "for ever" if point[1] else "once", done, wrong)
    tally.show()
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="take every n-th call")
    parser.add_argument("--allocations", type=int, default=5000, help="at most so many runs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="calls,replace,disk,short,memory")
    options = parser.parse_args()
    tallies = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        job = Job(AWQ, folder, options.blocks)
        library = job.folder / "fault_shim.so"
        shim = pathlib.Path(__file__).with_name("fault_shim.c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, shim, "-ldl"], check=True)
        only = options.only.split(",")
        if "calls" in only:
            tallies.append(system_calls(job, options, pool, "system calls, new output"))
        if "replace" in only:
            old = job.folder / "old"
            assert job.run(old, "--sym").returncode == 0
            keep = lambda call: call[1] not in ("pwrite64", "openat", "fallocate")
            tallies.append(system_calls(job, options, pool, "system calls, replaced output", ["--force"],
                                        lambda place: shutil.copytree(old / "out", place / "out"), [digests(old / "out")], keep))
        if "disk" in only:
            tallies.append(disks(job, options))
        if "short" in only:
            tallies.append(short_writes(job, library))
        if "memory" in only:
            tallies.append(allocations(job, options, pool, library))
    failed = sum(t.failed for t in tallies)
    print(f"{sum(t.runs for t in tallies)} runs, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
