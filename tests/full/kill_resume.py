#!/usr/bin/env python3
"""kill -9 before every system call with which a job changes files; then the same command must end with the same bytes.

    kill_resume.py PATH_TO_AWQ [--blocks 14] [--every 1] [--workers 2]

Needs strace. Three rounds: a new output killed once; killed once more while it resumes; an old output being replaced.
Prints one line per round, and every point that failed; exit status 1 if any did.
"""
import argparse, concurrent.futures, os, random, shutil, sys, tempfile

from strace_job import Job, MEMORY, changes_files
from tiny import AWQ, digests


def injections(calls, place):
    """strace's options for dying before each call. Threads count their calls themselves, so those of other threads than the
    first are found by the file they are about, once per file."""
    seen = set()
    for call in calls:
        main, name, number, arguments, path = call
        if not changes_files(call):
            continue
        if name == "fsync":
            if path in seen:
                continue
            seen.add(path)
            yield name, ["-e", "trace=fsync", "-P", path.replace(str(place), "PLACE"), "-e", "inject=fsync:signal=KILL:when=1"]
        elif main:
            yield name, ["-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}"]


def at(options, place):
    return [option.replace("PLACE", str(place)) for option in options]


class Round:
    def __init__(self, job, title, more=(), prepare=lambda place: None, allowed=()):
        self.job, self.title, self.more, self.prepare, self.allowed = job, title, more, prepare, allowed
        place, calls = job.calls(*more, prepare=prepare)
        self.points = list(injections(calls, place))
        shutil.rmtree(place)

    def point(self, options, second=None):
        """None when the process was not killed; else what went wrong, or ""."""
        job, place = self.job, self.job.place()
        try:
            self.prepare(place)
            done = job.strace(place, at(options, place), *self.more)
            if done.returncode == 0:
                return None
            if done.returncode not in (-9, 137):
                return f"ended with {done.returncode}: {done.stderr.strip()}"
            out = place / "out"
            if out.exists() and digests(out) not in (job.expected, *self.allowed):
                return "a broken output stands under its name"
            if second:
                job.strace(place, at(second, place), *self.more)
                if out.exists() and digests(out) not in (job.expected, *self.allowed):
                    return "after the second kill a broken output stands under its name"
            done = job.run(place, *self.more)
            # The last trace of a finished job may be gone already: then its output is simply there.
            finished = done.returncode == 1 and "already holds a finished output" in done.stderr
            if done.returncode != 0 and not finished:
                return f"does not continue: {done.stderr.strip()}"
            if digests(out) != job.expected:
                return "other bytes"
            return "" if os.listdir(place) == ["out"] else f"left behind: {os.listdir(place)}"
        finally:
            shutil.rmtree(place)

    def run(self, points, workers):
        failed, killed, by_call = 0, 0, {}
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for (name, options, second), wrong in zip(points, pool.map(lambda p: self.point(p[1], p[2]), points)):
                if wrong is None:
                    continue
                killed += 1
                by_call[name] = by_call.get(name, 0) + 1
                if wrong:
                    failed += 1
                    print(f"FAILED {self.title}: {' '.join(options)} {' '.join(second or [])}: {wrong}", flush=True)
        calls = ", ".join(f"{n} {name}" for name, n in sorted(by_call.items()))
        print(f"{self.title}: {killed} points killed ({calls}), {failed} failed", flush=True)
        return failed, killed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=14)
    parser.add_argument("--every", type=int, default=1, help="take every n-th point")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rng = random.Random(1)
    failed = killed = 0
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        job = Job(AWQ, folder, options.blocks)
        new = Round(job, "new output")
        old = job.folder / "old"
        assert job.run(old, "--sym").returncode == 0
        replacing = Round(job, "replaced output", ["--force"], lambda place: shutil.copytree(old / "out", place / "out"),
                          [digests(old / "out")])
        rounds = [
            (new, [(name, o, None) for name, o in new.points[::options.every]]),
            (new, [(name, o, rng.choice(new.points)[1]) for name, o in new.points[::5 * options.every]]),
            (replacing, [(name, o, None) for name, o in replacing.points if name != "pwrite64"][::2 * options.every]),
        ]
        for work, points in rounds:
            f, k = work.run(points, options.workers)
            failed, killed = failed + f, killed + k
    print(f"{killed} points, {failed} failed")
    return 1 if failed or not killed else 0


if __name__ == "__main__":
    sys.exit(main())
