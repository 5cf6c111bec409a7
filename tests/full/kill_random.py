#!/usr/bin/env python3
"""kill -9 at random times of a real model's job, kills while it resumes included: the same bytes every time.

    kill_random.py PATH_TO_AWQ MODEL [--kills 40] [--samples 4] [--quality fast] [--span 0.15]

Each start is killed after a random time, uniform between nothing and `span` of a whole run, so that the kills spread over
the whole job and most of them hit a run that resumes; when a job ends before its turn, its bytes are compared and the next
one begins, until the number of kills is reached and the last job has ended.
"""
import argparse, os, pathlib, random, shutil, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from tiny import AWQ, digests


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--samples", default="4")
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--span", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        def start(place):
            place.mkdir(exist_ok=True)
            command = [AWQ, "quantize", options.model, "-o", str(place / "out"), "--samples", options.samples, "--quality",
                       options.quality, "--no-check", "--quiet"]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

        folder = pathlib.Path(folder)
        began = time.monotonic()
        whole = start(folder / "whole")
        assert whole.wait() == 0, whole.stderr.read()
        seconds = time.monotonic() - began
        expected = digests(folder / "whole" / "out")
        print(f"one whole run: {seconds:.1f} s", flush=True)

        place = folder / "killed"
        kills = jobs = wrong = here = 0
        while kills < options.kills or here > 0:
            job = start(place)
            try:
                words = job.communicate(timeout=rng.uniform(0, options.span * seconds) if kills < options.kills else None)[1]
            except subprocess.TimeoutExpired:
                job.kill()
                job.communicate()
                kills += 1
                here += 1
                continue
            jobs += 1
            same = job.returncode == 0 and digests(place / "out") == expected and os.listdir(place) == ["out"]
            wrong += not same
            print(f"job {jobs}: killed {here} times, {'the same bytes' if same else 'FAILED ' + words}", flush=True)
            here = 0
            shutil.rmtree(place)
        print(f"{kills} kills in {jobs} jobs, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
