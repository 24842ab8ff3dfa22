import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.cost import forward_flops, level_of, named_shapes, parameters_used
from mprnet_jax.model.mprnet import abstract_model

SMALL = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)


@pytest.mark.parametrize(
    ("preset", "multiply_adds"), [("derain", 141.0e9), ("denoise", 572.9e9), ("deblur", 759.4e9)]
)
def test_presets_take_the_arithmetic_of_the_published_networks(preset, multiply_adds):
    config = getattr(ModelConfig, preset)()
    # 5e-4: the published counts have one digit behind the point.
    assert forward_flops(config, 256, 256) == pytest.approx(2 * multiply_adds, rel=5e-4)
    assert forward_flops(config, 512, 128) == forward_flops(config, 256, 256)


def test_arithmetic_is_that_of_the_paper_structure():
    """Written out from the paper's structure, for sizes that no preset has."""
    f, c2, c3 = SMALL.level_widths
    f3 = f + SMALL.orsnet_growth

    def cab(channels):
        return 2 * 9 * channels**2

    shallow = 27 * f + cab(f)
    encoder = 2 * cab(f) + (f * c2 + 2 * cab(c2)) / 4 + (c2 * c3 + 2 * cab(c3)) / 16
    decoder = 3 * cab(f) + c2 * f + (3 * cab(c2) + c3 * c2) / 4 + 2 * cab(c3) / 16
    sam = f * f + 6 * f
    csff = 2 * (f * f + c2 * c2 / 4 + c3 * c3 / 16)
    orsnet = 3 * (SMALL.cabs_per_orb * cab(f3) + 9 * f3**2)
    orsnet += 2 * (3 * f * f3 + c2 * f + c2 * f + c3 * c2 / 4)
    multiply_adds = 3 * shallow + 2 * (encoder + decoder + sam) + csff
    multiply_adds += 9 * 2 * f * f + 9 * 2 * f * f3 + orsnet + 27 * f3
    # Fractions of 16: float64 holds them exactly.
    assert forward_flops(SMALL, 16, 24) == 2 * multiply_adds * 16 * 24


def convolutions(jaxpr):
    """The multiply-adds of all 3x3 convolutions that a jaxpr computes on a CPU."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval
            total += kernel.size // kernel.shape[-1] * eqn.outvars[0].aval.size
        inner = [v for v in eqn.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
        if "branches" in eqn.params:  # one for each platform; all compute the same function
            inner = [eqn.params["branches"][-1]]
        total += sum(convolutions(getattr(each, "jaxpr", each)) for each in inner)
    return total


def test_3x3_convolutions_are_counted_at_the_level_where_the_network_runs_them():
    """Those run at the paper's resolution, so the traced network says what they take."""
    graph, params = abstract_model(SMALL)
    images = jax.ShapeDtypeStruct((1, 16, 24, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda p, x: nnx.merge(graph, p)(x))(params, images)
    expected = sum(
        math.prod(shape) * 16 * 24 // 4 ** (level_of(path) - 1)
        for path, shape in named_shapes(params)
        if len(shape) == 4
    )
    assert convolutions(jaxpr.jaxpr) == expected


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_parameters_used_are_those_that_the_image_depends_on(stages):
    graph, params = abstract_model(SMALL)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)

    def final(params, images):
        return nnx.merge(graph, params)(images, stages)[0]

    # A compiled program names the arguments that it drops because nothing depends on them.
    lowered = jax.jit(final).lower(params, images)
    kept = lowered._lowering.compile_args["kept_var_idx"]
    leaves = jax.tree.leaves((params, images))
    expected = sum(leaves[index].size for index in kept) - images.size
    assert parameters_used(SMALL, stages) == expected


def test_two_stages_of_deblur_use_the_parameters_that_the_docs_say():
    page = (Path(__file__).parents[2] / "docs/network.md").read_text(encoding="utf-8")
    assert f" {parameters_used(ModelConfig.deblur(), 2):,} that stage 2's image depends on" in page
