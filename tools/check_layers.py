#!/usr/bin/env python3
"""Checks that the rooms under src/ know only what docs/design.md lets them know.

Fails on an include from a room outside the table, a source file over 800 lines, and printing or aborting
outside cli/. Usage: check_layers.py [REPOSITORY]
"""
import pathlib, re, sys

BASE = {"base"}
TENSOR = BASE | {"tensor"}
MAY_KNOW = {
    "base": set(), "tensor": BASE, "formats": TENSOR, "weights": TENSOR,
    "comm": BASE, "hub": BASE, "report": BASE, "tokenizer": BASE,
    "kernels": TENSOR | {"weights"},
    "checkpoint": TENSOR | {"formats", "weights", "tokenizer"},
    "model": TENSOR | {"weights", "kernels", "checkpoint", "comm"},
    "quant": TENSOR | {"weights", "kernels", "checkpoint", "model", "comm"},
    "runtime": TENSOR | {"model", "checkpoint", "comm"},
    "text": BASE | {"tokenizer", "runtime"},
    "server": BASE | {"runtime", "text"},
}
MAY_KNOW["eval"] = set(MAY_KNOW) - {"server"} | {"quant", "runtime", "text", "report"}
MAY_KNOW["cli"] = set(MAY_KNOW) | {"eval"}
PRINTS = re.compile(r"\b(std::cout|std::cerr|printf\s*\(|fprintf\s*\(|puts\s*\(|fmt::print|std::abort|abort\s*\(|std::exit|[^_\w]exit\s*\()")


def problems(root):
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        room = path.relative_to(root / "src").parts[0]
        where = path.relative_to(root)
        if room not in MAY_KNOW:
            yield f"{where}: room '{room}' has no line in the table of tools/check_layers.py"
            continue
        lines = path.read_text().splitlines()
        if len(lines) > 800:
            yield f"{where}: {len(lines)} lines, the limit is 800"
        for number, line in enumerate(lines, 1):
            include = re.match(r'\s*#include "(\w+)/', line)
            if include and include.group(1) not in MAY_KNOW[room] | {room}:
                yield f"{where}:{number}: {room}/ may not know {include.group(1)}/"
            if room != "cli" and PRINTS.search(line.split("//")[0]):
                yield f"{where}:{number}: only cli/ prints or ends the process"


found = list(problems(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
print("\n".join(found) if found else "layers: no violation")
sys.exit(bool(found))
