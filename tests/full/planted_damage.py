#!/usr/bin/env python3
"""awq diagnose against planted damage: one linear of a good 4-bit checkpoint replaced by its 2-bit version, at random places.

    planted_damage.py PATH_TO_AWQ MODEL [--placements 20] [--seed 1] [--group-size 64] [--work DIR]

Each time the damaged linear must come first by its error relative to its own 4-bit form. Where measuring every part says that the
damaged one costs most KL, diagnose, which measures only a few, must say so too. What undamaged parts cost does not depend on the
damage, so it is measured once. Exit status 1 at the first miss. Only the standard library.
"""
import argparse, json, pathlib, random, shutil, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from tiny import AWQ, read_safetensors, write_safetensors

QUICK = ["--limit", "1", "--exact", "4", "--samples", "8"]
# Nibble by nibble to the nearest of the codes 0, 5, 10, 15: what two bits can say on the same range.
TWO_BITS = bytes(5 * (((b & 15) * 3 + 7) // 15) | 5 * (((b >> 4) * 3 + 7) // 15) << 4 for b in range(256))


def awq(*arguments):
    done = subprocess.run([AWQ, *map(str, arguments), "--json", "--progress", "none"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--placements", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--group-size", default="64")
    parser.add_argument("--work", type=pathlib.Path)
    options = parser.parse_args()
    work = options.work or pathlib.Path(tempfile.mkdtemp())
    good = work / "good"
    if not good.exists():
        awq("quantize", options.model, "-o", good, "--format", "compressed-tensors", "--group-size", options.group_size, "--no-check")
    everything = work / "everything.json"
    if not everything.exists():
        everything.write_text(json.dumps(awq("diagnose", options.model, "--quantized", good, "--limit", "1", "--exact", "all", "--samples", "8")))
    costs = {tuple(u["modules"]): u["kl"] for u in json.loads(everything.read_text())["units"]}
    tensors = read_safetensors(good / "model.safetensors")
    linears = sorted(name.removesuffix(".weight_packed") for name in tensors if name.endswith(".weight_packed"))
    rng = random.Random(options.seed)
    first_by_error = comparable = first_by_kl = 0
    longest = 0
    for number, module in enumerate(rng.sample(linears, options.placements), 1):
        damaged = work / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(good, damaged)
        kind, shape, data = tensors[module + ".weight_packed"]
        write_safetensors(damaged / "model.safetensors", {**tensors, module + ".weight_packed": (kind, shape, data.translate(TWO_BITS))})
        start = time.monotonic()
        found = awq("diagnose", options.model, "--quantized", damaged, *QUICK)
        seconds = time.monotonic() - start
        longest = max(longest, seconds)
        linear = found["linears"][0]
        unit = next(u for u in found["units"] if module in u["modules"])
        others = max(kl for modules, kl in costs.items() if module not in modules)
        first_by_error += linear["module"] == module
        agrees = unit["kl"] > others
        comparable += agrees
        first_by_kl += agrees and found["units"][0] is unit
        print(f"{number:2} {module}: by error {linear['module'] == module} ({linear['times_expected']:.1f} times, next "
              f"{found['linears'][1]['times_expected']:.1f}), KL {unit['kl']:.4f} against {others:.4f}, first by KL {found['units'][0] is unit}, "
              f"{seconds:.0f} s", flush=True)
    print(f"first by error {first_by_error} of {options.placements}; first by KL {first_by_kl} of the {comparable} where every part measured says so; "
          f"at most {longest:.0f} s")
    sys.exit(first_by_error != options.placements or first_by_kl != comparable)


if __name__ == "__main__":
    main()
