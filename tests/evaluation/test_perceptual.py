import sys
import types

import numpy as np
import pytest
import torch

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
