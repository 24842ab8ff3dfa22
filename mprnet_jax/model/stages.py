"""Describes a network's stages, from which the network is built.

The last stage sees whole images, the one before it their upper and lower halves, and all earlier
ones quadrants: smaller patches would need images whose sides are multiples of more than 8.
"""

from typing import NamedTuple

from mprnet_jax.config import ModelConfig


class Stage(NamedTuple):
    """One stage of a network: its subnetwork, and how it is connected to its neighbours."""

    number: int  # of the stage, from 1
    subnet: str  # "unet" or "orsnet"
    channels: int  # of its features
    num_patches: int  # patches per image in its encoder or its ORSNet: 4, 2 or 1
    num_joined: int  # patches per image in its decoder and its SAM, as in the next stage's encoder
    previous: str  # subnetwork of the stage before; "" for the first stage
    previous_channels: int  # of the features that the stage before passes on; 0 for the first stage
    has_csff: bool  # whether it adds features of the stage before by CSFF
    is_last: bool

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of its modules in the network, in the order of the computation."""
        names = (self.shallow, self.concat, self.encoder, self.decoder, self.orsnet, self.head)
        return tuple(filter(None, names))

    @property
    def shallow(self) -> str:
        """Its shallow feature extractor."""
        return f"shallow{self.number}"

    @property
    def concat(self) -> str:
        """The convolution of its shallow features and those of the stage before, or ""."""
        return f"concat{self.number - 1}{self.number}" if self.previous else ""

    @property
    def encoder(self) -> str:
        """The encoder of its U-Net, or ""."""
        return f"encoder{self.number}" if self.subnet == "unet" else ""

    @property
    def decoder(self) -> str:
        """The decoder of its U-Net, or ""."""
        return f"decoder{self.number}" if self.subnet == "unet" else ""

    @property
    def orsnet(self) -> str:
        """Its ORSNet, or ""; that of the last stage has no number, as the paper has only one."""
        if self.subnet != "orsnet":
            return ""
        return "orsnet" if self.is_last else f"orsnet{self.number}"

    @property
    def head(self) -> str:
        """What makes its image: the supervised attention module, or the last convolution."""
        return "tail" if self.is_last else f"sam{self.number}{self.number + 1}"


def stages_of(config: ModelConfig) -> list[Stage]:
    """Returns the stages of a network, the first one first."""
    subnets = config.subnets
    channels = [config.stage_width(subnet) for subnet in subnets]
    num_patches = [min(4, 2**later) for later in reversed(range(len(subnets)))]
    return [
        Stage(
            number=i + 1,
            subnet=subnets[i],
            channels=channels[i],
            num_patches=num_patches[i],
            num_joined=num_patches[min(i + 1, len(subnets) - 1)],
            previous=subnets[i - 1] if i else "",
            previous_channels=channels[i - 1] if i else 0,
            has_csff=config.cross_stage_fusion and i > 0,
            is_last=i == len(subnets) - 1,
        )
        for i in range(len(subnets))
    ]
