"""Random damage to the files of a checkpoint, undone again: what does `awq verify` not find?"""
import os, pathlib, random, subprocess


def damage(path, rng):
    """Flips one bit or cuts the end off. Returns what was done and a function that undoes it."""
    size = path.stat().st_size
    if size == 0:
        path.write_bytes(b"\0")
        return "one byte more", lambda: path.write_bytes(b"")
    if rng.random() < 0.2:
        left = rng.randrange(size) if rng.random() < 0.5 else max(0, size - rng.randrange(1, 65))
        with open(path, "rb") as file:
            file.seek(left)
            tail = file.read()
        os.truncate(path, left)

        def undo():
            with open(path, "ab") as file:
                file.write(tail)
        return f"cut from {size} to {left} bytes", undo
    # Half of the flips in the first 4 KiB, where the headers are.
    at, bit = rng.randrange(size if rng.random() < 0.5 else min(size, 4096)), rng.randrange(8)

    def flip():
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
    flip()
    return f"bit {bit} of byte {at}", flip


def check_flips(awq, folder, count, seed, progress=lambda done: None):
    """Each damage that verify accepts or meets with anything but its report: a list of descriptions."""
    rng, missed = random.Random(seed), []
    files = sorted(p for p in pathlib.Path(folder).iterdir() if p.is_file())
    for number in range(count):
        path = files[number % len(files)]
        what, undo = damage(path, rng)
        try:
            done = subprocess.run([awq, "verify", str(folder)], capture_output=True, text=True, timeout=300)
        finally:
            undo()
        if done.returncode != 1 or "error " not in done.stdout or done.stderr:
            missed.append(f"{path.name}: {what}: status {done.returncode} {done.stderr[-200:]}")
        progress(number + 1)
    return missed
