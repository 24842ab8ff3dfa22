"""The examples do what they say, with a network that compiles quickly."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mprnet_jax.config import ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.imageio.rgb import decode
from mprnet_jax.model import layers, mprnet
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files, parity

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = ModelConfig(stages="orsnet", width=4, unet_growth=0, orsnet_growth=2, cabs_per_orb=1)


def run(name: str, *arguments, **options) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*arguments, **options)


def write_pairs(folder: Path, size=(16, 24)) -> None:
    """Three pairs of noise, the degraded pictures half as bright."""
    for number in range(3):
        target = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        for name, image in (("input", target // 2), ("target", target)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name / f"{number}.png")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    files.write(path, TINY, pure_functions(TINY)[0](0))
    return path


def test_own_data(tmp_path: Path):
    for split in ("train", "test"):
        write_pairs(tmp_path / split)
    photo, output = tmp_path / "test/input/0.png", tmp_path / "restored.png"
    run("own_data", str(tmp_path), photo, output, model=TINY, steps=2, workdir=tmp_path / "run")
    assert decode(output).shape == (16, 24, 3)
    assert files.read(tmp_path / "run").config == TINY


def test_own_loss(tmp_path: Path):
    write_pairs(tmp_path)
    output = tmp_path / "own.safetensors"
    run("own_loss", tmp_path, output, model=TINY, steps=30)
    restored, trained = [], files.read(output)
    for params in (pure_functions(TINY)[0](0), trained.params):
        image = decode(tmp_path / "input/0.png")[None].astype(np.float32) / 255
        restored.append(np.asarray(pure_functions(TINY)[1](params, image)[0][0]))
    target = decode(tmp_path / "target/0.png") / 255
    before, after = (np.abs(image - target).mean() for image in restored)
    assert after < 0.8 * before  # as twice the brightness is soon found


def test_changed_block(weights: Path, monkeypatch, capsys):
    monkeypatch.setattr(layers, "ChannelAttention", layers.ChannelAttention)  # restored afterwards
    monkeypatch.setattr(parity, "SIZES", ((1, 16, 24),))
    forget_programs()
    run("changed_block", weights)
    assert "blocks, against the PyTorch network" in capsys.readouterr().out
    source = (EXAMPLES / "changed_block.py").read_text()
    wrong = source.replace("0.5 + 0.5", "0.4 + 0.6")
    assert wrong != source
    forget_programs()
    module = {"__name__": "wrong"}
    exec(compile(wrong, "wrong.py", "exec"), module)
    with pytest.raises(UserError, match=r"shallow_feat1\.1: is the first block that differs"):
        module["main"](weights)
    forget_programs()


def forget_programs() -> None:
    """Networks of equal configs are built once in a process."""
    mprnet._abstract_model.cache_clear()
    parity.jit_with_outputs.cache_clear()


def test_score_restored(tmp_path: Path, capsys):
    write_pairs(tmp_path)
    run("score_restored", tmp_path / "input", tmp_path / "target")
    *_, mean = capsys.readouterr().out.splitlines()
    word, *scores = mean.split()
    assert word == "mean"
    assert all(np.isfinite(float(score)) for score in scores)
    run("score_restored", tmp_path / "target", tmp_path / "target")
    assert capsys.readouterr().out.split()[-4:] == ["inf", "1.0000", "inf", "1.0000"]


def test_score_restored_pairs_names_as_training_does(tmp_path: Path, capsys):
    for number in (1, 2):
        picture = Image.fromarray(np.full((16, 24, 3), 60 * number, np.uint8))
        for folder, name in (("restored", "rainy"), ("target", "clean")):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture.save(tmp_path / folder / f"{name}_{number}.png")
    run("score_restored", tmp_path / "restored", tmp_path / "target")
    assert capsys.readouterr().out.split()[-4:] == ["inf", "1.0000", "inf", "1.0000"]


def test_restore_in_jax(weights: Path, tmp_path: Path):
    photo, output = tmp_path / "photo.png", tmp_path / "half.png"
    Image.fromarray(np.full((21, 34, 3), 128, np.uint8)).save(photo)
    run("restore_in_jax", photo, output, weights=weights)
    assert decode(output).shape == (10, 17, 3)


def test_they_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 40, path.name
