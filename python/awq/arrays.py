"""Token ids in the three forms people hold them in: lists, numpy arrays, torch tensors."""
from __future__ import annotations

import sys
from typing import Any, List, Sequence


def kind_of(value: Any) -> str:
    """'torch', 'numpy' or 'list'. Never imports torch: whoever hands over a tensor has done so."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch"
    if type(value).__module__.split(".")[0] == "numpy":
        return "numpy"
    return "list"


def rows_of(value: Any) -> List[List[int]]:
    """[batch][tokens] from a flat or nested list, array or tensor."""
    rows = value.tolist() if kind_of(value) != "list" else list(value)
    if not rows or isinstance(rows[0], (int,)) or not hasattr(rows[0], "__iter__"):
        rows = [rows]
    return [[int(i) for i in row] for row in rows]


def like(rows: Sequence[Sequence[int]], kind: str, device: Any = None) -> Any:
    """Rows of equal length as a list of lists, an int64 array or a tensor."""
    if kind == "torch":
        import torch

        return torch.tensor([list(r) for r in rows], dtype=torch.long, device=device)
    if kind == "numpy":
        import numpy

        return numpy.asarray([list(r) for r in rows], dtype=numpy.int64)
    return [list(r) for r in rows]


def floats_like(array: Any, kind: str) -> Any:
    """A float array as the caller's kind: torch tensor, else numpy (lists of a vocabulary's size help nobody)."""
    if kind == "torch":
        import torch

        return torch.from_numpy(array)
    return array
