"""Runs that are killed, stopped by a signal, or run out of disk."""

import errno
import functools
import itertools
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.training import monitor, setup
from mprnet_jax.weights import run_folder

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


def kill_after_a_save(process, delay):
    """Kills once a new checkpoint is there and `delay` seconds have gone."""
    process.wait_for_step(process.last_step() + 1)
    time.sleep(delay)
    process.kill()
    output = process.finish()
    assert process.returncode == -signal.SIGKILL, output


@pytest.fixture(scope="module")
def whole(start, final_hash, long_config, tmp_path_factory):
    """The hash of a run of so many steps that nothing interrupts."""

    @functools.cache
    def train(total_steps):
        workdir, config = tmp_path_factory.mktemp("whole"), long_config(total_steps)
        process = start(config, workdir)
        output = process.finish()
        assert process.last_step() == total_steps, output
        return final_hash(workdir, config)

    return train


def test_kills_at_random_moments_change_nothing(
    long_config, tmp_path, start, final_hash, whole, exhaustive, capsys
):
    random = np.random.default_rng()
    kills = 0
    long_run = long_config(500 if exhaustive else 30)
    while kills < (100 if exhaustive else 3):
        process = start(long_run, tmp_path / "killed")
        kill_after_a_save(process, random.uniform(0, 0.3))
        kills += 1
    output = start(long_run, tmp_path / "killed").finish()
    assert "Resuming from step" in output
    assert final_hash(tmp_path / "killed", long_run) == whole(long_run.total_steps)
    assert not list((tmp_path / "killed").glob("damaged-*"))
    with capsys.disabled():
        print(f" [{kills} kills]", end="")


def test_a_random_key_that_is_not_restored_would_be_noticed(
    long_run, tmp_path, start, final_hash, whole, exhaustive
):
    if not exhaustive:
        pytest.skip("tests the tests; starts two processes")
    process = start(long_run, tmp_path / "killed")
    kill_after_a_save(process, 0.0)
    other_key = "import jax; key = jax.random.key; jax.random.key = lambda seed: key(seed + 1)"
    start(long_run, tmp_path / "killed", setup=other_key).finish()
    assert final_hash(tmp_path / "killed", long_run) != whole(long_run.total_steps)


def test_a_save_killed_at_its_operations_on_files_changes_nothing(
    long_config, long_run, tmp_path, start, final_hash, whole, exhaustive, faults
):
    workdir, places = tmp_path / "killed", (60, 180, 300)
    if exhaustive:
        long_run, places = long_config(400), itertools.count(1)
        process = start(long_run, workdir)
        process.wait_for_step(6)  # so that each save deletes an old checkpoint
        process.kill()
    for at in places:
        arm = f"ctypes.CDLL(None).faults_arm(b'{workdir}/checkpoints/', {at}, 0)"
        process = start(long_run, workdir, setup=arm, LD_PRELOAD=str(faults))
        before = process.last_step()
        output = process.finish()
        assert process.returncode == -signal.SIGKILL, output
        assert "damaged" not in output
        if process.last_step() > max(before, 0) + 2:
            break  # a save has fewer operations
    start(long_run, workdir).finish()
    assert final_hash(workdir, long_run) == whole(long_run.total_steps)


def test_resumes_in_a_row_change_nothing(
    long_run, tmp_path, final_hash, monkeypatch, go_on, exhaustive
):
    resumes = 20 if exhaustive else 4
    long_run.total_steps = long_run.validate_every = resumes + 1
    run = setup.Run(long_run, tmp_path / "whole")
    go_on(run)
    run.workdir = tmp_path / "resumed"
    log = monitor.Guard.log_unreadable

    def log_and_signal(guard, batch):
        signal.raise_signal(signal.SIGTERM)
        return log(guard, batch)

    with monkeypatch.context() as patch:
        patch.setattr(monitor.Guard, "log_unreadable", log_and_signal)
        for _ in range(resumes):
            assert go_on(run) is None
    assert (tmp_path / f"resumed/checkpoints/{resumes}").is_dir()
    assert go_on(run) is not None
    assert final_hash(tmp_path / "resumed", long_run) == final_hash(tmp_path / "whole", long_run)


def test_sigterm_to_the_whole_group_saves_and_ends_with_status_0(
    long_run, tmp_path, start, final_hash, whole
):
    long_run.data.num_workers = 1  # which gets the signal too
    # A session of its own, as batch systems start and signal it.
    process = start(long_run, tmp_path / "stopped", setup="os.setsid()")
    process.wait_for_step(3)
    subprocess.run(["kill", "-TERM", "--", f"-{process.pid}"], check=True)
    output = process.finish()
    assert process.returncode == 0, output
    stopped = int(re.search(r"Stopped after step (\d+)", output)[1])
    assert process.last_step() == stopped < long_run.total_steps
    start(long_run, tmp_path / "stopped").finish()
    assert final_hash(tmp_path / "stopped", long_run) == whole(long_run.total_steps)


def test_a_full_disk_ends_the_run_and_keeps_what_was_there(short_run, tmp_path, start):
    short_run.validate_every = 6
    workdir = tmp_path / "run"
    # Files of 30 kB at most: enough for the config and curves, not for the arrays.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))"
    process = start(short_run, workdir)
    kill_after_a_save(process, 0.0)
    before = process.last_step()
    process = start(short_run, workdir, setup=limit)
    output = process.finish()
    assert process.returncode == 2, output
    assert "a checkpoint cannot be written" in output.strip().splitlines()[-1]
    assert "Traceback" not in output, output
    assert before in process.saved_steps()
    run_folder.read(workdir)


@pytest.mark.parametrize("error", ERRORS)
def test_each_write_that_fails_ends_the_run_with_one_line(
    short_run, tmp_path, start, faults, exhaustive, error
):
    short_run.total_steps = 4
    # Config, event file, checkpoints, picture; the last operation depends on threads.
    number = ERRORS.index(error)
    for at in range(1 + number, 1000, 3) if exhaustive else ((1, 8), (4,), (60,))[number]:
        workdir = tmp_path / f"run{at}"
        arm = f"ctypes.CDLL(None).faults_arm(b'{workdir}', {at}, {error})"
        process = start(short_run, workdir, setup=arm, LD_PRELOAD=str(faults))
        output = process.finish()
        if exhaustive and process.returncode == 0:
            break  # it has fewer operations
        assert process.returncode == 2, output
        assert "UserError: " in output.strip().splitlines()[-1]
        assert "Traceback" not in output, output
        if process.saved_steps():
            run_folder.read(workdir)


DEFECT_IN_SAVING = """
from mprnet_jax.weights import store
def finalize(handler, directory):
    raise TypeError("a defect")
store.TreeHandler.finalize = finalize
"""
DEFECT_IN_LOADING = """
from mprnet_jax.weights import checkpoints
def unpack(vectors, shapes):
    raise AttributeError("a defect")
checkpoints.unpack = unpack
"""


def test_a_defect_in_checkpoints_keeps_its_traceback_and_touches_none(short_run, tmp_path, start):
    short_run.total_steps = short_run.validate_every = 4
    process = start(short_run, tmp_path, setup=DEFECT_IN_SAVING)
    output = process.finish()
    assert process.returncode == 1, output
    assert "TypeError: a defect" in output
    assert "Traceback" in output
    assert process.saved_steps() == []

    assert start(short_run, tmp_path).finish()
    steps = process.saved_steps()
    assert steps
    process = start(short_run, tmp_path, setup=DEFECT_IN_LOADING)
    output = process.finish()
    assert process.returncode == 1, output
    assert "AttributeError: a defect" in output
    assert "Traceback" in output
    assert process.saved_steps() == steps
    assert not list(tmp_path.glob("damaged-*"))


def test_pictures_that_cannot_be_read_end_the_run_when_they_are_many(short_run, tmp_path, go_on):
    rng = np.random.default_rng(0)
    from PIL import Image

    for part in ("train", "more", "test"):
        for i in range(8):
            for role in ("input", "target"):
                path = tmp_path / "data" / part / role / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    short_run.data.source, short_run.data.root = "folders", str(tmp_path / "data")
    short_run.data.train = "train:2,more"  # 8 and 4 of the 12 examples of the run
    short_run.data.max_unreadable = 0.3
    (tmp_path / "data/train/input/5.png").write_bytes(b"no picture")
    run = setup.Run(short_run, tmp_path / "a")
    first = go_on(run)
    run.workdir = tmp_path / "b"
    again = go_on(run)
    np.testing.assert_array_equal(first.psnr, again.psnr)
    run.workdir = tmp_path / "c"
    short_run.data.max_unreadable = 0.0
    with pytest.raises(UserError, match=r"1 reads of pictures failed, more than .* of \d+"):
        go_on(run)
