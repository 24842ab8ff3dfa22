"""The command: what users type, and what they are told."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def command(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "mprnet_jax.train", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


SAMPLE = f"--config={ROOT}/configs/derain.py:sample"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={ROOT}/configs/derain.py"], "Rain13K"),
        ([f"--config={ROOT}/configs/derain.py:sampel"], "derain.py:sampel"),
        ([f"--config={ROOT}/configs/snow.py"], "snow.py"),
        ([SAMPLE, "--config.batchsize=8"], "batchsize"),
        ([SAMPLE, "--config.batch_size=many"], "batch_size"),
        ([SAMPLE, "--config.patch_size=60"], "patch_size=60"),
        ([], "config"),
        ([SAMPLE, "extra"], "extra"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, tmp_path):
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not list(tmp_path.iterdir())


def test_help_shows_an_example():
    result = command("--help")
    assert result.returncode == 0
    assert "python -m mprnet_jax.train --config configs/derain.py:sample" in result.stdout
    assert "--workdir" in result.stdout


def test_recipe_of_the_paper(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "configs")
    config = importlib.import_module("derain").get_config()
    config.validate()
    assert config.model.width == 40
    assert (config.batch_size, config.patch_size) == (16, 256)
    assert config.total_steps == pytest.approx(214_000, rel=0.01)  # mprnet.md, section 4
    assert config.optim.warmup_steps == 3 * (13_712 // 16)
    sample = importlib.import_module("derain").get_config("sample")
    sample.validate()
    assert sample.total_steps < 1000
