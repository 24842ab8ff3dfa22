"""Runs whose workdir is in a bucket: the same bytes as on a disk, whatever ends them."""

import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mprnet_jax import paths
from mprnet_jax.config import MeshConfig, ModelConfig
from mprnet_jax.errors import UserError
from mprnet_jax.training import monitor, setup
from mprnet_jax.weights import run_folder

TIMEOUT = 300  # seconds
TIMES = ("images_per_second", "model_tflops")  # curves that no two runs share


@pytest.fixture
def run_config(long_config):
    """Makes runs of a network that compiles in seconds."""

    def make(total_steps=8):
        config = long_config(total_steps)
        config.model = ModelConfig(
            width=4, unet_growth=0, orsnet_growth=2, cabs_per_orb=1, stages="orsnet"
        )
        return config

    return make


@pytest.fixture
def saved_steps(emulator):
    """Lists the steps of a workdir that are complete, without asking the server."""

    def complete(workdir):
        key = re.escape(workdir.removeprefix("gs://bucket/"))
        steps = re.compile(rf"{key}/checkpoints/(\d+)/commit_success.txt")
        return [int(match[1]) for match in map(steps.fullmatch, keys()) if match]

    def keys():
        with emulator.lock:
            return list(emulator.storage.objects.get("bucket", ()))

    return complete


@pytest.fixture
def wait_for_step(saved_steps):
    """Waits until a process has saved a step or a later one."""

    def wait(process, workdir, step):
        deadline = time.monotonic() + TIMEOUT
        while max(saved_steps(workdir), default=-1) < step:
            assert process.returncode is None, process.finish()
            assert time.monotonic() < deadline, process.finish()
            time.sleep(0.01)

    return wait


def stop_after_each_step(monkeypatch):
    log = monitor.Guard.log_unreadable

    def log_and_signal(guard, batch):
        signal.raise_signal(signal.SIGTERM)
        return log(guard, batch)

    monkeypatch.setattr(monitor.Guard, "log_unreadable", log_and_signal)


def test_sigterms_and_resumes_in_a_row_change_nothing(
    run_config, tmp_path, bucket, final_hash, monkeypatch, go_on, exhaustive
):
    resumes = 20 if exhaustive else 1
    config = run_config(resumes + 1)
    run = setup.Run(config, tmp_path)
    whole = go_on(run)
    run.workdir = paths.anywhere(bucket)
    with monkeypatch.context() as patch:
        stop_after_each_step(patch)
        for step in range(1, resumes + 1):
            assert go_on(run) is None
            assert (run.workdir / f"checkpoints/{step}/commit_success.txt").exists()
    np.testing.assert_array_equal(go_on(run).psnr, whole.psnr)
    assert final_hash(run.workdir, config) == final_hash(tmp_path, config)
    for name in ("config.json", "before_after.png"):
        assert (run.workdir / name).read_bytes() == (tmp_path / name).read_bytes()

    def scores(workdir):
        return (workdir / "scores.json").read_text()

    assert scores(run.workdir) == scores(tmp_path)
    assert curves(run.workdir, tmp_path / "copy") == curves(tmp_path, tmp_path / "copy")
    config.seed += 1
    with pytest.raises(UserError, match=f"workdir {bucket}: belongs to a run with seed"):
        run.claim_workdir()


def curves(workdir, folder: Path):
    """The points of a run's curves of TensorBoard."""
    from benchmarks.curves import read_curves

    folder.mkdir(exist_ok=True)
    for file in workdir.glob("events.out.tfevents.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    found = read_curves(folder)
    for file in folder.iterdir():
        file.unlink()
    return {name: points for name, points in found.items() if name not in TIMES}


def test_kills_at_random_moments_change_nothing(
    run_config, tmp_path, bucket, start, final_hash, wait_for_step, saved_steps, exhaustive, capsys
):
    random = np.random.default_rng()
    config = run_config(300 if exhaustive else 8)
    kills = 50 if exhaustive else 1
    for _ in range(kills):
        process = start(config, bucket)
        wait_for_step(process, bucket, max(saved_steps(bucket), default=-1) + 1)
        time.sleep(random.uniform(0, 1.5 if exhaustive else 0.3))
        process.kill()
        output = process.finish()
        assert process.returncode == -signal.SIGKILL, output
    output = start(config, bucket).finish()
    assert "Resuming from step" in output
    output = start(config, tmp_path).finish()
    assert final_hash(paths.anywhere(bucket), config) == final_hash(tmp_path, config), output
    assert not list(paths.anywhere(bucket).glob("damaged-*"))
    with capsys.disabled():
        print(f" [{kills} kills]", end="")


def test_two_hosts_share_a_bucket_and_nothing_else(
    run_config, tmp_path, bucket, start_two, saved_steps, final_hash, exhaustive
):
    config = run_config(6)
    config.mesh = MeshConfig()

    def train(workdir):
        cache = {
            "JAX_COMPILATION_CACHE_DIR": f"{workdir}/compiled",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.02",
        }
        processes = start_two(config, workdir, devices=1, **cache)
        outputs = [process.finish() for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs[0][-1500:]
        return outputs[0]

    for total in (4, 6) if exhaustive else (4,):
        config.total_steps = total
        output = train(bucket)
        assert max(saved_steps(bucket)) == total
    assert "Resuming from step 4" in output or not exhaustive
    folder = paths.anywhere(bucket)
    assert any(path.name.startswith("jit_step") for path in (folder / "compiled").iterdir())
    assert not list(folder.glob(".seen*"))
    run_folder.read(folder)
    if exhaustive:
        train(tmp_path)
        assert final_hash(folder, config) == final_hash(tmp_path, config)


def test_a_bucket_that_vanishes_ends_the_run_with_one_line(
    run_config, bucket, start, wait_for_step, saved_steps, emulator
):
    config = run_config(10_000)
    process = start(config, bucket, setup=IMPATIENT)
    wait_for_step(process, bucket, 2)
    emulator.fault = lambda *_: "gone"
    output = process.finish()
    assert process.returncode == 2, output
    assert "Traceback" not in output, output
    assert f"UserError: {bucket}" in output.strip().splitlines()[-1]
    emulator.clear()
    run_folder.read(paths.anywhere(bucket))


IMPATIENT = """
import asyncio
from mprnet_jax.compat import orbax
async def sleep(seconds, wait=asyncio.sleep):
    await wait(min(seconds, 0.1))
asyncio.sleep = sleep
orbax.RETRIES |= {"max_retries": 2, "initial_delay": "10ms", "max_delay": "20ms"}
"""
