"""AutoAWQ's entry point: `from awq import AutoAWQForCausalLM`."""
from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import weakref
from typing import Any, Callable, Dict, Iterator, List, Optional, Union

from . import _core
from ._arguments import in_terms_of, refuse_unknown, say_once, without_effect
from .calibration import collect
from .errors import BadArgumentError, UnsupportedError
from .model import Config, Model, load
from .quantization import QuantizeResult, calib_name, run

ON_CPU = {"None", "cpu", "auto", "balanced", "balanced_low_0", "sequential"}  # values of device_map
VERSIONS = {"gemm", "gemv", "gemv_fast", "marlin"}
QUANT_CONFIG_KEYS = {"quant_method", "zero_point", "q_group_size", "w_bit", "version", "modules_to_not_convert"}

# name -> why it has no effect here
LOADING = {
    "torch_dtype": "weights keep the precision they are stored in",
    "dtype": "weights keep the precision they are stored in",
    "trust_remote_code": "no code of a checkpoint is ever run",
    "safetensors": "safetensors and GGUF are read, whichever is there",
    "download_kwargs": "models are taken from the Hugging Face cache, not downloaded here",
    "low_cpu_mem_usage": "one block of weights is in memory at a time",
    "use_cache": "calibration needs no cache, generation always has one",
    "attn_implementation": "there is one implementation of attention",
    "revision": "the cache's main revision is used",
    "cache_dir": "set HF_HUB_CACHE",
    "token": "nothing is downloaded",
    "use_auth_token": "nothing is downloaded",
    "local_files_only": "files are always local",
    "force_download": "nothing is downloaded",
    "resume_download": "nothing is downloaded",
    "proxies": "nothing is downloaded",
    "subfolder": "name the folder in the path",
    "offload_folder": "weights are mapped from their files",
    "max_memory": "a model runs on one device",
}
QUANTIZED = {
    **LOADING,
    "max_seq_len": "the cache is made for each request, up to the model's context",
    "max_new_tokens": "the cache is made for each request",
    "fuse_layers": "fused steps are always used, and break nothing",
    "use_exllama": "the kernel is chosen for this machine",
    "use_exllama_v2": "the kernel is chosen for this machine",
    "use_ipex": "the kernel is chosen for this machine",
    "batch_size": "requests of any number run together",
}
QUANTIZING = {
    "duo_scaling": "scales with and without the weights' part are both tried, the better one kept",
    "apply_clip": "ranges are searched and kept only where they lower the error",
    "n_parallel_calib_samples": "memory does not grow with the samples run together",
    "max_chunk_memory": "the loss is computed from statistics, not from stored activations",
}


class AutoAWQForCausalLM:
    """Opens models as AutoAWQ 0.2.9 does: from_pretrained() to quantize, from_quantized() to run."""

    def __init__(self) -> None:
        raise EnvironmentError("use AutoAWQForCausalLM.from_pretrained or AutoAWQForCausalLM.from_quantized")

    @classmethod
    def from_pretrained(cls, model_path: Union[str, os.PathLike], torch_dtype: Any = "auto", trust_remote_code: bool = True,
                        safetensors: bool = True, device_map: Any = None, download_kwargs: Any = None, low_cpu_mem_usage: bool = True,
                        use_cache: bool = False, **model_init_kwargs: Any) -> "AwqModel":
        """Opens a checkpoint; only headers are read. model_path: directory, .gguf file, or org/name in the cache. device_map: "cuda"
        to run on the GPU, as to() has it; quantize() runs on the CPU.

        Arguments that only torch gave a meaning are accepted. Raises NotFoundError (a FileNotFoundError), BadFileError,
        UnsupportedError; TypeError for an argument nobody knows."""
        refuse_unknown("from_pretrained", set(model_init_kwargs) - set(LOADING), set(LOADING) | {"model_path", "device_map"})
        without_effect("from_pretrained", model_init_kwargs, LOADING)
        return AwqModel(os.fspath(model_path), quantized=False, device=_device_of("device_map", device_map))

    @classmethod
    def from_quantized(cls, quant_path: Union[str, os.PathLike], quant_filename: str = "", max_seq_len: int = 2048,
                       trust_remote_code: bool = True, fuse_layers: bool = True, use_exllama: bool = False, use_exllama_v2: bool = False,
                       use_ipex: bool = False, batch_size: int = 1, safetensors: bool = True, device_map: Any = "balanced",
                       max_memory: Any = None, offload_folder: Any = None, download_kwargs: Any = None, **config_kwargs: Any) -> "AwqModel":
        """Loads a quantized checkpoint into memory. quant_filename: a file inside quant_path, such as a .gguf. device_map: "cuda" to
        run on the GPU, as to() has it; "auto", "balanced" and the like mean the CPU.

        Raises as from_pretrained does."""
        refuse_unknown("from_quantized", set(config_kwargs) - set(QUANTIZED),
                       set(QUANTIZED) | {"quant_path", "quant_filename", "device_map"})
        without_effect("from_quantized", config_kwargs, QUANTIZED)
        flags = {"use_exllama": use_exllama, "use_exllama_v2": use_exllama_v2, "use_ipex": use_ipex, "max_memory": max_memory,
                 "offload_folder": offload_folder, "download_kwargs": download_kwargs}
        without_effect("from_quantized", {n: v for n, v in flags.items() if v}, QUANTIZED)
        path = os.fspath(quant_path)
        if quant_filename.endswith(".gguf"):
            path = os.path.join(path, quant_filename)
        model = AwqModel(path, quantized=True, device=_device_of("device_map", device_map))
        model._loaded()
        return model


def _jobs_dir() -> pathlib.Path:
    """Where unsaved results and unfinished jobs lie: AWQ_CACHE, else the user's cache folder."""
    base = os.environ.get("AWQ_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "awq")
    return pathlib.Path(base) / "jobs"


def _device_of(argument: str, value: Any) -> str:
    """The device that a value of AutoAWQ's device_map or to() means: "cuda" where it names the GPU and there is one, else "cpu"."""
    named = {str(v) for v in value.values()} if isinstance(value, dict) else {str(value)}
    on_gpu = all(n == "0" or n.startswith("cuda") for n in named)
    if on_gpu and _core.cuda_devices():
        return "cuda"
    if not named <= ON_CPU:
        reason = f" ({_core.cuda_absence()})" if on_gpu else ""
        say_once(argument, f"{argument}: {value!r} has no effect: the model runs on the CPU{reason}")
    return "cpu"


def _bytes_of(size: Union[int, str]) -> int:
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(size), re.IGNORECASE)
    if match is None:
        raise BadArgumentError(f"shard_size '{size}': expected a number of bytes or a size such as '5GB' or '500MiB'")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


class AwqModel:
    """A checkpoint to quantize, or a quantized model to run."""

    def __init__(self, path: str, quantized: bool, device: str = "cpu") -> None:
        self._checkpoint = _core.Checkpoint.open(path)
        self._path = path
        self._model: Optional[Model] = None
        self._result: Optional[QuantizeResult] = None
        self._quantize_arguments: Dict[str, Any] = {}
        self.is_quantized = quantized
        self.config = Config(json.loads(self._checkpoint.config_json))
        self.model_type = self.config.get("model_type")
        self.quant_config: Dict[str, Any] = dict(self.config.get("quantization_config") or {})
        self.search_result = None
        self.processor = None
        self.device = device

    def _loaded(self) -> Model:
        if self._model is None:
            path = self._result.output if self._result is not None else self._path
            self._model = load(path, progress=False, device=self.device)
        return self._model

    @property
    def model(self) -> Model:
        """The model in memory, loaded on first use: after quantize() the quantized one."""
        return self._loaded()

    # --- quantization

    def quantize(self, tokenizer: Any = None, quant_config: Optional[Dict[str, Any]] = None, calib_data: Any = "pileval",
                 split: str = "train", text_column: str = "text", duo_scaling: bool = True, export_compatible: bool = False,
                 apply_clip: bool = True, n_parallel_calib_samples: Optional[int] = None, max_calib_samples: int = 128,
                 max_calib_seq_len: int = 512, max_chunk_memory: int = 1024 * 1024 * 1024, quantizer_cls: Any = None,
                 progress: Union[bool, Callable[[Dict[str, Any]], None], None] = None,
                 callback: Optional[Callable[[Dict[str, Any]], None]] = None, **kwargs: Any) -> QuantizeResult:
        """Quantizes into a directory of its own until save_quantized() gives it a name.

        tokenizer: transformers', ours, or None. quant_config: zero_point, q_group_size, w_bit (4), version (GEMM, GEMV,
        GEMV_Fast, Marlin: one layout serves all), modules_to_not_convert. calib_data: "pileval" or "builtin", a .txt or
        .jsonl file, or an iterable of strings, token ids or dicts with `text_column`; no text is too short or too long.
        export_compatible: plain 16-bit tensors holding the rounded weights, until pack(). progress, callback: as
        awq.quantize(). Ctrl-C raises KeyboardInterrupt within a second and the same call goes on from the last block.
        Raises BadArgumentError (a ValueError) for a group size that does not divide a width, naming one that does."""
        refuse_unknown("quantize", kwargs, {"tokenizer", "quant_config", "calib_data", "split", "text_column", "quantizer_cls",
                                            "max_calib_samples", "max_calib_seq_len", "export_compatible", "progress", "callback", *QUANTIZING})
        if quantizer_cls is not None:
            raise UnsupportedError("quantizer_cls: the search cannot be replaced by a Python class; follow it with callback=")
        told = {"duo_scaling": not duo_scaling, "apply_clip": not apply_clip, "n_parallel_calib_samples": n_parallel_calib_samples,
                "max_chunk_memory": max_chunk_memory != 1024 * 1024 * 1024}
        without_effect("quantize", {n: v for n, v in told.items() if v}, QUANTIZING)
        options = self._options(dict(quant_config or {}), calib_data, max_calib_samples, max_calib_seq_len, export_compatible)
        with in_terms_of({"--group-size": "q_group_size", "--bits": "w_bit"}):
            _core.plan(options)
        calibration = collect(calib_data, tokenizer, self._path, split, text_column, max_calib_samples, max_calib_seq_len)
        options["output"] = str(self._job_folder(options, calibration.sha256))
        os.makedirs(os.path.dirname(options["output"]), exist_ok=True)
        self._result = run(options, calibration, progress, callback)
        weakref.finalize(self._result, shutil.rmtree, os.path.dirname(options["output"]), ignore_errors=True)
        self._quantize_arguments = {"options": options, "calibration": calibration, "progress": progress, "callback": callback}
        self._model = None
        self.is_quantized = True
        return self._result

    def _options(self, quant_config: Dict[str, Any], calib_data: Any, samples: int, seq_len: int, dense: bool) -> Dict[str, Any]:
        refuse_unknown("quant_config", set(quant_config) - QUANT_CONFIG_KEYS, QUANT_CONFIG_KEYS)
        version = str(quant_config.get("version", "GEMM")).lower()
        if version not in VERSIONS:
            raise BadArgumentError(f"quant_config version '{quant_config['version']}': expected GEMM, GEMV, GEMV_Fast or Marlin")
        if version != "gemm":
            say_once("version." + version, f"quant_config version '{version}': written in the GEMM layout, which every loader converts "
                                           "to what its kernels want; ours picks the kernel at each step")
        bits = int(quant_config.get("w_bit", 4))
        if bits != 4:
            raise UnsupportedError(f"quant_config w_bit {bits}: AutoAWQ's layouts hold 4 bits; awq.quantize(bits={bits}) writes plain tensors")
        self.quant_config = {"quant_method": "awq", "zero_point": True, "q_group_size": 128, "w_bit": 4, **quant_config, "version": version}
        return {"model": self._path, "output": "", "bits": bits, "group_size": str(self.quant_config["q_group_size"]),
                "symmetric": not self.quant_config["zero_point"], "format": "dense" if dense else "auto", "calib": calib_name(calib_data),
                "samples": str(max_samples(samples)), "seq_len": int(seq_len), "skip": list(quant_config.get("modules_to_not_convert") or []),
                "force": True}

    def _job_folder(self, options: Dict[str, Any], calibration: str) -> pathlib.Path:
        """The same call gets the same folder, so that an interrupted one goes on where it stopped."""
        identity = {**options, "model": os.path.abspath(self._path), "calibration": calibration}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return _jobs_dir() / digest / "output"

    def pack(self) -> None:
        """After quantize(export_compatible=True): the same quantization in AutoAWQ's layout, for the next save_quantized()."""
        if self._result is None:
            raise BadArgumentError("pack() comes after quantize(export_compatible=True)")
        arguments = dict(self._quantize_arguments)
        if arguments["options"]["format"] == "auto":
            return
        options = {**arguments["options"], "format": "auto"}
        options["output"] = str(self._job_folder({**options, "output": ""}, arguments["calibration"].sha256))
        os.makedirs(os.path.dirname(options["output"]), exist_ok=True)
        self._result = run(options, arguments["calibration"], arguments["progress"], arguments["callback"])
        weakref.finalize(self._result, shutil.rmtree, os.path.dirname(options["output"]), ignore_errors=True)
        self._quantize_arguments["options"] = options
        self._model = None

    def save_quantized(self, save_dir: Union[str, os.PathLike], safetensors: bool = True, shard_size: Union[int, str] = "5GB") -> None:
        """Writes the result as `save_dir`, complete or not at all: the bytes `awq quantize -o save_dir` would write.

        A finished output of awq under that name is replaced as a whole, any other directory with files is refused
        (ExistsError). safetensors=False is refused: pickles run code when they are opened."""
        if not safetensors:
            raise UnsupportedError("safetensors=False: pickled checkpoints run code when they are opened and are not written")
        if self._result is None:
            raise BadArgumentError("save_quantized() comes after quantize()")
        self._result._core.publish(os.fspath(save_dir).rstrip("/") or "/", _bytes_of(shard_size), True)

    # --- running

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Model.generate(): ids as lists, numpy arrays or torch tensors; the same kind comes back."""
        return self._loaded().generate(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Model.forward(): logits, and with output_hidden_states or output_attentions what lies inside."""
        return self._loaded()(*args, **kwargs)

    __call__ = forward

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[str]:
        return self._loaded().stream(*args, **kwargs)

    def score(self, *args: Any, **kwargs: Any) -> Dict[str, Any]:
        return self._loaded().score(*args, **kwargs)

    def to(self, device: Any = None, *_: Any, **__: Any) -> "AwqModel":
        """Itself, to run on the GPU ("cuda", "cuda:0", 0, a torch.device) or on the CPU. Where this package or this machine has no
        CUDA, it stays on the CPU and says so once. Types are accepted: weights keep the precision they are stored in."""
        if device is not None and not str(device).startswith("torch."):  # torch.float16, not a device
            self._move(_device_of("to", device))
        return self

    def _move(self, device: str) -> None:
        if device != self.device:
            self.device = device
            self._model = None  # loaded anew when it is needed

    def cuda(self, *_: Any) -> "AwqModel":
        return self.to("cuda")

    def cpu(self) -> "AwqModel":
        return self.to("cpu")

    def eval(self) -> "AwqModel":
        return self

    @staticmethod
    def fuse_layers(_model: Any = None) -> None:
        """Nothing to do: fused steps are always used."""

    def __repr__(self) -> str:
        return f"AwqModel({self._path!r}, {self.model_type}, {'quantized' if self.is_quantized else 'not quantized'})"

    def _repr_html_(self) -> str:
        return self._result._repr_html_() if self._result is not None else self._loaded()._repr_html_()


def max_samples(samples: int) -> int:
    if samples < 1:
        raise BadArgumentError(f"max_calib_samples: expected at least 1, got {samples}")
    return samples


__all__: List[str] = ["AutoAWQForCausalLM", "AwqModel"]
