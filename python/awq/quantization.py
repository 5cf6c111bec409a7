"""Quantization: what `awq quantize` does, and the same bytes for the same options."""
from __future__ import annotations

import os
import pathlib
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from . import _core
from .calibration import Calibration, collect
from .errors import AwqError, BadArgumentError
from .progress import Progress, reporter


class QuantizeResult:
    """A finished output directory and what was measured on the way.

    Attributes: output, scheme ("w4g64z"), group_size, format, dtype, bits_per_weight, bytes, source_bytes, seconds,
    peak_rss_bytes, worst (module), check ({"kl", "top1_agreement", "perplexity", ...} or None), layers (one dict per linear
    with module, relative_error, chosen)."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._values: Dict[str, Any] = core.summary()

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to_dict(self) -> Dict[str, Any]:
        return dict(self._values)

    def __repr__(self) -> str:
        check = self._values["check"]
        quality = f", KL {check['kl']:.4f}" if check else ""
        return f"QuantizeResult({self.output!r}, {self.scheme}, {self.bits_per_weight:.2f} bits per weight{quality})"

    def _repr_html_(self) -> str:
        from .report import grid, table

        v = self._values
        rows = [("output", v["output"]), ("scheme", v["scheme"]), ("bits per weight", f"{v['bits_per_weight']:.2f}"),
                ("size", _core.human_bytes(v["bytes"])), ("was", _core.human_bytes(v["source_bytes"])),
                ("seconds", f"{v['seconds']:.1f}")]
        if v["check"]:
            c = v["check"]
            rows += [("KL to the source", f"{c['kl']:.4f} ± {c['kl_ci95']:.4f}"), ("same next token", f"{100 * c['top1_agreement']:.1f} %"),
                     ("perplexity", f"{c['perplexity_source']:.2f} → {c['perplexity']:.2f}")]
        worst = sorted(v["layers"], key=lambda r: -(r["relative_error"] or 0))[:8]
        return table("Quantized", rows) + grid(worst, ["module", "relative_error", "chosen"])


def default_output(model: str) -> str:
    """./NAME-awq, as the command line names it."""
    name = pathlib.Path(model.rstrip("/")).name
    return (name[: -len(".gguf")] if name.endswith(".gguf") else name) + "-awq"


def run(options: Dict[str, Any], calibration: Calibration, progress: Progress,
        callback: Optional[Callable[[Dict[str, Any]], None]] = None) -> QuantizeResult:
    """options: the command line's, by name. callback: called with each progress event beside the bar."""
    with reporter(progress) as report:
        both: Optional[Callable[[Dict[str, Any]], None]] = report
        if callback is not None:
            def both(event: Dict[str, Any]) -> None:
                if report is not None:
                    report(event)
                callback(event)
        return QuantizeResult(_core.quantize(options, calibration.name, calibration.sha256, calibration.ids, both))


def quantize(model: Union[str, os.PathLike], output: Union[str, os.PathLike, None] = None, *, method: str = "awq", quality: str = "best",
             iterations: int = 200, bits: int = 4, group_size: Union[int, str] = "auto", symmetric: bool = False, format: str = "auto", dtype: str = "auto",
             calib_data: Any = "builtin", tokenizer: Any = None, text_column: str = "text", split: Optional[str] = "train",
             samples: Union[int, str] = 128, seq_len: int = 512, skip: Sequence[str] = (), check: bool = True, force: bool = False,
             progress: Progress = None, callback: Optional[Callable[[Dict[str, Any]], None]] = None) -> QuantizeResult:
    """Quantizes a checkpoint into the directory `output` (default ./NAME-awq) and measures the result against the source.

    model: a directory, a .gguf file, or org/name in the Hugging Face cache. bits: 2 to 8 (4 is written in AutoAWQ's layout,
    others as plain 16-bit tensors). quality: "fast", "best", or "max", which tunes each block for `iterations` steps. group_size:
    weights that share a scale, "auto" or -1 for a whole row. samples x seq_len: calibration tokens; samples "auto": as many as
    change anything, at most 256. skip: parts of module names to leave alone. callback: called with {"stage", "done", "total",
    "unit"} after each block; an exception in it stops the work and comes out here.
    Equal options give the bytes that `awq quantize` gives. Ctrl-C raises KeyboardInterrupt within a second; finished blocks
    are kept beside the output and the same call goes on from them.
    Raises BadArgumentError (a ValueError), NotFoundError, ExistsError (without force), UnsupportedError, NoSpaceError."""
    path = os.fspath(model)
    options: Dict[str, Any] = {
        "model": path, "output": os.fspath(output) if output is not None else default_output(path), "method": method, "quality": quality,
        "iterations": int(iterations), "bits": int(bits), "group_size": str(group_size), "symmetric": bool(symmetric), "format": format, "dtype": dtype,
        "calib": calib_name(calib_data), "samples": str(samples), "seq_len": int(seq_len), "skip": list(skip), "check": bool(check),
        "force": bool(force),
    }
    _core.plan(options)  # what is wrong with the options comes before the text is read
    calibration = Calibration("", "", [])
    if method != "rtn":
        calibration = collect(calib_data, tokenizer, path, split, text_column, most_samples(samples), int(seq_len))
    return run(options, calibration, progress, callback)


def most_samples(samples: Union[int, str]) -> int:
    """How many calibration sequences are used at most."""
    if isinstance(samples, str) and samples != "auto":
        raise BadArgumentError(f"samples: expected a number or 'auto', got '{samples}'")
    count = _core.most_samples if samples == "auto" else int(samples)
    if count < 1:
        raise BadArgumentError(f"samples: expected at least 1, got {count}")
    return count


def calib_name(calib_data: Any) -> str:
    """What --calib would be."""
    if calib_data is None or (isinstance(calib_data, str) and calib_data == "pileval"):
        return "builtin"
    if isinstance(calib_data, (str, os.PathLike)):
        return os.fspath(calib_data)
    items = calib_data if isinstance(calib_data, (list, tuple)) else []
    ids = bool(items) and not isinstance(items[0], (str, dict))
    return "calib_data.ids" if ids else "calib_data.jsonl"


__all__: List[str] = ["AwqError", "QuantizeResult", "quantize"]
