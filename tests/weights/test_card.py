"""What may be published, and what is told of it."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from mprnet_jax.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import card, files
from mprnet_jax.weights.card import NOT_STATED, licence_of
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints
from mprnet_jax.weights.files import WeightFile
from mprnet_jax.weights.names import name_table
from mprnet_jax.weights.run_folder import Trained, write_config
from mprnet_jax.weights.safetensors import LICENCE

TINY = ModelConfig(width=4, unet_growth=0, orsnet_growth=2, cabs_per_orb=1, stages="orsnet")
ADDRESS = "hf://someone/derain"


def weights(source="w.pth", licence=None, init_from=None) -> tuple[WeightFile, Trained | None]:
    """Weights with a licence note, if any, and of a run if it says what that started from."""
    origin = {"source": source} | ({"licence": licence} if licence else {})
    trained = None if init_from is None else Trained({"init_from": init_from}, 6, 30.0)
    return WeightFile(TINY, {}, origin), trained


@pytest.mark.parametrize(
    ("found", "stated", "licence"),
    [
        (weights(init_from=""), None, NOT_STATED),
        (weights(init_from=""), "MIT", "MIT"),
        (weights(init_from="derain"), None, NOT_STATED),
        (weights(init_from="/data/own"), "MIT", "MIT"),
        (weights(), "MIT", "MIT"),
        (weights(licence="Apache-2.0"), None, "Apache-2.0"),
        (weights(licence="Apache-2.0"), "Apache-2.0", "Apache-2.0"),
        (weights(licence=NOT_STATED), "MIT", "MIT"),
    ],
)
def test_what_may_be_published_and_how(found, stated, licence):
    assert licence_of(*found, stated) == licence


@pytest.mark.parametrize(
    ("found", "stated", "message"),
    [
        (weights("model_deraining.pth"), "MIT", "come from the authors' model_deraining.pth"),
        (weights("model_denoising.pth", "MIT"), None, "come from the authors' model_denoising"),
        (weights(init_from="~/x/model_deblurring.pth"), "MIT", "the authors' model_deblurring"),
        (weights(licence=LICENCE), None, "its licence note says: .* non-commercial"),
        (weights(licence=LICENCE), "MIT", "its licence note says: .* non-commercial"),
        (weights(licence="Apache-2.0"), "MIT", "--licence=MIT: the note in w.pth says Apache"),
        (weights(), None, "has no licence note; .* say under which licence with --licence"),
        (weights(licence=NOT_STATED), None, "has no licence note; .*--licence"),
        (weights(init_from="/secret/other"), None, "was trained from other; .*--licence"),
    ],
)
def test_what_may_not(found, stated, message):
    with pytest.raises(UserError, match=message) as caught:
        licence_of(*found, stated)
    assert "secret" not in str(caught.value)


def test_official_weights_stay_official_when_they_are_converted(tmp_path):
    """Also where somebody gave them another licence on the way."""
    path = tmp_path / "mine.safetensors"
    origin = {"source": "model_deraining.pth", "licence": "MIT"}
    files.write(path, TINY, pure_functions(TINY)[0](0), origin)
    with pytest.raises(UserError, match="the authors' model_deraining"):
        licence_of(*files.read_with_training(path), "MIT")


@pytest.fixture
def run(tmp_path):
    """A run folder of two checkpoints, of which the first has the higher score."""
    config = TrainConfig(
        name="secret-name",
        model=TINY,
        data=DataConfig(
            root="/secret/root", train="GoPro/train:2,/secret/a/mine:1", validation="~/secret/val"
        ),
        optim=OptimConfig(learning_rate=3e-4),
        total_steps=2,
        init_from="../secret/start",
        note="secret",
    )
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, config)
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            params = pure_functions(TINY)[0](step)
            checkpoints.save(Checkpoint(step, params, {"moments": np.zeros(3)}, {}))
            checkpoints.set_score(step, 31.25 - step)
    return folder


def test_the_card_of_a_run(run):
    found = files.read_with_training(run)
    text = card.model_card(ADDRESS, *found, "Apache-2.0", "stage 1 agrees").decode()
    assert text.startswith("---\nlibrary_name: mprnet_jax\nlicense: apache-2.0\n")
    for part in (
        f'mprnet_jax.load("{ADDRESS}")',
        "| stages ",
        "step 1. Held-out score: 30.25 dB",
        "pixels of the set `val`",
        "`GoPro/train:2,mine:1`",
        "| optim.learning_rate ",
        "`0.0003`",
        "| init_from ",
        "`start`",
        "stage 1 agrees",
    ):
        assert part in text
    config = json.loads(card.config_json(*found))
    assert ModelConfig(**config["model"]) == TINY
    assert config["recipe"]["optim.learning_rate"] == 3e-4
    assert config["recipe"]["loss.edge_weight"] == 0.05
    assert "secret" not in text + json.dumps(config)


def test_the_card_of_a_file_and_of_a_run_without_a_score():
    text = card.model_card(ADDRESS, *weights("old.pth"), NOT_STATED, "").decode()
    assert "converted from `old.pth`" in text
    assert "license" not in text.split("---")[1]
    assert f"## Licence\n\n{NOT_STATED}" in text
    unscored, _ = weights(init_from="")
    trained = Trained({}, 3, -math.inf)
    text = card.model_card(ADDRESS, unscored, trained, "My own 2.0", "").decode()
    assert "step 3. The weights were not validated." in text
    assert "license: other\nlicense_name: my-own-2.0\n" in text


def test_all_sizes_are_told():
    sizes = card.sizes(weights()[0])
    names = {field.name for field in dataclasses.fields(ModelConfig)} - {"dtype", "remat"}
    assert all(f"| {name} " in sizes for name in names)
    count = sum(leaf.size for leaf in jax.tree.leaves(pure_functions(TINY)[0](0)))
    (row,) = (line for line in sizes.splitlines() if line.startswith("| parameters "))
    assert f"`{count:,}`" in row


def test_what_is_published_is_what_is_loaded(hub, run, monkeypatch):
    """The whole command, from a run folder to the Hub and back."""
    from absl import flags
    from absl.testing import flagsaver

    from mprnet_jax import convert

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["convert"])
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with flagsaver.flagsaver(input=str(run), output=ADDRESS, licence="MIT"):
        convert.main()
    commit, contents = hub.files("someone/derain")
    assert contents.keys() == {"model.safetensors", "config.json", "README.md"}
    text = contents["README.md"].decode()
    assert "blocks, against the PyTorch network in this package: at most" in text
    ours, back = files.read_official(run), files.read_official(f"{ADDRESS}@{commit}")
    assert ours.keys() == back.keys()
    assert all(ours[name].tobytes() == back[name].tobytes() for name in ours)
    assert files.read(ADDRESS).origin == {"source": "run", "licence": "MIT"}
    # Of a lone ORSNet the tensors tell the sum of both widths only.
    assert name_table(files.read(ADDRESS).config) == name_table(TINY)
