"""What the first stages of the network cost, as in the paper's table of stage-wise results."""

import jax
from flax import nnx

from mprnet_jax.model.mprnet import MPRNet

# Parts that a number of stages leaves unused: of SAM, the last stage computes the image alone.
UNUSED = {
    1: ("sam12.features", "sam12.gate", "shallow2", "concat12", "encoder2", "decoder2", "sam23"),
    2: ("sam23.features", "sam23.gate"),
}
STAGE3 = ("shallow3", "concat23", "orsnet", "tail")


def parameters_used(model: MPRNet, stages: int) -> int:
    """How many of the model's parameters the first `stages` stages (1, 2 or 3) use."""
    unused = () if stages == 3 else UNUSED[stages] + STAGE3
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    named = ((".".join(str(key.key) for key in path) + ".", leaf.size) for path, leaf in leaves)
    return sum(size for name, size in named if not name.startswith(tuple(f"{u}." for u in unused)))
