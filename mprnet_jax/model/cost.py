"""What the network costs: multiply-adds, and the parameters that its first stages use.

Sizes come from the network's own parameters. The level at which the paper has each convolution
cannot be derived from them and is a table below.
"""

import itertools
import math
from collections.abc import Iterator

import jax

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.mprnet import abstract_model
from mprnet_jax.model.stages import stages_of

# Levels of the convolutions below full resolution, by a component of the parameter's path. Resizing
# comes before the convolution in the paper, so both `down12` and `up32` are at level 2.
LEVELS = {
    **dict.fromkeys(("level2", "skip2", "down12", "up32", "csff.1"), 2),
    **dict.fromkeys(("level3", "down23", "csff.2"), 3),
    # From level 3 up to level 2; the lifts' other convolutions are at full resolution.
    **dict.fromkeys(("encoder_lifts.2.ups.0", "decoder_lifts.2.ups.0"), 2),
}


def forward_flops(config: ModelConfig, height: int, width: int, stages: int | None = None) -> float:
    """Returns the number of floating-point operations for restoring one image.

    Counts two operations for each multiply-add of a convolution, at the resolution where the paper
    has it, although this package runs some convolutions at a lower one. Channel attention's
    convolutions are left out, since their maps have one pixel. Backpropagation takes twice as many.

    Args:
        config: of the network.
        height: rows of the image, in pixels.
        width: columns of the image, in pixels.
        stages: number of stages to compute; None computes all.
    """
    multiply_adds = 0.0  # for each pixel of the image
    for path, shape in shapes_used(config, stages):
        if path.endswith(".kernel") and ".attention." not in path:
            multiply_adds += math.prod(shape) / 4 ** (level_of(path) - 1)
    return 2 * multiply_adds * height * width


def parameters_used(config: ModelConfig, stages: int | None = None) -> int:
    """Returns the number of parameters that the first `stages` stages use; None for all."""
    return sum(math.prod(shape) for _, shape in shapes_used(config, stages))


def shapes_used(
    config: ModelConfig, stages: int | None = None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields path and shape of each parameter of the first stages, as `named_shapes` does.

    The SAM of the last computed stage is used only for its restored image, so its `features` and
    `gate` belong to the next stage.
    """
    unused: list[str] = []
    for previous, stage in [*itertools.pairwise(stages_of(config))][stages - 1 :] if stages else []:
        sam = previous.head
        unused += [f"{name}." for name in (*stage.modules, f"{sam}.features", f"{sam}.gate")]
    for path, shape in named_shapes(abstract_model(config)[1]):
        if not path.startswith(tuple(unused)):
            yield path, shape


def level_of(path: str) -> int:
    """Returns the level at which a kernel's convolution runs in the paper: 1 is full resolution."""
    return next((level for part, level in LEVELS.items() if f".{part}." in path), 1)


def named_shapes(params: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the path and the shape of each parameter, such as "tail.kernel" and (3, 3, 96, 3)."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        yield ".".join(str(key.key) for key in path), leaf.shape
