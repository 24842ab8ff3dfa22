import gc
import logging
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.weights import store
from mprnet_jax.weights.checkpoints import UNSCORED, Checkpoint, Checkpoints, tree_hash


def tree(step):
    values = np.random.default_rng(step).random(4096, np.float32)  # that do not compress
    params = {"blocks": {0: jnp.asarray(values), 1: jnp.arange(6.0).reshape(2, 3)}}
    return Checkpoint(step, params, {"count": jnp.int32(step)}, {"batches": step})


def shapes(value):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), value)


def save(folder, steps_and_scores):
    checkpoints = Checkpoints(folder)
    for step, score in steps_and_scores:
        checkpoints.save(tree(step))
        if score is not None:
            checkpoints.set_score(step, score)
    checkpoints.close()


def load(folder):
    checkpoints = Checkpoints(folder)
    like = tree(0)
    try:
        return checkpoints.load_newest(shapes(like.params), shapes(like.training_state))
    finally:
        checkpoints.close()


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.is_dir())


def test_what_was_saved_comes_back(tmp_path):
    save(tmp_path, [(3, None)])
    loaded = load(tmp_path)
    assert (loaded.step, loaded.record) == (3, {"batches": 3})
    assert jax.tree.structure(loaded.params) == jax.tree.structure(tree(3).params)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree(3)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["[a] *?{b}", "runs[1]/~/12:30", "%41 #|@10;", "写真"])
def test_folders_with_odd_names(name, tmp_path):
    save(tmp_path / name, [(3, None)])
    np.testing.assert_array_equal(
        load(tmp_path / name).params["blocks"][1], np.arange(6).reshape(2, 3)
    )


@pytest.fixture
def _garbage_is_collected_as_usual():
    """As in a user's process; the suite collects more rarely."""
    threshold = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("_garbage_is_collected_as_usual")
def test_saves_leave_no_memory_behind(tmp_path):
    gc.collect()
    params = {f"array{i}": np.zeros(4, np.float32) for i in range(200)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(7):
            if step == 2:  # after those that import and fill caches
                tracemalloc.start()
            checkpoints.save(Checkpoint(step, params, {"opt": params}, {}))
            checkpoints.wait_until_finished()
    gc.collect()
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # TensorStore leaks four strings each time it is asked where an array lies: 0.7 MB in all.
    assert left < 500_000


def test_a_lost_host_is_not_taken_for_a_failing_disk(tmp_path, monkeypatch):
    def wait(manager):
        try:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Connection reset by peer")
        except jax.errors.JaxRuntimeError as error:  # as Orbax does at its barriers
            raise TimeoutError("Timed out while waiting for async_commit_complete") from error

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(tree(1))
        with monkeypatch.context() as patch:
            patch.setattr(store.Manager, "wait_until_finished", wait)
            with pytest.raises(jax.errors.JaxRuntimeError, match="reset by peer"):
                checkpoints.wait_until_finished()
    assert load(tmp_path).step == 1


def test_the_search_for_an_errors_reason_ends():
    first, second = OSError("disk"), OSError("again")
    first.__context__, second.__context__ = second, first
    store.raise_jax_error_behind(first)  # there is none to raise
    first.__cause__, second.__cause__ = second, first
    assert store.is_storage_error(first)
    assert not store.is_storage_error(KeyError())


def test_a_flipped_bit_in_the_record_is_noticed(tmp_path):
    save(tmp_path, [(1, None), (2, None)])
    record = tmp_path / "checkpoints/2/record/metadata"
    record.write_text(record.read_text().replace("batches", "baTches"))
    assert load(tmp_path).step == 1


def test_nothing_saved_is_none(tmp_path):
    assert load(tmp_path) is None


def test_newest_two_and_best_are_kept(tmp_path):
    save(tmp_path, [(1, 20.0), (2, 30.0), (3, 25.0), (4, None), (5, 28.0), (6, None)])
    assert steps(tmp_path) == [2, 5, 6]
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best_step == 2
    assert checkpoints.score(2) == 30.0
    assert checkpoints.score(6) == UNSCORED
    assert checkpoints.load_best(shapes(tree(0).params)).step == 2
    checkpoints.close()


def flip_bit(folder):
    """In the largest file, the arrays' own bytes."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_arrays(folder):
    for path in (folder / "params").rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_orbax_leaves_coroutines_behind")
@pytest.mark.parametrize("damage", [flip_bit, truncate, lose_arrays])
def test_damage_is_reported_and_the_checkpoint_before_is_used(tmp_path, damage, caplog):
    save(tmp_path, [(1, None), (2, None)])
    damage(tmp_path / "checkpoints" / "2")
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert load(tmp_path).step == 1
    assert "checkpoints/2 cannot be used, skipped: " in caplog.text
    # It is set aside, so that the run saves step 2 anew when it comes there.
    assert steps(tmp_path) == [1]
    assert len(list(tmp_path.glob("damaged-2-*"))) == 1
    save(tmp_path, [(2, None)])
    assert load(tmp_path).step == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_orbax_leaves_coroutines_behind")
def test_all_damaged_is_an_error(tmp_path):
    save(tmp_path, [(1, None)])
    flip_bit(tmp_path / "checkpoints" / "1")
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        load(tmp_path)


def test_what_a_disk_refuses_once_is_not_damaged(tmp_path, monkeypatch, caplog):
    save(tmp_path, [(1, None), (2, None)])
    refusals, load_step = [OSError("Stale file handle")], Checkpoints._load

    def refuse(*arguments):
        if refusals:
            raise refusals.pop()
        return load_step(*arguments)

    monkeypatch.setattr(Checkpoints, "_load", refuse)
    assert load(tmp_path).step == 2
    assert "damaged" not in caplog.text
    assert "skipped" not in caplog.text


def test_leftovers_of_a_killed_save_are_ignored(tmp_path):
    save(tmp_path, [(1, None)])
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert load(tmp_path).step == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"1": "x"}'])
def test_damaged_scores_cost_no_checkpoint(tmp_path, content, caplog):
    save(tmp_path, [(1, 20.0), (2, 10.0), (3, float("nan"))])
    (tmp_path / "scores.json").write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="absl"), Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step == 3
    assert "scores.json is damaged" in caplog.text
    assert load(tmp_path).step == 3


def refuse_scores(monkeypatch, refusals):
    read_bytes = Path.read_bytes

    def refuse(path):
        if path.name == "scores.json" and refusals:
            raise refusals.pop()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)


def test_scores_that_a_disk_refuses_once_are_read(tmp_path, monkeypatch):
    save(tmp_path, [(1, 20.0), (2, 10.0)])
    refuse_scores(monkeypatch, [OSError("Stale file handle")])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step == 1


def test_scores_that_cannot_be_read_end_the_run_before_the_best_is_deleted(tmp_path, monkeypatch):
    save(tmp_path, [(1, 20.0), (2, 10.0), (3, 15.0)])
    before = (tmp_path / "scores.json").read_text()
    with monkeypatch.context() as patch:
        refuse_scores(patch, [OSError("Input/output error")] * 9)
        with pytest.raises(UserError, match=r"scores\.json cannot be read \(Input/output error\)"):
            Checkpoints(tmp_path)
    assert steps(tmp_path) == [1, 2, 3]
    assert (tmp_path / "scores.json").read_text() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_orbax_leaves_coroutines_behind")
def test_a_damaged_best_checkpoint_is_tried_once(tmp_path, caplog):
    save(tmp_path, [(1, 20.0), (2, 10.0)])
    flip_bit(tmp_path / "checkpoints" / "1")
    with (
        caplog.at_level(logging.WARNING, logger="absl"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        assert checkpoints.load_best(shapes(tree(0).params)).step == 2
    flip_bit(tmp_path / "checkpoints" / "2")
    with (
        caplog.at_level(logging.WARNING, logger="absl"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match="all checkpoints are damaged"),
    ):
        checkpoints.load_best(shapes(tree(0).params))
    assert caplog.text.count("checkpoints/1 cannot be used") == 2  # once for each of the loads


def test_a_score_that_is_no_number_is_none(tmp_path):
    save(tmp_path, [(1, 20.0), (2, float("nan"))])
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step == 1


def test_reading_leaves_a_save_in_progress_alone(tmp_path):
    save(tmp_path, [(1, 20.0), (2, None), (3, None)])
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    flip_bit(tmp_path / "checkpoints" / "1")
    flip_bit(tmp_path / "checkpoints" / "3")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    like = tree(0)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.load_best(shapes(like.params)).step == 2
        newest = checkpoints.load_newest(shapes(like.params), shapes(like.training_state))
        assert newest.step == 2
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_hash_differs_by_values_dtypes_shapes_and_paths():
    array = np.arange(4, dtype=np.float32)
    different = [
        {"a": array},
        {"b": array},
        {"a": array.astype(np.float64)},
        {"a": array.reshape(2, 2)},
        {"a": -array},
    ]
    assert len({tree_hash(value) for value in different}) == 5
    assert tree_hash({"a": array}) == tree_hash({"a": jnp.asarray(array)})
