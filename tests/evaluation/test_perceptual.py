import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage import data

from mprnet_jax.errors import UserError
from mprnet_jax.evaluation.perceptual import BACKBONE, load_lpips


class StandIn(torch.nn.Module):
    """Has the interface of lpips.LPIPS; the distance is the mean difference on [-1, 1]."""

    def __init__(self, net, verbose):
        super().__init__()
        assert net == "alex"

    def forward(self, a, b):
        assert a.shape[:2] == (1, 3)
        assert min(a.min(), b.min()) >= -1
        assert max(a.max(), b.max()) <= 1
        return (a - b).abs().mean().reshape(1, 1, 1, 1)


@pytest.fixture
def package(monkeypatch, tmp_path):
    """An installed `lpips` and an empty folder for the backbone's weights."""
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=StandIn))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints"


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match=r"mprnet-jax\[lpips\]"):
        load_lpips()


def test_a_torchvision_for_another_pytorch_is_named(monkeypatch, tmp_path):
    (tmp_path / "lpips.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"torchvision does not fit .*operator nms does not exist"):
        load_lpips()


def test_without_the_backbone_its_file_and_source_are_named(package):
    with pytest.raises(UserError) as error:
        load_lpips()
    assert str(package / BACKBONE) in str(error.value)
    assert f"https://download.pytorch.org/models/{BACKBONE}" in str(error.value)


def test_images_are_handed_over_in_the_range_that_lpips_wants(package):
    package.mkdir()
    (package / BACKBONE).touch()
    distance = load_lpips()
    black, white = np.zeros((6, 8, 3), np.uint8), np.full((6, 8, 3), 255, np.uint8)
    assert distance(black, white) == 2
    assert distance(white, white) == 0


# AlexNet's convolutions: index in the file, filters, kernel, stride, padding, pooled before.
CONVOLUTIONS = (
    (0, 64, 11, 4, 2, False),
    (3, 192, 5, 1, 2, True),
    (6, 384, 3, 1, 1, True),
    (8, 256, 3, 1, 1, False),
    (10, 256, 3, 1, 1, False),
)


def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """All windows of an array [C, H, W], as [C, rows, columns, size, size]."""
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def alexnet_features(image: np.ndarray, weights: dict) -> list[np.ndarray]:
    """The five maps [C, H, W] after AlexNet's convolutions, of a uint8 RGB image."""
    # ImageNet's means and deviations of red, green and blue.
    x = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x, maps = x.transpose(2, 0, 1), []
    for index, _, size, stride, padding, pooled in CONVOLUTIONS:
        if pooled:
            x = windows(x, 3, 2).max((3, 4))
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        kernel = weights[f"features.{index}.weight"].double().numpy()
        bias = weights[f"features.{index}.bias"].double().numpy()
        x = np.einsum("chwij,ocij->ohw", windows(x, size, stride), kernel, optimize=True)
        x = np.maximum(x + bias[:, None, None], 0)
        maps.append(x)
    return maps


def lpips_by_definition(a: np.ndarray, b: np.ndarray, backbone: dict, linear: dict) -> float:
    """Equation 1 of Zhang et al. (CVPR 2018), in float64 NumPy."""
    distance = 0.0
    maps = zip(alexnet_features(a, backbone), alexnet_features(b, backbone))
    for layer, (x, y) in enumerate(maps):
        x, y = (z / np.sqrt((z**2).sum(0) + 1e-20) for z in (x, y))
        w = linear[f"lin{layer}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
        distance += (w * (x - y) ** 2).sum(0).mean()
    return distance


@pytest.fixture
def real_package(monkeypatch, tmp_path):
    """The package `lpips`, and random weights where torchvision keeps those of its AlexNet.

    Returns:
        The backbone's weights, and those of the distance that come with the package.
    """
    try:
        import lpips
    except ImportError:
        reason = "needs the package lpips"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    except RuntimeError:
        # PyPI's torchvision has operators for CUDA, which a PyTorch for CPUs alone cannot load. No
        # network here uses them; they need only be known.
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        import lpips

    random, channels, backbone = torch.Generator().manual_seed(0), 3, {}
    for index, filters, size, *_ in CONVOLUTIONS:
        kernel = torch.randn(filters, channels, size, size, generator=random)
        backbone[f"features.{index}.weight"] = kernel * (2 / (channels * size**2)) ** 0.5
        backbone[f"features.{index}.bias"] = 0.1 * torch.randn(filters, generator=random)
        channels = filters
    # The classifier is not used; one zero on the disk stands for all.
    zero = torch.zeros(1)
    for index, outputs, inputs in ((1, 4096, 9216), (4, 4096, 4096), (6, 1000, 4096)):
        backbone[f"classifier.{index}.weight"] = zero.expand(outputs, inputs)
        backbone[f"classifier.{index}.bias"] = zero.expand(outputs)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(backbone, tmp_path / "checkpoints" / BACKBONE)
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu")
    return backbone, linear


def test_lpips_is_its_definition(real_package):
    distance = load_lpips()
    target = data.astronaut()[:70, 150:245]
    noise = np.random.default_rng(0).normal(0, 20, target.shape)
    noisy = np.uint8(np.clip(target + noise, 0, 255))
    expected = lpips_by_definition(noisy, target, *real_package)
    assert distance(noisy, target) == pytest.approx(expected, rel=1e-4)  # computed in float32
    assert distance(target, target) == 0
    # The bound tells the order of the colours and their range apart.
    bgr = lpips_by_definition(noisy[..., ::-1], target[..., ::-1], *real_package)
    dark = lpips_by_definition(noisy // 2, target // 2, *real_package)
    assert bgr != pytest.approx(expected, rel=1e-2)
    assert dark != pytest.approx(expected, rel=1e-2)
