import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.flops import forward_flops


@pytest.mark.parametrize(
    ("preset", "multiply_adds"), [("derain", 141.0e9), ("denoise", 572.9e9), ("deblur", 759.4e9)]
)
def test_presets_take_the_arithmetic_of_the_published_networks(preset, multiply_adds):
    config = getattr(ModelConfig, preset)()
    # 5e-4: the published counts have one digit behind the point.
    assert forward_flops(config, 256, 256) == pytest.approx(2 * multiply_adds, rel=5e-4)
    assert forward_flops(config, 512, 128) == forward_flops(config, 256, 256)
