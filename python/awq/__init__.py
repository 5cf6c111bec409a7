"""awq: Activation-aware Weight Quantization without torch.

>>> import awq
>>> result = awq.quantize("./Qwen2.5-1.5B-Instruct", "qwen-awq")
>>> model = awq.load("qwen-awq")
>>> model.generate("The sea is", max_new_tokens=20)

AutoAWQ's scripts run unchanged: `from awq import AutoAWQForCausalLM`.
"""
from __future__ import annotations

import os as _os
from typing import TYPE_CHECKING

_here = _os.path.dirname(__file__)
if _os.path.exists(_os.path.join(_here, "models", "base.py")) or _os.path.exists(_os.path.join(_here, "quantize", "quantizer.py")):
    raise ImportError(f"AutoAWQ's files lie in {_here} beside awq-cpp's: run 'pip uninstall autoawq awq-cpp', then install one of the two")

from . import _core, errors  # noqa: E402
from .errors import AwqError  # noqa: E402

__version__: str = _core.version

if TYPE_CHECKING:
    from .automodel import AutoAWQForCausalLM
    from .evaluation import compare, evaluate
    from .model import Model, load
    from .quantization import QuantizeResult, quantize
    from .tokenizer import AutoTokenizer

_homes = {
    "AutoAWQForCausalLM": "automodel",
    "AutoTokenizer": "tokenizer",
    "Model": "model",
    "load": "model",
    "QuantizeResult": "quantization",
    "quantize": "quantization",
    "compare": "evaluation",
    "evaluate": "evaluation",
}

__all__ = ["AutoAWQForCausalLM", "AutoTokenizer", "AwqError", "Model", "QuantizeResult", "compare", "errors", "evaluate", "load",
           "quantize", "set_threads", "threads"]


def set_threads(n: int) -> None:
    """Threads of every computation; the default is the cores this process may use."""
    _core.set_threads(n)


def threads() -> int:
    """Threads computations use now."""
    return _core.threads()


def __getattr__(name: str):
    if name not in _homes:
        raise AttributeError(f"module 'awq' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module("." + _homes[name], __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(_homes))
