"""Networks whose logits are adjusted after training."""

from typing import Any

from torch import Tensor, nn

from lt_pipeline.models.experts import MultiExpert


class PostHocAdjusted(nn.Module):
    """A network to whose logits an offset [C] is added outside training (Menon et al., ICLR 2021, section 4.1)."""

    offset: Tensor

    def __init__(self, network: MultiExpert, offset: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", offset, persistent=False)

    def trunk(self, images: Tensor) -> Any:
        """Return what the network's branches share."""
        return self.network.trunk(images)

    @property
    def experts(self) -> tuple[nn.Module, ...]:
        """The branches of the network."""
        return self.network.experts

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the network's output, with adjusted ``logits`` [B, C] in evaluation mode."""
        outputs: dict[str, Tensor] = self.network(images)
        return outputs if self.training else {"logits": outputs["logits"] + self.offset}
