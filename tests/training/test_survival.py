"""Runs that are killed, told to stop, run out of disk, or lose one of their processes."""

import errno
import functools
import itertools
import re
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from mprnet_jax.config import DataConfig, MeshConfig, OptimConfig, TrainConfig
from mprnet_jax.errors import UserError
from mprnet_jax.training import loop
from mprnet_jax.weights.run_folder import load_params

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
TIMEOUT = 300  # seconds for a process that is about to end, or to reach a step


@pytest.fixture(scope="session")
def long_config(make_tiny_model):
    """Makes runs that save after every other step, and draw random numbers on the device too."""

    def make(total_steps=12):
        # The cosine's length is given, so that all of these runs are one program.
        optim = OptimConfig(learning_rate=1e-3, decay_steps=500, ema_decay=0.99, spike_factor=100.0)
        return TrainConfig(
            name="long",
            model=make_tiny_model(),
            data=DataConfig(source="sample_rain", mixup_from_step=2),
            optim=optim,
            mesh=MeshConfig(data=1),
            total_steps=total_steps,
            batch_size=2,
            patch_size=16,
            validation_crop=32,
            checkpoint_every=2,
            validate_every=total_steps,
            log_every=1,
        )

    return make


@pytest.fixture
def long_run(long_config):
    """Such a run, which a test may change."""
    return long_config()


def saved_steps(workdir):
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [int(name) for name in names if name.isdigit()]


def finish(process):
    try:
        return process.communicate(timeout=TIMEOUT)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"no end after {TIMEOUT} s: {process.communicate()[0]}") from None


def wait_for_step(step, process, workdir):
    """Until a checkpoint of this step or a later one is there."""
    deadline = time.monotonic() + TIMEOUT
    while max(saved_steps(workdir), default=-1) < step:
        assert process.poll() is None, finish(process)
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"no step {step} after {TIMEOUT} s: {finish(process)}")
        time.sleep(0.01)


def kill_after_a_save(process, workdir, delay):
    """Kills once a new checkpoint is there and `delay` seconds have gone."""
    wait_for_step(max(saved_steps(workdir), default=-1) + 1, process, workdir)
    time.sleep(delay)
    process.kill()
    output = finish(process)
    assert process.returncode == -signal.SIGKILL, output


@pytest.fixture(scope="module")
def whole(start, final_hash, long_config, tmp_path_factory):
    """The hash of a run of so many steps that nothing interrupts."""

    @functools.cache
    def train(total_steps):
        workdir, config = tmp_path_factory.mktemp("whole"), long_config(total_steps)
        output = finish(start(config, workdir))
        assert total_steps in saved_steps(workdir), output
        return final_hash(workdir, config)

    return train


def test_kills_at_random_moments_change_nothing(
    long_config, tmp_path, start, final_hash, whole, exhaustive, capsys
):
    random = np.random.default_rng()
    kills = 0
    long_run = long_config(500 if exhaustive else 30)
    while kills < (100 if exhaustive else 5):
        process = start(long_run, tmp_path / "killed")
        kill_after_a_save(process, tmp_path / "killed", random.uniform(0, 0.3))
        kills += 1
    output = finish(start(long_run, tmp_path / "killed"))
    assert "Resuming from step" in output
    assert final_hash(tmp_path / "killed", long_run) == whole(long_run.total_steps)
    assert not list((tmp_path / "killed").glob("damaged-*"))
    with capsys.disabled():
        print(f" [{kills} kills]", end="")


def test_a_random_key_that_is_not_restored_would_be_noticed(
    long_run, tmp_path, start, final_hash, whole
):
    process = start(long_run, tmp_path / "killed")
    kill_after_a_save(process, tmp_path / "killed", 0.0)
    other_key = "import jax; key = jax.random.key; jax.random.key = lambda seed: key(seed + 1)"
    finish(start(long_run, tmp_path / "killed", setup=other_key))
    assert final_hash(tmp_path / "killed", long_run) != whole(long_run.total_steps)


def test_a_save_killed_at_its_operations_on_files_changes_nothing(
    long_config, long_run, tmp_path, start, final_hash, whole, exhaustive, faults
):
    workdir, places = tmp_path / "killed", (60, 180, 300)
    if exhaustive:
        long_run, places = long_config(400), itertools.count(1)
        process = start(long_run, workdir)
        wait_for_step(6, process, workdir)  # so that each save deletes an old checkpoint
        process.kill()
    for place in places:
        before = max(saved_steps(workdir), default=0)
        arm = f"ctypes.CDLL(None).faults_arm(b'{workdir}/checkpoints/', {place}, 0)"
        process = start(long_run, workdir, setup=arm, LD_PRELOAD=str(faults))
        output = finish(process)
        assert process.returncode == -signal.SIGKILL, output
        assert "damaged" not in output
        if max(saved_steps(workdir), default=0) > before + 2:
            break  # a save has fewer operations
    finish(start(long_run, workdir))
    assert final_hash(workdir, long_run) == whole(long_run.total_steps)


def test_twenty_resumes_in_a_row_change_nothing(long_run, tmp_path, final_hash, monkeypatch):
    long_run.total_steps = long_run.validate_every = 21
    run = loop.Run(long_run, tmp_path / "whole")
    run.train()
    run.workdir = tmp_path / "resumed"
    look = loop.Guard.look_at

    def look_and_signal(guard, batch):
        signal.raise_signal(signal.SIGTERM)
        return look(guard, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Guard, "look_at", look_and_signal)
        for _ in range(20):
            assert run.train() is None
    assert max(saved_steps(tmp_path / "resumed")) == 20
    assert run.train() is not None
    assert final_hash(tmp_path / "resumed", long_run) == final_hash(tmp_path / "whole", long_run)


def test_sigterm_to_the_whole_group_saves_and_ends_with_status_0(
    long_run, tmp_path, start, final_hash, whole
):
    long_run.data.num_workers = 1  # which gets the signal too
    # A session of its own, as batch systems start and signal it.
    process = start(long_run, tmp_path / "stopped", setup="os.setsid()")
    wait_for_step(3, process, tmp_path / "stopped")
    subprocess.run(["kill", "-TERM", "--", f"-{process.pid}"], check=True)
    output = finish(process)
    assert process.returncode == 0, output
    stopped = int(re.search(r"Stopped after step (\d+)", output)[1])
    assert max(saved_steps(tmp_path / "stopped")) == stopped < long_run.total_steps
    finish(start(long_run, tmp_path / "stopped"))
    assert final_hash(tmp_path / "stopped", long_run) == whole(long_run.total_steps)


def test_a_full_disk_ends_the_run_and_keeps_what_was_there(tiny_run, tmp_path, start):
    tiny_run.validate_every = 6
    workdir = tmp_path / "run"
    # Files of 30 kB at most: enough for the config and curves, not for the arrays.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))"
    process = start(tiny_run, workdir)
    kill_after_a_save(process, workdir, 0.0)
    before = max(saved_steps(workdir))
    process = start(tiny_run, workdir, setup=limit)
    output = finish(process)
    assert process.returncode == 2, output
    assert "a checkpoint cannot be written" in output.strip().splitlines()[-1]
    assert "Traceback" not in output, output
    assert before in saved_steps(workdir)
    load_params(workdir)


@pytest.mark.parametrize("error", ERRORS)
def test_each_write_that_fails_ends_the_run_with_one_line(
    tiny_run, tmp_path, start, faults, exhaustive, error
):
    tiny_run.total_steps = 4
    # Config, event file, checkpoints, picture; the last operation depends on threads.
    number = ERRORS.index(error)
    for place in range(1 + number, 1000, 3) if exhaustive else ((1, 8), (4,), (60,))[number]:
        workdir = tmp_path / f"run{place}"
        arm = f"ctypes.CDLL(None).faults_arm(b'{workdir}', {place}, {error})"
        process = start(tiny_run, workdir, setup=arm, LD_PRELOAD=str(faults))
        output = finish(process)
        if exhaustive and process.returncode == 0:
            break  # it has fewer operations
        assert process.returncode == 2, output
        assert "UserError: " in output.strip().splitlines()[-1]
        assert "Traceback" not in output, output
        if saved_steps(workdir):
            load_params(workdir)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(start, config, workdir, devices=2, main="", **environment):
    """Two processes with so many devices each; `main` is Python that the first one runs before."""
    port = free_port()
    join = f"jax.config.update('jax_num_cpu_devices', {devices})\n"
    join += "from mprnet_jax.devices import hosts\n"
    join += f"hosts.join('127.0.0.1:{port}', 2, {{}})"
    setups = main + join.format(0), join.format(1)
    return [start(config, workdir, setup=setup, **environment) for setup in setups]


def gone(output):
    """Whether a process has said that it lost another one."""
    return "another process of this run is gone" in output or "another task died" in output


def losses(workdir):
    """By step, from the event files."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    values = {}
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            assert masked_crc32c(data[:8]) == int.from_bytes(data[8:12], "little")
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                if value.tag == "loss":
                    values[event.step] = value.simple_value
            data = data[16 + length :]
    return values


def test_two_processes_train_as_one_and_read_each_others_checkpoints(tiny_run, tmp_path, start):
    # Images over all devices: bands of rows over two processes were seen to lock up on CPUs.
    tiny_run.batch_size, tiny_run.total_steps = 8, 4
    tiny_run.mesh = MeshConfig()
    tiny_run.data.mixup_from_step = 2
    devices = "jax.config.update('jax_num_cpu_devices', 4)"
    one, two, mixed = tmp_path / "one", tmp_path / "two", tmp_path / "mixed"

    output = finish(start(tiny_run, one, setup=devices))
    assert 4 in saved_steps(one), output
    outputs = [finish(process) for process in start_two(start, tiny_run, two)]
    assert 4 in saved_steps(two), outputs
    expected, found = losses(one), losses(two)
    assert expected.keys() == found.keys() == {1, 2, 3, 4}
    for step, loss in expected.items():
        # 1e-5: sums over devices run in another order, and four steps carry that on.
        assert found[step] == pytest.approx(loss, rel=1e-5)

    # Each layout goes on from the other's checkpoint.
    for first, rest in (
        (one, lambda workdir: start_two(start, tiny_run, workdir)),
        (two, lambda workdir: [start(tiny_run, workdir, setup=devices)]),
    ):
        workdir = mixed / first.name
        shutil.copytree(first, workdir)
        shutil.rmtree(workdir / "checkpoints/4")
        for path in workdir.glob("events.out.tfevents.*"):
            path.unlink()
        outputs = [finish(process) for process in rest(workdir)]
        assert "Resuming from step 3" in outputs[0]
        assert 4 in saved_steps(workdir), outputs
        assert losses(workdir).keys() == {4}
        assert losses(workdir)[4] == pytest.approx(expected[4], rel=1e-5)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_lost_ends_the_others_with_a_message(long_run, tmp_path, start, lost):
    long_run.total_steps = 10_000
    long_run.mesh = MeshConfig()
    # A device each: of two devices on one CPU, the one that meets the loss first goes on, and gloo
    # ends the process at the other's message, before JAX can say why.
    processes = start_two(start, long_run, tmp_path, devices=1)
    wait_for_step(4, processes[0], tmp_path)
    processes[lost].kill()
    other = processes[1 - lost]
    output = finish(other)
    assert other.returncode != 0
    assert gone(output)
    load_params(tmp_path)


def test_a_disk_that_fails_on_one_host_ends_all_of_them(long_run, tmp_path, start, faults):
    long_run.mesh = MeshConfig()
    arm = f"ctypes.CDLL(None).faults_arm(b'{tmp_path}/checkpoints/', 40, {errno.ENOSPC})\n"
    processes = start_two(start, long_run, tmp_path, devices=1, main=arm, LD_PRELOAD=str(faults))
    outputs = [finish(process) for process in processes]
    assert processes[0].returncode == 2, outputs
    assert "a checkpoint cannot be written" in outputs[0].strip().splitlines()[-1]
    assert processes[1].returncode != 0
    assert gone(outputs[1])


def test_a_signal_to_one_process_stops_all_after_the_same_step(long_run, tmp_path, start):
    long_run.total_steps = 10_000
    long_run.mesh = MeshConfig()
    processes = start_two(start, long_run, tmp_path, devices=1)
    wait_for_step(4, processes[0], tmp_path)
    processes[1].terminate()
    outputs = [finish(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    stopped = int(re.search(r"Stopped after step (\d+)", outputs[0])[1])
    assert max(saved_steps(tmp_path)) == stopped


def test_pictures_that_cannot_be_read_end_the_run_when_they_are_many(tiny_run, tmp_path):
    rng = np.random.default_rng(0)
    from PIL import Image

    for part in ("train", "test"):
        for i in range(8):
            for role in ("input", "target"):
                path = tmp_path / "data" / part / role / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    tiny_run.data.source, tiny_run.data.root = "folders", str(tmp_path / "data")
    tiny_run.data.max_unreadable = 0.3
    (tmp_path / "data/train/input/5.png").write_bytes(b"no picture")
    run = loop.Run(tiny_run, tmp_path / "a")
    first = run.train()
    run.workdir = tmp_path / "b"
    again = run.train()
    np.testing.assert_array_equal(first.psnr, again.psnr)
    run.workdir = tmp_path / "c"
    tiny_run.data.max_unreadable = 0.0
    with pytest.raises(UserError, match=r"1 of \d+ pictures could not be read"):
        run.train()
