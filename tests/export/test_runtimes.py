"""ONNX Runtime and OpenVINO: found, refused, and kept from the network."""

import importlib.util
import sys

import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.export import runtimes


def test_installed_ones_are_listed_and_described(monkeypatch):
    assert runtimes.installed() == ["onnxruntime", "openvino"]
    assert runtimes.describe("onnxruntime").startswith("ONNX Runtime 1.")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert runtimes.installed() == ["openvino"]


@pytest.mark.parametrize("runtime", runtimes.NAMES)
def test_a_missing_one_is_named_with_its_extra(runtime, monkeypatch):
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(UserError, match=rf"is not installed: pip install 'mprnet-jax\[{runtime}\]"):
        runtimes.load(runtime, b"")


def test_bfloat16_is_refused_where_it_is_not_computed():
    with pytest.raises(
        UserError, match="ONNX Runtime computes in float32, not in bfloat16; use openvino"
    ):
        runtimes.load("onnxruntime", b"", dtype="bfloat16")


def test_openvino_reports_nothing(run_python, tmp_path):
    """It would make the folder `intel`, where the user's consent is kept, and send an event."""
    assert importlib.util.find_spec("openvino_telemetry"), "or this test shows nothing"
    code = (
        "import sys; from mprnet_jax.export import runtimes; runtimes.import_runtime('openvino'); "
        "print('openvino_telemetry' in sys.modules)"
    )
    done = run_python("-c", code, HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert not list(tmp_path.iterdir())
