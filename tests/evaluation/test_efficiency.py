import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mprnet_jax.config import ModelConfig
from mprnet_jax.evaluation.efficiency import parameters_used
from mprnet_jax.model.mprnet import abstract


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_parameters_used_are_those_that_the_image_depends_on(stages):
    config = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)
    graph, params = abstract(config)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)

    def final(params, images):
        return nnx.merge(graph, params)(images, stages)[0]

    # A compiled program names the arguments that it drops because nothing depends on them.
    lowered = jax.jit(final).lower(params, images)
    kept = lowered._lowering.compile_args["kept_var_idx"]
    leaves = jax.tree.leaves((params, images))
    expected = sum(leaves[index].size for index in kept) - images.size
    assert parameters_used(nnx.merge(graph, params), stages) == expected
