from ._layers import WQLinear_GEMM

__all__ = ["WQLinear_GEMM"]
