from ._layers import WQLinear_ExllamaV2
from ._layers import nothing_to_do as exllamav2_post_init

__all__ = ["WQLinear_ExllamaV2", "exllamav2_post_init"]
