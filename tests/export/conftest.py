"""What tests of other programs share, which are run by hand: pytest --exhaustive."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/browser/index.html"


@pytest.fixture(scope="session")
def onnxruntime_web(exhaustive, tmp_path_factory) -> Path:
    """The folder of the npm package, in the version that the page in the browser names."""
    if not exhaustive:
        pytest.skip("downloads onnxruntime-web")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    (version,) = set(re.findall(r"onnxruntime-web@([\d.]+)", PAGE.read_text(encoding="utf-8")))
    folder = tmp_path_factory.mktemp("npm")
    options = ("--ignore-scripts", "--no-audit", "--no-fund")
    subprocess.run([npm, "install", *options, f"onnxruntime-web@{version}"], cwd=folder, check=True)
    return folder / "node_modules/onnxruntime-web"
