import dataclasses

import pytest

from mprnet_jax.config import MAX_PATCH, PUBLISHED, ModelConfig, flatten
from mprnet_jax.errors import UserError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patch_size", 60),
        ("patch_size", 0),
        ("patch_size", MAX_PATCH + 8),
        ("validation_crop", 100),
        ("total_steps", 0),
        ("batch_size", 0),
        ("log_every", 0),
        ("loss.laplacian", "sobel"),
        ("data.source", "nowhere"),
        ("data.mixup_from_step", -1),
        ("optim.warmup_steps", 6),
        ("optim.weight_decay", -1e-8),
        ("optim.ema_decay", 1.0),
        ("optim.spike_factor", 0.5),
        ("optim.max_skipped", 0),
        ("optim.learning_rate", 0.0),
        ("optim.decay_steps", -1),
        ("data.num_workers", -1),
        ("seed", -1),
        ("accumulate", 3),
        ("profile_steps", -1),
        ("data.max_unreadable", -0.1),
        ("data.max_unreadable", 1.5),
        ("loss.edge_weight", -0.05),
        ("optim.final_learning_rate", -1e-6),
        ("model.remat", "all"),
        ("model.dtype", "float16"),
        ("model.width", 2),
        ("model.orsnet_growth", -1),
    ],
)
def test_senseless_values_are_reported_with_their_field(tiny_run, field, value):
    tiny_run.validate()
    owner, name = tiny_run, field
    if "." in field:
        part, name = field.split(".")
        owner = getattr(tiny_run, part)
    setattr(owner, name, value)
    with pytest.raises(UserError, match=rf"{field}={value!r}"):
        tiny_run.validate()


def test_a_warmup_beyond_the_run_names_its_flag(tiny_run):
    tiny_run.optim.warmup_steps = tiny_run.total_steps
    with pytest.raises(UserError, match=r"pass a smaller --config\.optim\.warmup_steps"):
        tiny_run.validate()


def test_photos_need_a_degradation(tiny_run):
    tiny_run.data.source = "photos"
    with pytest.raises(UserError, match=r"data\.degradation='': for data.source=photos, use rain"):
        tiny_run.validate()
    tiny_run.data.degradation = "blind_noise"
    tiny_run.validate()


def test_model_config_refuses_at_once():
    with pytest.raises(UserError, match=r"model\.width=0"):
        ModelConfig(width=0)


def test_published_networks_are_known_by_their_sizes(tiny_model):
    assert ModelConfig(40, 40, 32, dtype="bfloat16", remat="cab").published_name == "deblur_light"
    assert ModelConfig(40, 20, 16, cabs_per_orb=7).published_name == ""
    names = [config.published_name for config in PUBLISHED.values()]
    assert names == list(PUBLISHED) == ["derain", "denoise", "deblur", "deblur_light"]
    assert tiny_model.published_name == ""


def test_level_widths():
    assert ModelConfig.derain().level_widths == (40, 60, 80)


def test_flatten_names_all_fields_and_can_leave_the_changeable_ones_out(tiny_run):
    everything, fixed_only = flatten(tiny_run), flatten(tiny_run, fixed_only=True)
    assert everything["model.width"] == 4
    assert everything["data.root"] == ""
    assert set(everything) - set(fixed_only) == {
        "name",
        "data.published",
        "data.root",
        "data.num_workers",
        "data.max_unreadable",
        "model.remat",
        "optim.max_skipped",
        "accumulate",
        "profile_steps",
        "mesh.data",
        "mesh.height",
        "checkpoint_every",
        "validate_every",
        "log_every",
        "note",
    }
    assert dataclasses.asdict(tiny_run)["model"]["width"] == 4
