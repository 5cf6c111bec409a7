"""Perplexity, and the distance to a reference."""
from __future__ import annotations

import os
from typing import Any, Dict, Iterable, List, Optional, Union

from . import _core
from .errors import BadArgumentError
from .model import Model, load
from .progress import Progress, reporter


def _model_of(model: Any) -> Model:
    if isinstance(model, (str, os.PathLike)):
        return load(model, progress=False)
    return model.model if not isinstance(model, Model) else model


def _text_of(data: Any) -> Any:
    from .calibration import json_lines

    if isinstance(data, (str, os.PathLike)):
        return _core.load_text(os.fspath(data), True)
    texts = list(data)
    if not all(isinstance(t, str) for t in texts):
        raise BadArgumentError("data: expected 'builtin', a file, or a list of strings")
    return _core.parse_json_lines(json_lines(texts), "data")


def evaluate(model: Any, data: Any = "builtin", *, reference: Any = None, protocol: str = "raw2048", limit: Optional[int] = None,
             progress: Progress = None) -> Dict[str, Any]:
    """Perplexity of a model on a text, and with `reference` the KL divergence to it, in nats per token.

    model, reference: a path, org/name, or a loaded model. data: "builtin" (held-out text), a .txt or .jsonl file, or a list
    of strings. protocol: "raw2048", "gptq2048" (the papers'), "llamacpp512". limit: the first N windows.
    Returns windows, tokens, nll, perplexity with 95 % half widths, and with a reference kl, top1_agreement,
    reference_perplexity. Raises BadArgumentError when the text is shorter than one window."""
    ours = _model_of(model)
    other = _model_of(reference) if reference is not None else None
    text = _text_of(data)
    with reporter(progress) as report:
        out = _core.evaluate(ours._core, other._core if other is not None else None, ours.tokenizer._core, text, protocol, limit or 0, report)
    return {"model": ours.path, "data": text.name, "protocol": protocol, **out}


class Comparison(List[Dict[str, Any]]):
    """Rows as dicts: pandas.DataFrame(comparison) takes it as it is."""

    def _repr_html_(self) -> str:
        from .report import grid

        return grid(self, ["model", "bytes", "perplexity", "kl", "kl_ci95", "top1_agreement"])


def compare(models: Iterable[Union[str, os.PathLike, Model]], data: Any = "builtin", *, reference: Any = None, protocol: str = "raw2048",
            limit: Optional[int] = None, progress: Progress = None) -> Comparison:
    """evaluate() for several models against one reference (default: the first), one at a time in memory beside it."""
    listed = list(models)
    if not listed:
        raise BadArgumentError("compare: expected at least one model")
    base = _model_of(reference if reference is not None else listed[0])
    rows = Comparison()
    for i, item in enumerate(listed):
        one = base if reference is None and i == 0 else _model_of(item)
        row = evaluate(one, data, reference=base, protocol=protocol, limit=limit, progress=progress)
        rows.append({**row, "bytes": one.bytes})
    return rows
