"""Runs of several processes, which train as one and end together."""

import errno
import re
import shutil
import subprocess
import time

import numpy as np
import pytest

from benchmarks.curves import read_curves
from mprnet_jax.config import MeshConfig
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import run_folder
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints
from mprnet_jax.weights.run_folder import write_config

CANNOT_READ_4 = """
from mprnet_jax.weights.checkpoints import Checkpoints
load = Checkpoints._load
def cannot_read_4(checkpoints, step, *rest):
    if step == 4:
        raise OSError("Stale file handle")
    return load(checkpoints, step, *rest)
Checkpoints._load = cannot_read_4
"""


# JAX looks for a signal once a second only.
SLOW = """
import time
from mprnet_jax.training.guard import Guard
log = Guard.log_unreadable
def log_slowly(guard, batch):
    time.sleep(0.2)
    return log(guard, batch)
Guard.log_unreadable = log_slowly
"""


# This process compiles the training step later than the other.
LATE = """
import time
from mprnet_jax.training import setup
compile_step = setup.Run.compile_step
def compile_late(run, state, batch):
    train_step = run.train_step
    def lower(*arguments):
        time.sleep({seconds})
        return train_step.lower(*arguments)
    run.train_step = type("Late", (), {{"lower": staticmethod(lower)}})
    compile_step(run, state, batch)
setup.Run.compile_step = compile_late
"""


def gone(output):
    """Whether a process has said that it lost another one."""
    return "another process of this run is gone" in output or "another task died" in output


def losses(workdir):
    """By step, from the event files."""
    return read_curves(workdir)["loss"]


def test_two_processes_train_as_one_and_read_each_others_checkpoints(
    short_run, tmp_path, start, start_two, exhaustive
):
    # Each process has bands of rows of all images.
    short_run.batch_size, short_run.total_steps = 2, 4
    short_run.mesh = MeshConfig(data=1, height=4)
    short_run.data.mixup_from_step = 2
    devices = "jax.config.update('jax_num_cpu_devices', 4)"
    one, two, mixed = tmp_path / "one", tmp_path / "two", tmp_path / "mixed"

    process = start(short_run, one, setup=devices)
    output = process.finish()
    assert process.last_step() == 4, output
    late = LATE.format(seconds=40 if exhaustive else 0)  # Gloo waits for 30
    processes = start_two(short_run, two, main=late)
    outputs = [process.finish() for process in processes]
    assert processes[0].last_step() == 4, outputs
    expected, found = losses(one), losses(two)
    assert expected.keys() == found.keys() == {1, 2, 3, 4}
    for step, loss in expected.items():
        # 1e-5: sums over devices run in another order, and four steps carry that on.
        assert found[step] == pytest.approx(loss, rel=1e-5)

    # Each layout goes on from the other's checkpoint.
    layouts = [
        # What one host cannot read, all pass over.
        (one, lambda workdir: start_two(short_run, workdir, main=CANNOT_READ_4)),
        (two, lambda workdir: [start(short_run, workdir, setup=devices)]),
    ]
    for first, rest in layouts if exhaustive else layouts[:1]:
        workdir = mixed / first.name
        shutil.copytree(first, workdir)
        if first == two:
            shutil.rmtree(workdir / "checkpoints/4")
        for path in workdir.glob("events.out.tfevents.*"):
            path.unlink()
        processes = rest(workdir)
        outputs = [process.finish() for process in processes]
        assert "Resuming from step 3" in outputs[0]
        assert processes[0].last_step() == 4, outputs
        assert losses(workdir).keys() == {4}
        assert losses(workdir)[4] == pytest.approx(expected[4], rel=1e-5)


def test_rows_over_hosts_train_for_long(short_run, tmp_path, start_two, exhaustive, capsys):
    if not exhaustive:
        pytest.skip("takes half an hour")
    short_run.total_steps = short_run.validate_every = short_run.checkpoint_every = 200
    short_run.mesh = MeshConfig(data=1, height=4)
    for number in range(10):
        processes = start_two(short_run, tmp_path / str(number))
        while processes[0].last_step() < 200 and processes[0].returncode is None:
            time.sleep(1)
        outputs = [process.finish() for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert losses(tmp_path / str(number)) == losses(tmp_path / "0")
        with capsys.disabled():
            print(f" [{number + 1} times 200 steps]", end="", flush=True)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_lost_ends_the_others_with_a_message(long_run, tmp_path, start_two, lost):
    long_run.total_steps = 10_000
    long_run.mesh = MeshConfig()
    # A device each: of two devices on one CPU, the one that meets the loss first goes on, and gloo
    # ends the process at the other's message, before JAX can say why.
    processes = start_two(long_run, tmp_path, devices=1)
    processes[0].wait_for_step(4)
    processes[lost].kill()
    other = processes[1 - lost]
    output = other.finish()
    assert other.returncode != 0
    assert gone(output)
    run_folder.read(tmp_path)


def test_a_disk_that_fails_on_one_host_ends_all_of_them(long_run, tmp_path, start_two, faults):
    long_run.mesh = MeshConfig()
    arm = f"ctypes.CDLL(None).faults_arm(b'{tmp_path}/checkpoints/', 40, {errno.ENOSPC})\n"
    processes = start_two(long_run, tmp_path, devices=1, main=arm, LD_PRELOAD=str(faults))
    outputs = [process.finish() for process in processes]
    assert processes[0].returncode == 2, outputs
    assert "a checkpoint cannot be written" in outputs[0].strip().splitlines()[-1]
    assert processes[1].returncode != 0
    assert gone(outputs[1])


def test_a_signal_to_one_stops_all_after_the_same_step_and_changes_nothing(
    long_run, tmp_path, start_two, final_hash
):
    long_run.total_steps = long_run.validate_every = 20
    long_run.checkpoint_every = 4
    long_run.mesh = MeshConfig()
    # And all read the weights of a run folder.
    long_run.init_from = str(tmp_path / "before")
    (tmp_path / "before").mkdir()
    write_config(tmp_path / "before", long_run)
    params = pure_functions(long_run.model)[0](seed=7)
    with Checkpoints(tmp_path / "before") as checkpoints:
        checkpoints.save(Checkpoint(0, params, {"step": np.zeros((), np.int32)}, {}))
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    for process in start_two(long_run, whole, devices=1):
        process.finish()

    long_run.data.num_workers = 1
    alone = "os.setsid()\n" + SLOW
    processes = start_two(long_run, workdir, devices=1, everywhere=alone)
    processes[0].wait_for_step(4)
    # Its loader worker too, as batch systems do.
    subprocess.run(["kill", "-TERM", "--", f"-{processes[1].pid}"], check=True)
    outputs = [process.finish() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    stopped = int(re.search(r"Stopped after step (\d+)", outputs[0])[1])
    assert processes[0].last_step() == stopped < long_run.total_steps
    long_run.data.num_workers = 0
    for process in start_two(long_run, workdir, devices=1):
        process.finish()
    assert final_hash(workdir, long_run) == final_hash(whole, long_run)


def test_a_workdir_that_only_one_host_sees_is_refused_by_all(long_run, tmp_path, start_two):
    long_run.mesh = MeshConfig()
    elsewhere = f"workdir = {str(tmp_path / 'other')!r}\n"
    processes = start_two(long_run, tmp_path / "run", devices=1, main=elsewhere)
    outputs = [process.finish() for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 2, output
        assert "is not the same folder on all hosts" in output
    assert "(here: it is another folder)" in outputs[1]
    assert not list(tmp_path.glob("*/.seen*"))
