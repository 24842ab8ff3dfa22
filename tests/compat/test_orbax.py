"""Saving and loading work, with one warning, if the private parts of Orbax have changed."""

import asyncio
import copy
import functools
import sys
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from mprnet_jax import compat
from mprnet_jax.compat import orbax
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints

MODULE = "orbax.checkpoint._src.serialization.tensorstore_utils"


def module_is_gone(monkeypatch):
    """It cannot be imported any more; other modules of Orbax keep what they have imported of it."""
    import orbax.checkpoint._src.serialization as package

    monkeypatch.setattr(sys.modules[MODULE], "ts", tensorstore)
    monkeypatch.delattr(package, "tensorstore_utils")
    monkeypatch.setitem(sys.modules, MODULE, None)


def alias_is_gone(monkeypatch):
    """Orbax's functions get TensorStore in another way: here as a builtin."""
    import builtins

    monkeypatch.delattr(sys.modules[MODULE], "ts")
    monkeypatch.setattr(builtins, "ts", tensorstore, raising=False)


def method_is_gone(monkeypatch):
    """Orbax's own call of it finds an attribute of the instance."""
    wait = ocp.CheckpointManager._wait_for_checkpointers
    finalize = ocp.CheckpointManager._finalize

    def finalize_in_another_way(manager, *args):
        manager._wait_for_checkpointers = functools.partial(wait, manager)
        return finalize(manager, *args)

    monkeypatch.delattr(ocp.CheckpointManager, "_wait_for_checkpointers")
    monkeypatch.setattr(ocp.CheckpointManager, "_finalize", finalize_in_another_way)


@pytest.fixture
def _no_warnings_so_far(monkeypatch):
    monkeypatch.setattr(compat, "_warned", set())


@pytest.mark.usefixtures("_no_warnings_so_far")
@pytest.mark.parametrize(
    ("change", "consequence"),
    [
        (module_is_gone, "leaks"),
        (alias_is_gone, "leaks"),
        (method_is_gone, "end only after"),
    ],
)
def test_without_a_private_part_saving_and_loading_work(
    tmp_path, monkeypatch, caplog, change, consequence
):
    change(monkeypatch)
    params, training_state = {"w": np.arange(8, dtype=np.float32)}, {"count": np.int32(3)}
    with caplog.at_level("WARNING", logger="absl"):
        for step in (1, 2):  # the second time without a warning
            with Checkpoints(tmp_path) as checkpoints:
                checkpoints.save(Checkpoint(step, params, training_state, {}))
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = {"count": jax.ShapeDtypeStruct((), np.int32, sharding=device)}
        with Checkpoints(tmp_path) as checkpoints:
            loaded = checkpoints.load_newest(params, shapes)
    assert loaded.step == 2
    np.testing.assert_array_equal(loaded.params["w"], params["w"])
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("orbax-checkpoint has changed")
    assert consequence in warning


def test_a_spec_that_orbax_uses_otherwise_is_tensorstores(tmp_path):
    spec = {"driver": "file", "path": f"{tmp_path}/"}
    assert orbax.CachedSpec(spec).to_json() == tensorstore.KvStore.Spec(spec).to_json()
    assert orbax.CachedSpec(spec).url == tensorstore.KvStore.Spec(spec).url


def test_only_reports_of_abandoned_writes_are_dropped(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    orbax.hide_abandoned_writes()
    orbax.hide_abandoned_writes()  # changes nothing

    def report(error, traceback):
        sys.unraisablehook(SimpleNamespace(exc_value=error, exc_traceback=traceback))

    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed") as caught:
        loop.call_soon_threadsafe(print)
    # A thread of TensorStore has no frame of Python that calls the loop.
    report(caught.value, caught.tb.tb_next)
    assert not reported
    report(caught.value, caught.tb)
    report(ValueError("another"), None)
    report(RuntimeError("Event loop is closed"), None)
    assert [str(report.exc_value) for report in reported] == [
        "Event loop is closed",
        "another",
        "Event loop is closed",
    ]


def test_a_spec_that_orbax_changes_is_not_changed_for_others(tmp_path):
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{tmp_path}/"}}
    first = orbax.CachedSpec(spec).to_json()
    expected = copy.deepcopy(first)
    first["base"].clear()
    assert orbax.CachedSpec(spec).to_json() == expected
