"""AutoAWQ's layer classes for packages that import them (peft, transformers). They need torch, which only they load."""
from __future__ import annotations

from typing import Any

_names = {
    "WQLinear_GEMM", "WQLinear_IPEX", "WQLinear_GEMV", "WQLinear_GEMVFast", "WQLinear_Marlin", "WQLinear_Exllama", "WQLinear_ExllamaV2",
}
_post_inits = {"ipex_post_init", "marlin_post_init", "exllama_post_init", "exllamav2_post_init"}

__all__ = sorted(_names | _post_inits)


def __getattr__(name: str) -> Any:
    if name in _names | _post_inits:
        try:
            from . import _layers
        except ImportError as error:
            raise ImportError(f"awq.modules.linear.{name} needs torch: pip install torch ({error})") from None
        return _layers.nothing_to_do if name in _post_inits else getattr(_layers, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
