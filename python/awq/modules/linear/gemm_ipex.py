from ._layers import WQLinear_IPEX
from ._layers import nothing_to_do as ipex_post_init

__all__ = ["WQLinear_IPEX", "ipex_post_init"]
