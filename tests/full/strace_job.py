"""A tiny job and its system calls under strace, for the tests that kill it or make a call of it fail."""
import pathlib, re, subprocess, sys, tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import tiny

CALLS = ["openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "ftruncate", "fallocate", "mkdir",
         "mkdirat", "unlink", "unlinkat", "rmdir", "link", "symlink"]
MEMORY = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None  # fsync costs nothing there


class Job:
    """quantize of a model of `blocks` tiny blocks; every place it runs in has an output of the same name."""

    def __init__(self, awq, folder, blocks):
        self.awq, self.folder = str(awq), pathlib.Path(folder)
        self.model = tiny.write_model(self.folder / "tiny", tiny.llama_config(num_hidden_layers=blocks))
        self.calib = self.folder / "calib.txt"
        self.calib.write_text(tiny.long_text())
        place = self.place()
        done = self.run(place)
        assert done.returncode == 0, done.stderr
        self.expected = tiny.digests(place / "out")

    def place(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.folder))

    def command(self, place, *more):
        return [self.awq, "quantize", str(self.model), "-o", str(place / "out"), "--calib", str(self.calib), "--samples", "4", "--seq-len",
                "64", "--no-check", "--threads", "1", "--quiet", *more]

    def run(self, place, *more):
        return subprocess.run(self.command(place, *more), capture_output=True, text=True, timeout=120)

    def strace(self, place, options, *more):
        return subprocess.run(["strace", "-f", "-qqq", "-o", "/dev/null", *options, *self.command(place, *more)], capture_output=True,
                              text=True, timeout=120)

    def calls(self, *more, prepare=lambda place: None, names=CALLS):
        """Every call of the names in order: (main thread or not, name, number in its thread, arguments, path it is about)."""
        place = self.place()
        prepare(place)
        log = self.folder / "strace.log"
        done = self.strace(place, ["-y", "-s", "0", "-o", str(log), "-e", "trace=" + ",".join(names)], *more)
        assert done.returncode == 0, done.stderr
        main, counts, found = None, {}, []
        for line in log.read_text().splitlines():
            match = re.match(r"(\d+) +(\w+)\((.*)", line)
            if not match:
                continue
            thread, name, arguments = match.groups()
            main = main or thread
            counts[thread, name] = counts.get((thread, name), 0) + 1
            path = re.match(r"\d+<([^>]*)>", arguments)
            found.append((thread == main, name, counts[thread, name], arguments, path.group(1) if path else ""))
        return place, found


def changes_files(call):
    """Whether a call can change the file system: not an open for reading, not output to a terminal or pipe."""
    _, name, _, arguments, _ = call
    if name == "openat":
        return "O_CREAT" in arguments
    return name != "write" or not re.match(r"[12]<", arguments)
