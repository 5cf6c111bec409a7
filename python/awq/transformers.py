"""Our checkpoints as transformers models: dequantized where torch is."""
from __future__ import annotations

import json
import os
import pathlib
import tempfile
from typing import Any, Union

from . import _core


def load_dequantized(path: Union[str, os.PathLike], dtype: Any = None, **config_changes: Any) -> Any:
    """The checkpoint as transformers' AutoModelForCausalLM with plain float weights, on the CPU.

    dtype: a torch dtype, default torch.float32. For training, merging and whatever else knows only dense models. Needs
    torch and transformers, no quantization package."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise ImportError(f"awq.transformers needs torch and transformers: pip install torch transformers ({error})") from None
    checkpoint = _core.Checkpoint.open(os.fspath(path))
    settings = json.loads(checkpoint.config_json)
    settings.pop("quantization_config", None)
    settings.update(config_changes)
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(settings))
        config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    model.to(dtype or torch.float32)
    state = model.state_dict()
    stored = {t["name"] for t in checkpoint.tensors()}
    with torch.no_grad():
        for name, target in state.items():
            module = name[: -len(".weight")] if name.endswith(".weight") else None
            if module is not None and checkpoint.is_quantized(module):
                value = checkpoint.dequantized(module)
            elif name in stored:
                value = checkpoint.tensor(name)
            else:
                continue  # tied to another tensor
            target.copy_(torch.from_numpy(value))
    model.tie_weights()
    return model.eval()


def enable() -> None:
    """Lets this process open AWQ checkpoints with transformers 4 and peft, which ask for the version of a distribution named
    "autoawq" before they use awq.modules.linear: it is answered with the version whose names are provided here.

    Nothing is installed, and nothing happens where AutoAWQ itself is."""
    import importlib.metadata
    import sys

    try:
        importlib.metadata.version("autoawq")
    except importlib.metadata.PackageNotFoundError:
        sys.meta_path.append(_Answer())  # type: ignore[arg-type]


class _Answer:
    """A finder of distributions only."""

    def find_spec(self, *_: Any) -> None:
        return None

    def find_distributions(self, context: Any) -> Any:
        return [_autoawq()] if context.name == "autoawq" else []


def _autoawq() -> Any:
    import importlib.metadata

    class Provided(importlib.metadata.Distribution):
        def read_text(self, filename: str) -> Any:
            return "Metadata-Version: 2.1\nName: autoawq\nVersion: 0.2.9\n" if filename == "METADATA" else None

        def locate_file(self, path: Any) -> Any:
            return pathlib.Path(__file__).parent / path

    return Provided()
