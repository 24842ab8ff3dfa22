"""The graph of ONNX operators computes what PyTorch's network does, in each runtime."""

import dataclasses
import math

import numpy as np
import onnx
import pytest
import torch

from mprnet_jax.config import ModelConfig
from mprnet_jax.data import sample
from mprnet_jax.export import formats, graph, runtimes, validation
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import names, torch_reference
from mprnet_jax.weights.files import WeightFile

TINY = ModelConfig(width=8, unet_growth=4, orsnet_growth=4, cabs_per_orb=2)
NETWORKS = {
    "published": TINY,
    "bias": dataclasses.replace(TINY, bias=True),
    "one U-Net, no SAM": dataclasses.replace(TINY, stages="unet", supervised_attention=False),
    "ORSNets, no CSFF": dataclasses.replace(
        TINY, stages="unet+orsnet+orsnet", cross_stage_fusion=False
    ),
    "four stages, no SAM": dataclasses.replace(
        TINY, stages="unet+unet+orsnet+orsnet", supervised_attention=False
    ),
}
# Float32 rounding differs with the order of sums; 1e-6 was measured. A wrong tensor gives 1e-3.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _one_thread():
    """PyTorch's threads wait busily for each other, on cores that others use too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_network(config):
    """Random parameters, biases and the slope among them, in both layouts."""
    torch.manual_seed(0)
    model = torch_reference.build(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("body.1.weight"):
                tensor.fill_(0.2)
    official = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return model, names.from_official(official)[1]


def run_pytorch(model, images):
    with torch.inference_mode():
        stages = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return [stage.permute(0, 2, 3, 1).numpy() for stage in stages[::-1]]


@pytest.mark.parametrize("network", NETWORKS)
def test_stages_agree_with_pytorch_at_all_sizes(network):
    config = NETWORKS[network]
    model, params = make_network(config)
    built = graph.build(config, params)
    onnx.checker.check_model(built, full_check=True)
    count = len(config.subnets)
    content = validation.with_stage_outputs(built.SerializeToString(), count)
    runs = [runtimes.load(runtime, content) for runtime in runtimes.NAMES]
    for size in ((2, 32, 48), (1, 8, 8), (1, 24, 72)):
        images = np.random.default_rng(1).random((*size, 3), np.float32)
        expected = run_pytorch(model, images)
        for run in runs:
            for ours, theirs in zip(run(images), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("runtime", runtimes.NAMES)
def test_other_sizes_are_padded_by_reflection(runtime):
    model, params = make_network(TINY)
    run = runtimes.load(runtime, graph.build(TINY, params).SerializeToString())
    for height, width in ((1, 1), (3, 20), (16, 9), (2, 33)):
        images = np.random.default_rng(1).random((1, height, width, 3), np.float32)
        sides = [(0, 8 * math.ceil(side / 8) - side) for side in (height, width)]
        padded = np.pad(images, [(0, 0), *sides, (0, 0)], "reflect")
        expected = run_pytorch(model, padded)[-1][:, :height, :width]
        (restored,) = run(images)
        np.testing.assert_allclose(restored, expected, rtol=0, atol=TOLERANCE)


def test_a_parameter_that_the_graph_lacks_is_named():
    params = pure_functions(TINY)[0](0)
    params["shallow1"]["cab"]["gain"] = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=r"^shallow1\.cab\.gain: not part of the exported graph"):
        graph.build(TINY, params)


def test_fewer_stages_are_smaller_files_with_the_same_images():
    model, params = make_network(TINY)
    images = np.random.default_rng(1).random((1, 16, 24, 3), np.float32)
    sizes = []
    for stages, expected in enumerate(run_pytorch(model, images), 1):
        content = graph.build(TINY, params, stages=stages, pads=False).SerializeToString()
        (restored,) = runtimes.load("onnxruntime", content)(images)
        np.testing.assert_allclose(restored, expected, rtol=0, atol=TOLERANCE)
        sizes.append(len(content))
    assert sizes == sorted(set(sizes))


def test_presets_agree_with_ours(exhaustive, capsys):
    """By hand: the networks in full size, on noise and on a photo; minutes each."""
    if not exhaustive:
        pytest.skip("takes minutes")
    photo = sample.photo("chelsea.png")
    for config in (
        ModelConfig.derain(),
        ModelConfig.denoise(),
        ModelConfig.deblur(),
        dataclasses.replace(ModelConfig.derain(), stages="unet+orsnet"),
    ):
        weights = WeightFile(config, pure_functions(config)[0](0), {"source": "random"})
        content = formats.encode(".onnx", weights)
        report = validation.compare(".onnx", content, weights, None)
        ours = validation.run_ours(weights, photo[None, :255, :250].astype(np.float32) / 255)
        count = len(config.subnets)
        for program, run in validation.load(".onnx", content, count):
            theirs = run(photo[None, :255, :250].astype(np.float32) / 255)
            differences = [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]
            with capsys.disabled():
                print(f"\n{config.width} channels, photo, {program}: {differences}")
            assert max(differences) < TOLERANCE
        with capsys.disabled():
            print(report)
        assert max(stage.max_abs for stage in report.stages) < TOLERANCE
