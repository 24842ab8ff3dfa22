"""How much arithmetic the network takes, by the paper's structure."""

from mprnet_jax.config import ModelConfig


def forward_flops(config: ModelConfig, height: int, width: int) -> float:
    """Floating-point operations to restore one image, two for each multiply-add of a convolution.

    Counts the network as it was published: every convolution at the resolution where the paper has
    it, also those that this package runs at a lower one. Backpropagation takes twice as much again.
    """
    f, c2, c3 = config.level_widths
    f3 = f + config.orsnet_growth

    def cab(channels: int) -> float:
        return 2 * 9 * channels**2

    shallow = 27 * f + cab(f)
    encoder = 2 * cab(f) + (f * c2 + 2 * cab(c2)) / 4 + (c2 * c3 + 2 * cab(c3)) / 16
    decoder = 3 * cab(f) + c2 * f + (3 * cab(c2) + c3 * c2) / 4 + 2 * cab(c3) / 16
    sam = f * f + 6 * f
    csff = 2 * (f * f + c2 * c2 / 4 + c3 * c3 / 16)
    orsnet = 3 * (config.cabs_per_orb * cab(f3) + 9 * f3**2)
    orsnet += 2 * (3 * f * f3 + c2 * f + c2 * f + c3 * c2 / 4)  # the lifts of three levels
    multiply_adds = 3 * shallow + 2 * (encoder + decoder + sam) + csff
    multiply_adds += 9 * 2 * f * f + 9 * 2 * f * f3 + orsnet + 27 * f3
    return 2 * multiply_adds * height * width
