"""The command: what users type and what they see."""

import functools
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mprnet_jax.data.mixes import training_shares
from mprnet_jax.errors import UserError
from mprnet_jax.training.optimizer import schedule

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(run_python, tmp_path):
    return functools.partial(run_python, "-m", "mprnet_jax.train", cwd=tmp_path)


SAMPLE = f"--config={ROOT}/configs/derain.py:sample"
TWO = ("--distributed", "--num_processes=2", "--process_id=0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={ROOT}/configs/derain.py"], "Rain13K"),
        ([f"--config={ROOT}/configs/denoise.py"], "mprnet_jax.prepare"),
        ([f"--config={ROOT}/configs/derain.py:sampel"], "derain.py:sampel"),
        ([f"--config={ROOT}/configs/snow.py"], "snow.py"),
        ([SAMPLE, "--config.batchsize=8"], "batchsize"),
        ([SAMPLE, "--config.batch_size=many"], "batch_size"),
        ([SAMPLE, "--config.patch_size=60"], "patch_size=60"),
        ([], "--config: required, see --help"),
        (
            [f"--config={ROOT}/configs/deblur.py:realblur_r", "--config.data.train=a,b/c:0"],
            "data.train='a,b/c:0': the share of b/c is '0'",
        ),
        ([SAMPLE, "extra"], "extra"),
        ([SAMPLE, *TWO, "--coordinator=host"], "--coordinator=HOST:PORT"),
        ([SAMPLE, "--num_processes=2"], "need --distributed"),
        ([SAMPLE, "--workdir=gs://bucket/run"], "--workdir=gs://bucket/run: is no path"),
        ([SAMPLE, "--config.data.root=gs://bucket"], "root=gs://bucket: is no path"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(command, arguments, message, tmp_path):
    result = command(*arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("STEPS = 1 / 0", "mine.py, line 1: ZeroDivisionError: division by zero"),
        ("def get_config():\n    return int('x')", "mine.py, line 2: ValueError: invalid literal"),
        (
            "def get_config():\n    import json\n    json.loads('x')",
            "mine.py, line 3: JSONDecodeError: Expecting value",
        ),
        ("def get_config(): open('seed.txt')", "No such file or directory: 'seed.txt'"),
        ("def get_configuration(): pass", "has no attribute 'get_config'"),
        ("def get_config(): return {'a': 1}", "mine.py: returns no TrainConfig"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_and_status_2(command, text, message, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    result = command("--config=mine.py")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_debug_shows_the_traceback_of_a_mistake(command):
    result = command(SAMPLE, "--config.patch_size=60", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert "patch_size=60" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["TypeError", "AttributeError", "KeyError", "RuntimeError"])
@pytest.mark.parametrize(
    "place",
    ["mprnet_jax.config:ModelConfig.validate", "ml_collections.config_flags.config_path:get_type"],
)
def test_a_defect_while_flags_are_parsed_keeps_its_traceback(run_python, kind, place, tmp_path):
    module, name = place.split(":")
    code = (
        f"import runpy, {module} as module\n"
        "def broken(*args, **kwargs):\n"
        f"    raise {kind}('planted')\n"
        f"module.{name} = broken\n"
        "runpy.run_module('mprnet_jax.train', run_name='__main__', alter_sys=True)\n"
    )
    result = run_python("-c", code, SAMPLE, "--config.batch_size=8", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "Traceback" in result.stderr
    assert "planted" in result.stderr


@pytest.mark.parametrize(("flag", "level"), [([], "-1"), (["--verbosity=0"], "0"), (["-v=1"], "1")])
def test_the_users_verbosity_is_kept(run_python, flag, level):
    code = (
        "from absl import logging\n"
        "from mprnet_jax import command\n"
        "command.run(lambda: print(logging.get_verbosity()))\n"
    )
    assert run_python("-c", code, *flag).stdout.strip() == level


def test_help_shows_an_example():
    command = [sys.executable, "-m", "mprnet_jax.train", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0
    assert "python -m mprnet_jax.train --config configs/derain.py:sample" in result.stdout
    assert "--workdir" in result.stdout
    assert "--debug" in result.stdout or "--[no]debug" in result.stdout


@pytest.mark.parametrize(
    ("task", "width", "patch", "steps", "epochs"),
    [
        ("derain", 40, 256, 214_000, 250),
        ("deblur", 96, 256, 396_000, 3000),
        ("denoise", 80, 128, 480_000, 80),
    ],
)
def test_recipes_of_the_paper(task, width, patch, steps, epochs):
    get_config = runpy.run_path(str(ROOT / f"configs/{task}.py"))["get_config"]
    config = get_config()
    config.validate()
    assert config.model.width == width
    assert (config.batch_size, config.patch_size) == (16, patch)
    assert config.total_steps == pytest.approx(steps, rel=0.002)
    assert config.optim.warmup_steps == 3 * config.total_steps / epochs
    # The learning rate ends at 1e-6; denoising stops before that.
    last = float(schedule(config.optim, config.total_steps)(config.total_steps))
    assert last == pytest.approx(5.5e-5 if task == "denoise" else 1e-6, rel=0.05)
    # What only one of the tasks does.
    assert config.data.saturation == (task == "deblur")
    denoise = (5 * 6000, 1e-8, 0, True) if task == "denoise" else (0, 0, 0.05, False)
    assert denoise == (
        config.data.mixup_from_step,
        config.optim.weight_decay,
        config.loss.edge_weight,
        config.loss.clip,
    )

    if task == "deblur":
        for folder in ("RealBlur_R", "RealBlur_J"):
            mixed = get_config(folder.lower())
            mixed.validate()
            sets = {"GoPro/train", "BSD_B/train", f"{folder}/train"}
            assert training_shares(mixed.data) == dict.fromkeys(sets, 1)
            assert mixed.optim.warmup_steps == 3 * mixed.total_steps / 100

    sample = get_config("sample")
    sample.validate()
    assert sample.total_steps < 1000
    assert sample.loss == config.loss
    with pytest.raises(UserError, match=f"{task}.py:sampel"):
        get_config("sampel")


PLANTED = """
import runpy, sys
from mprnet_jax.training import setup

build, calls = setup.build_train_step, []


def build_planted(*arguments):
    init_state, step = build(*arguments)

    def planted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise {error}("planted")
        return step(*arguments)

    return init_state, planted


setup.build_train_step = build_planted
sys.argv = ["train", *sys.argv[1:]]
runpy.run_module("mprnet_jax.train", run_name="__main__", alter_sys=True)
"""
TINY = ("model.width=4", "model.orsnet_growth=3", "model.cabs_per_orb=1", "model.stages=orsnet")
TINY += ("batch_size=1", "patch_size=16", "validation_crop=32", "checkpoint_every=1")


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory):
    """A folder for the programs of all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("error", ["TypeError", "AttributeError"])
def test_a_defect_in_the_step_keeps_its_traceback_and_all_checkpoints(
    error, tmp_path, run_python, compile_cache
):
    result = run_python(
        *("-c", PLANTED.format(error=error)),
        *(SAMPLE, f"--workdir={tmp_path}/run", *(f"--config.{flag}" for flag in TINY)),
        JAX_COMPILATION_CACHE_DIR=str(compile_cache),
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback (most recent call last)" in result.stderr
    assert f"{error}: planted" in result.stderr
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"1", "2"}
    assert not list((tmp_path / "run").glob("damaged-*"))
