#!/usr/bin/env python3
"""awq verify against random damage: single bits and lengths, over all files of an output of awq quantize in turn.

    verify_flips.py PATH_TO_AWQ FOLDER [--count 10000] [--seed 1] [--workers 2]

FOLDER is copied for each worker; the original is only read.
"""
import argparse, concurrent.futures, pathlib, shutil, subprocess, sys, tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from flips import check_flips
from tiny import AWQ


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    whole = subprocess.run([AWQ, "verify", str(options.folder)], capture_output=True, text=True)
    if whole.returncode != 0:
        sys.exit(f"{options.folder} must be whole to begin with: {whole.stdout}{whole.stderr}")
    names = [p.name for p in sorted(options.folder.iterdir()) if p.is_file()]
    with tempfile.TemporaryDirectory() as place, concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        def work(worker):
            copy = pathlib.Path(place) / str(worker)
            shutil.copytree(options.folder, copy)
            share = options.count // options.workers + (worker < options.count % options.workers)
            missed = check_flips(AWQ, copy, share, options.seed * 1000 + worker)
            after = subprocess.run([AWQ, "verify", str(copy)], capture_output=True)
            assert after.returncode == 0, "the damage was not undone"
            return missed
        missed = [m for part in pool.map(work, range(options.workers)) for m in part]
    for line in missed:
        print("MISSED", line)
    print(f"{options.count} damages over {len(names)} files ({', '.join(names)}): {options.count - len(missed)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
