"""The PyTorch reference has the official names and shapes, and the cost in the paper."""

import hashlib
import subprocess
import sys

import pytest
import torch

from mprnet_jax.config import ModelConfig
from mprnet_jax.weights import torch_reference

OFFICIAL = {  # preset: parameters, convolution GMACs at 256x256, SHA-256 of names and shapes
    "derain": (
        3_637_249,
        141.0,
        "a23d0137aa6e96ae1639e7286d90822be9339c10c66b7fd4eecdc8415afb513b",
    ),
    "denoise": (
        15_741_025,
        572.9,
        "c3b2789950b5836f034978e10b12d68a6ed6384666c6ed061ff67fda7501410d",
    ),
    "deblur": (
        20_127_073,
        759.4,
        "0e9387d5fc6ea812e1397d72ae328fa681c51da634828375d5e386384ea297a4",
    ),
}
SMALL = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1)


@pytest.mark.parametrize("preset", OFFICIAL)
def test_names_shapes_and_counts_are_the_official_ones(preset):
    model = torch_reference.build(getattr(ModelConfig, preset)())
    parameters, _, digest = OFFICIAL[preset]
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == 316
    assert sum(name.endswith(".body.1.weight") for name in shapes) == 55
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    listing = "\n".join(f"{name} {shapes[name]}" for name in sorted(shapes))
    assert hashlib.sha256(listing.encode()).hexdigest() == digest


@pytest.mark.parametrize("preset", OFFICIAL)
def test_cost_at_256_is_that_of_the_official_networks(preset):
    macs = 0

    def count(conv, _, output):
        nonlocal macs
        macs += output.numel() * conv.weight[0].numel()

    with torch.device("meta"):  # shapes without numbers
        model = torch_reference.build(getattr(ModelConfig, preset)())
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(count)
        model(torch.zeros(1, 3, 256, 256))
    assert round(macs / 1e9, 1) == OFFICIAL[preset][1]


def test_biases_are_added_everywhere_but_in_samplers_and_at_the_ends_of_orbs():
    config = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=1, bias=True)
    model = torch_reference.build(config)
    without = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.bias is None
    ]
    samplers = [name for name in without if ".down" in name or ".up" in name]
    assert len(samplers) == 8 + 6  # in the two U-Nets and in ORSNet
    ends = [f"stage3_orsnet.orb{i}.body.{config.cabs_per_orb}" for i in (1, 2, 3)]
    assert sorted(set(without) - set(samplers)) == ends


def test_quadrants_of_stage_1_know_each_other_only_through_the_decoder():
    model = torch_reference.build(SMALL)
    seen = []
    model.stage1_encoder.register_forward_hook(lambda _, __, levels: seen.append(levels[0]))
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        model(image, stages=1)
        image[:, :, 16:, 16:] = 0
        model(image, stages=1)
    before, after = seen[:4], seen[4:]
    assert [torch.equal(b, a) for b, a in zip(before, after)] == [True, True, True, False]


def test_silent_convolutions_return_the_image_from_every_stage():
    model = torch_reference.build(SMALL)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.rand(2, 3, 16, 24)
    outputs = model(image)
    assert len(outputs) == 3
    assert all(torch.equal(output, image) for output in outputs)


def test_importing_the_module_does_not_import_torch():
    code = "import sys, mprnet_jax.weights.torch_reference as r; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
