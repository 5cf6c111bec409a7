from ._layers import WQLinear_GEMV

__all__ = ["WQLinear_GEMV"]
