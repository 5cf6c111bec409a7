from ._layers import WQLinear_GEMVFast

__all__ = ["WQLinear_GEMVFast"]
