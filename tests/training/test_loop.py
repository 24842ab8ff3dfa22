import signal

import jax
import numpy as np
import pytest
from PIL import Image

from mprnet_jax.config import MeshConfig
from mprnet_jax.data.prepared import Prepared, write_prepared
from mprnet_jax.devices.mesh import make_mesh
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training import build, loop, monitor, setup, validation
from mprnet_jax.training.progress import WARM_STEPS, Trace
from mprnet_jax.training.setup import Run
from mprnet_jax.training.validation import ValidationResult
from mprnet_jax.weights import files, run_folder
from mprnet_jax.weights.checkpoints import UNSCORED, Checkpoints
from mprnet_jax.weights.packing import join
from mprnet_jax.weights.run_folder import check_same_run


def test_a_run_leaves_checkpoints_curves_and_pictures(tiny_run, tmp_path, capsys, caplog):
    tiny_run.model.stages = "orsnet+orsnet"
    result = loop.train(tiny_run, tmp_path)
    printed = capsys.readouterr()
    assert "| astronaut" in printed.out
    assert "sam12/gate/kernel" in printed.out  # the parameter table
    assert "6/6" in printed.err
    assert "images/s" in printed.err
    assert result.psnr.shape == (3, 2)

    steps = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert {4, 6} <= steps <= {3, 4, 6}  # the newest two and the best
    model, params, trained = run_folder.read(tmp_path)
    assert model == tiny_run.model
    assert trained.step in steps
    assert np.isfinite(trained.score)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))

    events = b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))
    names = ("loss", "loss_stage1", "gradient_norm", "learning_rate", "images_per_second")
    names += ("model_tflops", "skipped", "unreadable")
    for name in (*names, "validation_psnr/stage2", "validation_psnr/degraded"):
        assert name.encode() in events
    with Image.open(tmp_path / "before_after.png") as sheet:
        assert sheet.width > 3 * tiny_run.validation_crop

    # The same command again says that all is done, and shows the result.
    again = loop.train(tiny_run, tmp_path)
    assert "finished: 6 steps" in capsys.readouterr().out
    np.testing.assert_array_equal(again.psnr, result.psnr)

    # A run whose learning rate does not depend on its length can be made longer.
    tiny_run.total_steps = 7
    loop.train(tiny_run, tmp_path)
    assert "Resuming from step 6" in capsys.readouterr().out
    assert (tmp_path / "checkpoints/7").is_dir()
    run = Run(tiny_run, tmp_path)
    run.source = [None] * 9
    with Checkpoints(tmp_path) as checkpoints:
        run.restore_or_init(checkpoints)
    message = "the training set has 9 examples, and had 5 when step 7 was saved"
    assert message in caplog.text


def test_sets_that_have_grown_or_shrunk_are_told(short_run, tmp_path, monkeypatch, caplog):
    run = Run(short_run, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        run.save(checkpoints, 4, run.init_state(), {}, validation_due=False)
        checkpoints.wait_until_finished()
        run.restore_or_init(checkpoints)
        assert not caplog.records
        size = len(run.source)
        run.source = [run.source[0]] * (size + 1)
        run.validator.held_out = [run.validator.held_out[0]]
        _, record = run.restore_or_init(checkpoints)
    assert record["batches"] == 4
    training, held_out = (message.getMessage() for message in caplog.records)
    assert training.startswith(
        f"the training set has {size + 1} examples, and had {size} when step 4 was saved: it is "
    )
    assert held_out.startswith("the held-out set has 1 examples, and had 2 when step 4 was saved")


def test_accelerators_compile_the_validation_while_training_runs(short_run, tmp_path, monkeypatch):
    """Tried on a CPU, where training would wait for the compiler."""
    short_run.total_steps, short_run.optim.decay_steps = 3, 0
    expected = loop.train(short_run, tmp_path / "usual")
    begun, begin = [], validation.compile_in_background

    def begin_and_note(*arguments):
        begun.append(arguments)
        return begin(*arguments)

    monkeypatch.setattr(validation, "compile_in_background", begin_and_note)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    result = loop.train(short_run, tmp_path / "in advance")
    assert len(begun) == 1
    np.testing.assert_array_equal(result.psnr, expected.psnr)

    # Not again after a validation, as when a run resumes with one that was due.
    run = Run(short_run, tmp_path / "resumed")
    run.validator.validate(run.init_state().eval_params, lambda: False)
    run.validator.start_compiling()
    assert len(begun) == 1


def test_another_config_is_refused_with_the_field_that_differs(short_run, tmp_path):
    run = Run(short_run, tmp_path)
    run.claim_workdir()
    short_run.log_every = 5  # free to change
    check_same_run(tmp_path, short_run)
    short_run.optim.learning_rate = 5e-4
    with pytest.raises(UserError, match=r"optim\.learning_rate=0\.001, .*=0\.0005"):
        check_same_run(tmp_path, short_run)


def test_a_run_whose_rate_falls_until_its_last_step_cannot_be_made_longer(short_run, tmp_path):
    short_run.optim.decay_steps = 0
    run_folder.write_config(tmp_path, short_run)
    short_run.total_steps = 7
    with pytest.raises(UserError, match=r"a run of 6 steps whose .*--config.init_from="):
        check_same_run(tmp_path, short_run)


def test_steps_that_are_not_finite_end_the_run_and_leave_its_checkpoints(
    short_run, tmp_path, capsys
):
    short_run.optim.learning_rate = 1e30
    short_run.optim.warmup_steps = 0
    short_run.optim.max_skipped = 3
    short_run.checkpoint_every = 1
    with pytest.raises(UserError, match=r"step [4-6]: 3 steps in a row were skipped"):
        loop.train(short_run, tmp_path)
    assert "is skipped: loss" in capsys.readouterr().err
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert steps == [1]  # those of the skipped steps did not replace it


def test_one_bad_batch_is_skipped_and_the_run_goes_on(short_run, tmp_path, monkeypatch, capsys):
    short_run.optim.ema_decay = 0.9
    put = setup.meshes.put_batch
    batches_put = 0

    def put_batch(batch, *arguments):
        nonlocal batches_put
        if "unreadable" in batch:
            batches_put += 1
            batch = batch | {"degraded": np.float32(batch["degraded"]) / 255}
            if batches_put == 3:
                batch["degraded"][0, 5, 5] = np.nan
        return put(batch, *arguments)

    monkeypatch.setattr(setup.meshes, "put_batch", put_batch)
    loop.train(short_run, tmp_path)
    printed = capsys.readouterr().err
    assert printed.count("is skipped") == 1
    run = Run(short_run, tmp_path)
    batches = run.batches(2)
    names = ", ".join(batches.example_names(2))
    assert f"step 3 is skipped: loss nan, gradient norm nan; its images: {names}" in printed
    batches.close()
    with Checkpoints(tmp_path) as checkpoints:
        state, record = run.restore_or_init(checkpoints)
        # What was due at the skipped step waited for the next one.
        assert checkpoints.score(3) == UNSCORED < checkpoints.score(4)
        checkpoints.set_score(6, 1000.0)
    assert (int(state.step), record["batches"], record["counts"]["skipped"]) == (5, 6, 1)
    # The moving average is what is validated and exported, and it is not the parameters.
    np.testing.assert_array_equal(join(run_folder.read(tmp_path)[1]), state.ema)
    assert not np.array_equal(state.params, state.ema)


def test_a_run_that_was_stopped_or_made_longer_ends_as_if_nothing_had_been(
    short_run, tmp_path, monkeypatch, capsys, final_hash, go_on
):
    short_run.total_steps, short_run.checkpoint_every, short_run.validate_every = 6, 6, 6
    run = Run(short_run, tmp_path / "whole")
    whole = go_on(run)
    run.workdir = tmp_path / "stopped"
    log = monitor.Guard.log_unreadable

    def log_and_signal(guard, batch):
        signal.raise_signal(signals.pop()) if signals else None
        return log(guard, batch)

    monkeypatch.setattr(monitor.Guard, "log_unreadable", log_and_signal)
    saved, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda *a: saved.append(a[2]) or save(*a))
    for number in (signal.SIGTERM, signal.SIGINT):
        signals = [number]
        handler = signal.getsignal(number)
        assert go_on(run) is None
        assert signal.getsignal(number) is handler
    printed = capsys.readouterr().out
    assert "Stopped after step 1; the same command continues" in printed
    assert "Stopped after step 2; the same command continues" in printed
    assert saved == [1, 2]  # each once
    resumed = go_on(run)
    np.testing.assert_array_equal(resumed.psnr, whole.psnr)

    # So does a run that was finished earlier, and then made longer.
    run.workdir = tmp_path / "longer"
    for short_run.total_steps in (3, 6):
        longer = go_on(run)
    assert f"Resuming from step 3 in {run.workdir}" in capsys.readouterr().out
    np.testing.assert_array_equal(longer.psnr, whole.psnr)
    hashes = [final_hash(tmp_path / name, short_run) for name in ("whole", "stopped", "longer")]
    assert hashes[0] == hashes[1] == hashes[2]


def test_a_signal_while_validating_costs_no_score_and_no_point(
    short_run, tmp_path, monkeypatch, go_on
):
    batches, signals = validation.validation_batches, []

    def validate_and_signal(*arguments):
        for batch in batches(*arguments):
            if signals:
                signal.raise_signal(signals.pop())
            yield batch

    monkeypatch.setattr(validation, "validation_batches", validate_and_signal)
    best, points, run = [], [], Run(short_run, tmp_path)
    for workdir in (tmp_path / "whole", tmp_path / "stopped"):
        run.workdir = workdir
        while go_on(run) is None:
            pass
        with Checkpoints(workdir, read_only=True) as checkpoints:
            best.append((checkpoints.best_step, checkpoints.score(checkpoints.best_step)))
        events = b"".join(path.read_bytes() for path in workdir.glob("events.out.tfevents.*"))
        points.append(events.count(b"validation_psnr/stage1"))
        signals = [signal.SIGTERM, signal.SIGTERM]  # both validations of the second run
    assert best[0] == best[1]
    assert best[0][1] > 0
    assert points == [2, 2]


def test_a_trace_for_the_profiler_spans_the_steps_asked_for(short_run, tmp_path):
    short_run.profile_steps = 2
    loop.train(short_run, tmp_path)
    assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, caplog):
    trace = Trace(tmp_path, start_step=0, steps=2)
    trace.update(WARM_STEPS, None)
    stop = jax.profiler.stop_trace

    def stop_and_fail():
        stop()
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", stop_and_fail)
    with caplog.at_level("WARNING", logger="absl"):
        trace.close()
    assert "the trace cannot be written (No space left on device)" in caplog.text


def test_fine_tuning_starts_from_weights_of_the_same_network(tiny_run, tmp_path):
    path = tmp_path / "start.safetensors"
    params = pure_functions(tiny_run.model)[0](seed=7)
    files.write(path, tiny_run.model, params)
    tiny_run.init_from = str(path)
    start = Run(tiny_run, tmp_path / "run").init_state()
    np.testing.assert_array_equal(start.params, join(params))

    # Once there is a checkpoint, the weights need not be there any more.
    path.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UserError, match="there is no such file"):
        Run(tiny_run, tmp_path / "run")
    (tmp_path / "run/checkpoints/2").mkdir(parents=True)
    Run(tiny_run, tmp_path / "run")
    (tmp_path / "elsewhere.safetensors").rename(path)

    tiny_run.model.orsnet_growth = 5
    with pytest.raises(UserError, match=r"init_from=.*orsnet_growth=3.*--config.model.orsnet"):
        Run(tiny_run, tmp_path / "another")


def test_checkpoints_are_the_same_where_training_keeps_arrays(short_run, tmp_path, monkeypatch):
    short_run.optim.ema_decay = 0.9
    joined = Run(short_run, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(build, "uses_flat_params", lambda mesh: False)
        apart = Run(short_run, tmp_path)
    assert len(jax.tree.leaves(joined.init_state())) < 10 < len(jax.tree.leaves(apart.init_state()))
    for name, saver, loader in (("a", joined, apart), ("b", apart, joined)):
        with Checkpoints(tmp_path / name) as checkpoints:
            saver.save(checkpoints, 1, saver.init_state(), {}, validation_due=False)
            checkpoints.wait_until_finished()
            state, _ = loader.restore_or_init(checkpoints)
        jax.tree.map(np.testing.assert_array_equal, state, loader.init_state())


def test_too_little_memory_is_reported_with_what_takes_less(short_run, tmp_path, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying")

    built = setup.build_train_step

    def build_failing_step(*arguments):
        init_state, _ = built(*arguments)
        return init_state, fail

    monkeypatch.setattr(setup, "build_train_step", build_failing_step)
    with pytest.raises(UserError, match=r"memory is too small .*Out of memory.*accumulate=2"):
        loop.train(short_run, tmp_path)


def test_workdir_that_is_a_file_is_refused(short_run, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(UserError, match="cannot be made a folder"):
        Run(short_run, path).claim_workdir()


def test_a_result_that_cannot_be_drawn_is_reported(short_run, tmp_path):
    (tmp_path / "before_after.png").mkdir()
    result = ValidationResult(["name"], np.zeros((4, 1)), [[np.zeros((8, 8, 3), np.uint8)] * 5])
    with pytest.raises(UserError, match=r"before_after.png: cannot be written"):
        Run(short_run, tmp_path).show(result, 6)


def test_a_signal_while_a_run_starts_stops_it_too(short_run, tmp_path, monkeypatch, capsys):
    find = setup.training_source

    def find_and_signal(config):
        signal.raise_signal(signal.SIGTERM)
        return find(config)

    monkeypatch.setattr(setup, "training_source", find_and_signal)
    assert loop.train(short_run, tmp_path) is None
    assert "Stopped after step 0; the same command continues" in capsys.readouterr().out
    assert (tmp_path / "checkpoints/0").is_dir()


def test_held_out_pairs_that_cannot_be_read_do_not_end_a_run(short_run, tmp_path, go_on):
    class Spoilt(type(Run(short_run, tmp_path).validator.held_out)):
        def __getitem__(self, index):
            if index == 0 or self.empty:
                raise UserError("spoilt.png: cannot be read")
            return super().__getitem__(index)

    run = Run(short_run, tmp_path)
    names = run.validator.held_out.names
    run.validator.held_out.__class__, run.validator.held_out.empty = Spoilt, False
    short_run.total_steps = 1
    result = go_on(run)
    assert list(result.names) == list(names[1:])
    assert result.psnr.shape == (2, 1)
    assert len(result.shown) == 1
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.score(1) == UNSCORED  # not to be compared with scores of all pairs
    run.validator.held_out.empty = True
    with pytest.raises(UserError, match="no held-out pair can be read"):
        go_on(run)


def test_things_happen_when_due():
    happens = [
        step for step in range(10, 26) if loop.is_due(step, 6, start_step=12, total_steps=25)
    ]
    assert happens == [18, 24, 25]


def test_held_out_pairs_of_a_prepared_set_are_named(short_run, tmp_path, go_on, capsys):
    run = setup.Run(short_run, tmp_path / "run")
    pairs = run.validator.held_out
    run.validator.held_out = Prepared(write_prepared(tmp_path, "hide", {"test": pairs}), "test")
    assert list(go_on(run).names) == list(pairs.names)
    assert f"| {pairs.names[0]} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "height", "idle"), [(-1, 3, "leaves 2 of 8 devices idle"), (-1, 2, ""), (1, 1, "")]
)
def test_devices_that_minus_one_leaves_idle_are_named(data, height, idle, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        setup.warn_of_idle_devices(make_mesh(data, height), MeshConfig(data, height))
    assert idle in caplog.text
    assert bool(caplog.text) == bool(idle)
