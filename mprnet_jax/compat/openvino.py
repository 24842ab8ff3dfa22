"""What OpenVINO needs to be a good guest: no reports of its use, and one core for the process."""

import functools
import sys
from types import ModuleType
from typing import Any


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


@functools.cache
def core() -> Any:
    """Returns the process's `openvino.Core`, which lives as long as the process.

    Reason: a core's plugin for CPUs gives its thread a stack for signal handlers (sigaltstack), and
        unmaps it when the core is freed. Where several cores are freed in the order in which they
        were made, or one by another thread, a stack that was unmapped stays in use, and the next
        signal with a handler in Python ends the process with SIGSEGV.
    Tried with: openvino 2026.4. It works with any version that has `Core`.
    Upstream: added with https://github.com/openvinotoolkit/openvino/pull/11894.
    Remove when: tests/compat/test_openvino.py passes with a core for each model.
    """
    return import_openvino().Core()
