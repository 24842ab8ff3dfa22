import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training import loop
from mprnet_jax.weights import files
from mprnet_jax.weights.checkpoints import load_params

# Trains the run of the fixture `tiny_run`, whose config comes as JSON.
SCRIPT = """
import json, sys
from mprnet_jax.config import *
from mprnet_jax.training.loop import train
fields = json.loads(sys.argv[1])
for name, kind in dict(model=ModelConfig, data=DataConfig, loss=LossConfig, optim=OptimConfig,
                       mesh=MeshConfig).items():
    fields[name] = kind(**fields[name])
train(TrainConfig(**fields), sys.argv[2])
"""


def start(config, workdir, cache):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(dataclasses.asdict(config)), str(workdir)],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def final_hash(workdir, config):
    """Of all arrays in the last checkpoint, by the record that was saved with it."""
    record = workdir / f"checkpoints/{config.total_steps}/record/metadata"
    return json.loads(record.read_text())["sha256"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_a_run_leaves_checkpoints_curves_and_pictures(tiny_run, tmp_path, capsys):
    result = loop.train(tiny_run, tmp_path)
    printed = capsys.readouterr()
    assert "| astronaut" in printed.out
    assert "sam12/gate/kernel" in printed.out  # the parameter table
    assert "6/6" in printed.err
    assert "images/s" in printed.err
    assert result.psnr.shape == (4, 2)

    steps = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert {4, 6} <= steps <= {3, 4, 6}  # the newest two and the best
    model, params = load_params(tmp_path)
    assert model == tiny_run.model
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))

    events = b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))
    names = ("loss", "loss_stage1", "gradient_norm", "learning_rate", "images_per_second")
    for name in (*names, "validation_psnr/stage3", "validation_psnr/degraded"):
        assert name.encode() in events
    with Image.open(tmp_path / "before_after.png") as sheet:
        assert sheet.width > 3 * tiny_run.validation_crop

    # The same command again says that all is done, and shows the result.
    again = loop.train(tiny_run, tmp_path)
    assert "finished: 6 steps" in capsys.readouterr().out
    np.testing.assert_array_equal(again.psnr, result.psnr)


def test_kill_9_and_resume_end_bit_identical(tiny_run, tmp_path, cache):
    tiny_run.total_steps, tiny_run.checkpoint_every, tiny_run.validate_every = 12, 3, 12
    tiny_run.data.mixup_from_step = 2  # what is drawn on the device must continue, too
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    output, _ = start(tiny_run, whole, cache).communicate()
    assert (whole / "checkpoints/12").is_dir(), output

    process = start(tiny_run, killed, cache)
    while not any((killed / f"checkpoints/{step}").is_dir() for step in (3, 6, 9)):
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "checkpoints/12").exists()

    output, _ = start(tiny_run, killed, cache).communicate()
    assert "Resuming from step" in output
    assert final_hash(killed, tiny_run) == final_hash(whole, tiny_run)


def test_another_config_is_refused_with_the_field_that_differs(tiny_run, tmp_path):
    run = loop.Run(tiny_run, tmp_path)
    run.claim_workdir()
    tiny_run.log_every = 5  # free to change
    loop.check_same_run(tmp_path, tiny_run)
    tiny_run.optim.learning_rate = 5e-4
    with pytest.raises(UserError, match=r"optim\.learning_rate=0\.001, .*=0\.0005"):
        loop.check_same_run(tmp_path, tiny_run)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tiny_run, tmp_path):
    tiny_run.optim.learning_rate = 1e30
    tiny_run.optim.warmup_steps = 0
    with pytest.raises(UserError, match=r"step [2-5]: the loss is (nan|inf)"):
        loop.train(tiny_run, tmp_path)
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert all(step < 6 for step in steps)


def test_fine_tuning_starts_from_weights_of_the_same_network(tiny_run, tmp_path):
    path = tmp_path / "start.safetensors"
    params = pure_functions(tiny_run.model)[0](seed=7)
    files.write(path, tiny_run.model, params)
    tiny_run.init_from = str(path)
    start = loop.Run(tiny_run, tmp_path / "run").fresh()
    jax.tree.map(np.testing.assert_array_equal, start.params, params)

    tiny_run.model.orsnet_growth = 5
    with pytest.raises(UserError, match=r"init_from=.*orsnet_growth=3.*--config.model.orsnet"):
        loop.Run(tiny_run, tmp_path / "run")


def test_workdir_that_is_a_file_is_told(tiny_run, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(UserError, match="cannot be made a folder"):
        loop.Run(tiny_run, path).claim_workdir()


def test_things_happen_when_due():
    happens = [step for step in range(10, 26) if loop.due(step, 6, first=12, last=25)]
    assert happens == [18, 24, 25]
