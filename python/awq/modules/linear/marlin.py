from ._layers import WQLinear_Marlin
from ._layers import nothing_to_do as marlin_post_init

__all__ = ["WQLinear_Marlin", "marlin_post_init"]
