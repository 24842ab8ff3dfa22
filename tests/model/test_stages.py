"""Networks with other stages than the published one: their parts, sizes and patches."""

import jax
import numpy as np
import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.cost import forward_flops, parameters_used
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.model.stages import stages_of

SIZES = {"width": 6, "unet_growth": 2, "orsnet_growth": 4, "reduction": 2, "cabs_per_orb": 1}


def variant(stages: str, sam: bool = True, csff: bool = True) -> ModelConfig:
    """A narrow network."""
    return ModelConfig(**SIZES, stages=stages, supervised_attention=sam, cross_stage_fusion=csff)


def cab(c: int) -> int:
    """Parameters of a CAB, but for PReLU's slope."""
    return 2 * 9 * c * c + 2 * c * (c // 2)


# The parameters of each part, written out from the paper's structure for widths 6, 8 and 10.
UNET = 2 * (cab(6) + cab(8) + cab(10)) + 6 * 8 + 8 * 10  # encoder
UNET += 3 * cab(6) + 3 * cab(8) + 2 * cab(10) + 8 * 6 + 10 * 8  # decoder
ORSNET = 3 * (cab(10) + 9 * 10 * 10)
SAM = 6 * 6 + 6 * 3 + 3 * 6
CSFF = 2 * (6 * 6 + 8 * 8 + 10 * 10)  # between U-Nets
LIFTS = 2 * (3 * 6 * 10 + 8 * 6 + 10 * 8 + 8 * 6)  # from a U-Net to ORSNet
SHALLOW, WIDE_SHALLOW = 27 * 6 + cab(6), 27 * 10 + cab(10)
TAIL, WIDE_TAIL = 27 * 6, 27 * 10
CONCAT = 9 * 12  # for each output channel

THREE = 2 * UNET + ORSNET + 3 * SHALLOW + CONCAT * (6 + 10) + WIDE_TAIL
TABLE_6 = {
    ("unet", True, True): SHALLOW + UNET + TAIL,
    ("orsnet", True, True): WIDE_SHALLOW + ORSNET + WIDE_TAIL,
    ("unet+unet", True, True): 2 * (SHALLOW + UNET) + CSFF + SAM + CONCAT * 6 + TAIL,
    # The first SAM has 10 channels, and the convolution after it takes 6 and 10.
    ("orsnet+orsnet", True, True): WIDE_SHALLOW
    + SHALLOW
    + 2 * ORSNET
    + 3 * 10 * 10
    + (10 * 10 + 2 * 3 * 10)
    + 9 * 16 * 10
    + WIDE_TAIL,
    ("unet+orsnet", True, True): 2 * SHALLOW
    + UNET
    + ORSNET
    + LIFTS
    + SAM
    + CONCAT * 10
    + WIDE_TAIL,
    ("unet+unet+orsnet", False, True): THREE + CSFF + LIFTS + 2 * 6 * 3,
    ("unet+unet+orsnet", True, False): THREE + 2 * SAM,
    ("unet+unet+orsnet", False, False): THREE + 2 * 6 * 3,
    ("unet+unet+orsnet", True, True): THREE + CSFF + LIFTS + 2 * SAM,
}


@pytest.mark.parametrize(("row", "parameters"), TABLE_6.items())
def test_networks_of_the_ablation_have_the_parameters_of_their_parts(row, parameters):
    assert parameters_used(variant(*row)) == parameters + 1  # PReLU's slope


def test_costs_of_fewer_stages_are_those_of_their_parts():
    config = variant("unet+unet+orsnet")
    # The first SAM makes the image with one of its three convolutions.
    assert parameters_used(config, 1) == SHALLOW + UNET + 6 * 3 + 1
    two = 2 * (SHALLOW + UNET) + CSFF + SAM + CONCAT * 6 + 6 * 3
    assert parameters_used(config, 2) == two + 1
    costs = [forward_flops(config, 8, 8, stages) for stages in (1, 2, 3, None)]
    assert costs[0] < costs[1] < costs[2] == costs[3]


@pytest.mark.parametrize(
    ("stages", "patches"),
    [
        ("unet", [(1, 1)]),
        ("orsnet+orsnet", [(2, 1), (1, 1)]),
        ("unet+unet+orsnet", [(4, 2), (2, 1), (1, 1)]),
        ("unet+unet+unet+unet+orsnet", [(4, 4), (4, 4), (4, 2), (2, 1), (1, 1)]),
    ],
)
def test_patches_get_larger_from_stage_to_stage(stages, patches):
    assert [
        (stage.num_patches, stage.num_joined) for stage in stages_of(variant(stages))
    ] == patches


def test_a_stage_of_four_sees_its_patches_only():
    """The first two of four stages restore each quadrant alone; the third one joins columns."""
    init, apply = pure_functions(variant("orsnet+orsnet+orsnet+orsnet"))
    images = np.random.default_rng(0).random((1, 16, 32, 3), np.float32)
    changed = images.copy()
    changed[:, :8, :16] = 0
    params, apply = init(0), jax.jit(apply)
    differences = [
        np.abs(a - b)[0].max(axis=-1)
        for a, b in zip(apply(params, images), apply(params, changed), strict=True)
    ][::-1]
    assert len(differences) == 4
    others = [difference[rows, columns].max() for difference, rows, columns in zip(
        differences,
        (slice(None), slice(None), slice(8, None), slice(8, None)),
        (slice(16, None), slice(16, None), slice(None), slice(None)),
        strict=True,
    )]  # fmt: skip
    assert others[:3] == [0, 0, 0]
    assert others[3] > 0
    assert differences[2][:8, 16:].max() > 0  # its features come from both quadrants above


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("", "stage 1 is ''"),
        ("unet+", "stage 2 is ''"),
        ("unet+resnet+orsnet", "stage 2 is 'resnet'; use unet or orsnet"),
        ("unet+orsnet+unet", "stage 3 is a U-Net after an ORSNet"),
        ("unet,orsnet", "stage 1 is 'unet,orsnet'"),
    ],
)
def test_stages_that_cannot_be_built_are_named(stages, message):
    with pytest.raises(UserError, match=f"model.stages=.*{message}"):
        variant(stages)


def test_a_unet_after_an_orsnet_is_possible_without_fusion():
    config = variant("orsnet+unet", csff=False)
    parts = WIDE_SHALLOW + SHALLOW + ORSNET + UNET + (10 * 10 + 2 * 3 * 10) + 9 * 16 * 6 + TAIL
    assert parameters_used(config) == parts + 1
