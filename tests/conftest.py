"""Fixtures and settings that all tests share."""

import jax
import pytest

from mprnet_jax.config import DataConfig, MeshConfig, ModelConfig, OptimConfig, TrainConfig

# Eight devices on the CPU, for meshes; what names no mesh runs on the first.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session", autouse=True)
def _compile_cache(tmp_path_factory):
    """What several tests compile is compiled once, and nothing is left in the user's cache."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compile_cache")))


@pytest.fixture
def tiny_model() -> ModelConfig:
    """The smallest network with all parts and different widths at all levels."""
    return ModelConfig(width=4, unet_growth=2, orsnet_growth=3, cabs_per_orb=1)


@pytest.fixture
def tiny_run(tiny_model) -> TrainConfig:
    """A run of a few seconds on the embedded sample."""
    return TrainConfig(
        name="tiny",
        model=tiny_model,
        data=DataConfig(source="sample_rain"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
        mesh=MeshConfig(data=1),
        total_steps=6,
        batch_size=2,
        patch_size=16,
        validation_crop=32,
        checkpoint_every=2,
        validate_every=3,
        log_every=1,
    )
