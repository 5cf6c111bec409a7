"""AWQ linears as torch modules: plain tensor operations, for whoever opens our checkpoints through transformers.

Buffers as AutoAWQ's "gemm" files hold them (docs/formats.md): qweight int32 [in, out/8], qzeros int32 [in/group, out/8],
scales [in/group, out]; nibble i of a word belongs to output 8c + ORDER[i].
"""
from __future__ import annotations

from typing import Any, Optional

import torch

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def unpack(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, n] to nibbles [rows, 8n] in the order of outputs."""
    shifts = torch.tensor([4 * ORDER.index(j) for j in range(8)], dtype=torch.int32, device=words.device)
    return (words[:, :, None] >> shifts & 0xF).reshape(words.shape[0], -1)


class WQLinear_GEMM(torch.nn.Module):
    """y = x W + bias with W unpacked at each call. Gradients flow to x, not to the weights."""

    def __init__(self, w_bit: int, group_size: int, in_features: int, out_features: int, bias: bool, dev: Any,
                 training: bool = False) -> None:
        super().__init__()
        if w_bit != 4:
            raise NotImplementedError(f"w_bit {w_bit}: AWQ layers hold 4 bits")
        self.w_bit = w_bit
        self.group_size = group_size if group_size != -1 else in_features
        self.in_features, self.out_features = in_features, out_features
        self.training = training
        if in_features % self.group_size or out_features % 8:
            raise ValueError(f"AWQ layer {in_features} x {out_features}: expected inputs in groups of {self.group_size} and outputs in eights")
        groups = in_features // self.group_size
        self.register_buffer("qweight", torch.zeros((in_features, out_features // 8), dtype=torch.int32, device=dev))
        self.register_buffer("qzeros", torch.zeros((groups, out_features // 8), dtype=torch.int32, device=dev))
        self.register_buffer("scales", torch.zeros((groups, out_features), dtype=torch.float16, device=dev))
        self.bias: Optional[torch.Tensor]
        if bias:
            self.register_buffer("bias", torch.zeros(out_features, dtype=torch.float16, device=dev))
        else:
            self.bias = None

    @classmethod
    def from_linear(cls, linear: torch.nn.Linear, w_bit: int, group_size: int, init_only: bool = False, scales: Any = None,
                    zeros: Any = None) -> "WQLinear_GEMM":
        """An empty layer of the linear's shape; awq.quantize() is what fills checkpoints."""
        if not init_only:
            raise NotImplementedError("from_linear packs no weights here: use awq.quantize() on the checkpoint")
        return cls(w_bit, group_size, linear.in_features, linear.out_features, linear.bias is not None, linear.weight.device)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[in, out]."""
        groups = unpack(self.qweight).reshape(-1, self.group_size, self.out_features)
        centred = (groups - unpack(self.qzeros)[:, None, :]).to(torch.float32)
        return (centred * self.scales[:, None, :].to(torch.float32)).reshape(self.in_features, self.out_features).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weight = self.dequantized(x.dtype)
        y = x @ weight
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, w_bit={self.w_bit}, group_size={self.group_size}"


class WQLinear_IPEX(WQLinear_GEMM):
    """What transformers asks for on a machine without a GPU: the same files, the same operations."""


class _OtherLayout(torch.nn.Module):
    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__}: only the GEMM layout is opened as a torch module; load the checkpoint with awq.load()")


class WQLinear_GEMV(_OtherLayout):
    pass


class WQLinear_GEMVFast(_OtherLayout):
    pass


class WQLinear_Marlin(_OtherLayout):
    pass


class WQLinear_Exllama(_OtherLayout):
    pass


class WQLinear_ExllamaV2(_OtherLayout):
    pass


def nothing_to_do(model: Any, *_: Any, **__: Any) -> Any:
    """The layers are ready as they are loaded."""
    return model
