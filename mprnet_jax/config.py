"""Every knob of a run, as typed dataclasses, and the three published model sizes.

A config file returns a `TrainConfig`; the command line changes single fields of it
(`--config.optim.learning_rate=1e-4`). Fields marked `free()` may differ when a run is resumed;
all others decide what is computed, so a changed one needs a new workdir.
"""

from dataclasses import dataclass, field
from typing import Any

from mprnet_jax.errors import UserError


def free(default: Any) -> Any:
    """A field that does not decide what is computed: a resumed run may change it."""
    return field(default=default, metadata={"free": True})


@dataclass(slots=True)
class ModelConfig:
    """Sizes of the network; the defaults are the deraining preset of the paper."""

    width: int = 40  # channels at full resolution (the paper's n_feat)
    unet_growth: int = 20  # channels added by each level of the U-Nets (scale_unetfeats)
    orsnet_growth: int = 16  # channels that the last stage has besides `width` (scale_orsnetfeats)
    reduction: int = 4  # channel attention squeezes c channels to c // reduction
    cabs_per_orb: int = 8  # channel attention blocks in an original-resolution block
    bias: bool = False  # whether convolutions add a bias; samplers never do
    dtype: str = "float32"  # of the computation, or "bfloat16"; parameters stay float32

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raises UserError for sizes that make no network."""
        for name in ("width", "reduction", "cabs_per_orb"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}: must be 1 or more")
        for name in ("unet_growth", "orsnet_growth"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name}={getattr(self, name)}: must not be negative")
        if self.width < self.reduction:
            raise UserError(
                f"model.width={self.width} is below model.reduction={self.reduction}: "
                "channel attention would squeeze to nothing; use a larger width"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model.dtype={self.dtype!r}: use float32 or bfloat16")

    @property
    def level_widths(self) -> tuple[int, int, int]:
        """Channels of the three U-Net levels, full resolution first."""
        return tuple(self.width + level * self.unet_growth for level in range(3))

    @classmethod
    def derain(cls) -> "ModelConfig":
        """The deraining network: 3,637,249 parameters."""
        return cls(width=40, unet_growth=20, orsnet_growth=16)

    @classmethod
    def denoise(cls) -> "ModelConfig":
        """The denoising network: 15,741,025 parameters."""
        return cls(width=80, unet_growth=48, orsnet_growth=32)

    @classmethod
    def deblur(cls) -> "ModelConfig":
        """The deblurring network: 20,127,073 parameters."""
        return cls(width=96, unet_growth=48, orsnet_growth=32)
