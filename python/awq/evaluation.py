"""Perplexity, the distance to a reference, and methods compared."""
from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

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


def compare(models: Union[str, os.PathLike, Iterable[Union[str, os.PathLike, Model]]], data: Any = "builtin", *, reference: Any = None,
            methods: Optional[Sequence[str]] = None, protocol: str = "raw2048", limit: Optional[int] = None, bits: int = 4,
            group_size: Union[int, str] = "auto", calib_data: Any = "builtin", tokenizer: Any = None, text_column: str = "text",
            split: Optional[str] = "train", samples: Union[int, str] = 128, seq_len: int = 512, speed: bool = False, prompts: bool = False,
            stats: Union[str, os.PathLike, None] = None, save_stats: Union[str, os.PathLike, None] = None,
            progress: Progress = None) -> Union[Comparison, Dict[str, Any]]:
    """Models against one reference, or methods on one model.

    A list of models: evaluate() for each against `reference` (default: the first), one at a time in memory beside it; returns rows.

    One path: quantizes it in memory by every method and measures the results side by side; returns what `awq compare --json`
    prints. methods: METHOD[:fast|best|sym|bN|gN]..., default all. data: as for evaluate(), or a list of "builtin" and files to measure
    on each. bits, group_size, calib_data, tokenizer, text_column, split, samples, seq_len: as for quantize(). speed, prompts: also
    time the models and let them answer ten prompts. stats, save_stats: a file of the calibration's statistics to read or to keep."""
    if isinstance(models, (str, os.PathLike)):
        if reference is not None:
            raise BadArgumentError("compare: methods are compared with the model itself: leave out reference")
        return _compare_methods(os.fspath(models), data, methods, protocol, limit, bits, group_size, calib_data, tokenizer, text_column, split,
                                samples, seq_len, speed, prompts, stats, save_stats, progress)
    if methods is not None:
        raise BadArgumentError("compare: methods are compared on one model: expected its path, got a list")
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


def _compare_methods(model: str, data: Any, methods: Optional[Sequence[str]], protocol: str, limit: Optional[int], bits: int,
                     group_size: Union[int, str], calib_data: Any, tokenizer: Any, text_column: str, split: Optional[str],
                     samples: Union[int, str], seq_len: int, speed: bool, prompts: bool, stats: Any, save_stats: Any,
                     progress: Progress) -> Dict[str, Any]:
    from .calibration import collect
    from .quantization import calib_name, most_samples

    several = isinstance(data, (list, tuple)) and data and all(isinstance(d, os.PathLike) or d == "builtin" or
                                                               (isinstance(d, str) and os.path.isfile(d)) for d in data)
    texts = [_text_of(d) for d in data] if several else [_text_of(data)]
    if stats is not None and save_stats is not None:
        raise BadArgumentError("compare: expected stats or save_stats, got both")
    options: Dict[str, Any] = {
        "model": model, "methods": list(methods or []), "bits": int(bits), "group_size": str(group_size), "calib": calib_name(calib_data),
        "samples": str(samples), "seq_len": int(seq_len), "protocol": protocol, "limit": int(limit or 0), "speed": bool(speed),
        "prompts": bool(prompts), "stats": os.fspath(stats) if stats is not None else "",
        "save_stats": os.fspath(save_stats) if save_stats is not None else "",
    }
    calibration = collect(calib_data, tokenizer, model, split, text_column, most_samples(samples), int(seq_len))
    with reporter(progress) as report:
        return json.loads(_core.compare(options, calibration.name, calibration.sha256, calibration.ids, texts, report))
