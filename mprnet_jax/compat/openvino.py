"""A patch of OpenVINO: no use of it is reported to its makers."""

import sys
from types import ModuleType


def import_openvino() -> ModuleType:
    """Imports OpenVINO as if openvino-telemetry were not installed.

    Reason: importing OpenVINO sends an event to Google Analytics and makes a folder in the user's
        home. Nothing here uses the network unless it is asked to. OpenVINO itself does without the
        package where it is missing.
    Tried with: openvino 2026.4 with openvino-telemetry 2025.2. If the patch has no effect any more,
        tests/export/test_runtimes.py fails.
    Upstream: documented with the command that opts out, `opt_in_out --opt_out`.
    Remove when: an import sends nothing.

    Raises:
        ImportError: if it is not installed.
    """
    hidden = sys.modules.setdefault("openvino_telemetry", None) is None  # type: ignore[arg-type]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino
