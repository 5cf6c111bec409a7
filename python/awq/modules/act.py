"""The activation wrapper transformers imports when it opens an AWQ checkpoint."""
import torch


class ScaledActivation(torch.nn.Module):
    """act(x) / scales, for architectures whose scale could not be folded into a weight."""

    def __init__(self, module: torch.nn.Module, scales: torch.Tensor) -> None:
        super().__init__()
        self.act = module
        self.scales = torch.nn.Parameter(scales.data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x) / self.scales.view(1, 1, -1).to(x.device)
