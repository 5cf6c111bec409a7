from ._layers import WQLinear_Exllama
from ._layers import nothing_to_do as exllama_post_init

__all__ = ["WQLinear_Exllama", "exllama_post_init"]
