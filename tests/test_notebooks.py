"""The notebooks run from their first cell to their last, on the CPU with small settings."""

import importlib.metadata
import os
import shlex
import shutil
from pathlib import Path

import jax
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from mprnet_jax.config import ModelConfig
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.weights import files

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
TINY = {"width": 4, "unet_growth": 2, "orsnet_growth": 3, "cabs_per_orb": 1}
TINY |= {"stages": "orsnet+orsnet"}  # networks compile quickly without U-Nets
RUN = {
    **{f"model.{name}": value for name, value in TINY.items()},
    "total_steps": 3,
    "optim.warmup_steps": 1,
    "batch_size": 2,
    "patch_size": 16,
    "validation_crop": 32,
}


def tiny_weights(path: Path) -> Path:
    """Writes weights that compile quickly."""
    model = ModelConfig(**TINY)
    files.write(path, model, pure_functions(model)[0](0))
    return path


def settings(notebook: str, folder: Path) -> dict[str, object]:
    """What the notebook's cell of settings is followed by."""

    def weights(extension: str) -> str:
        return str(tiny_weights(folder / f"tiny.{extension}"))

    return {
        "train_tpu": {"WORKDIR": str(folder / "run"), "CHANGES": RUN},
        "convert_and_validate": {"WEIGHTS": weights("pth"), "OUTPUT": str(folder / "out")},
        "restore": {"WEIGHTS": weights("safetensors"), "OUTPUT": str(folder / "out")},
    }[notebook]


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_end_to_end(path: Path, tmp_path: Path, monkeypatch, exhaustive):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in settings(path.stem, tmp_path).items():
                if exhaustive and name == "WEIGHTS":
                    continue  # those that come with the package
                assert f"\n{name} = " in f"\n{cell.source}"
                cell.source += f"\n{name} = {value!r}"
    before = os.listdir(ROOT)
    client = NotebookClient(
        notebook, timeout=200, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    assert sorted(os.listdir(ROOT)) == sorted(before)  # what it writes lies where it is told to
    expected = {
        "train_tpu": {"network.safetensors", "before_after.png"},
        "convert_and_validate": {"network.safetensors", "network.pth"},
        "restore": {"sample-restored.png"},
    }
    assert expected[path.stem] <= written(tmp_path)
    pictures = [
        o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    assert pictures


class Shell:
    """Stands in for IPython: notes what is installed, and clones by copying."""

    def __init__(self, variables: dict):
        self.variables = variables
        self.installed = []

    def system(self, command: str) -> None:
        *_, address, folder = shlex.split(command.format(**self.variables))
        shutil.copytree(Path(address) / "configs", Path(folder) / "configs")

    def run_line_magic(self, name: str, line: str, **_) -> None:
        assert name == "pip"
        self.installed += shlex.split(line.format(**self.variables))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_its_clone_where_nothing_is(path: Path, tmp_path: Path, monkeypatch):
    """As in Colab, where the folder of the clone is no reason to think the package installed."""
    cell = nbformat.read(path, as_version=4).cells[2].source
    code = TransformerManager().transform_cell(cell)
    came_with = ("libtpu",)
    monkeypatch.setattr(
        importlib.metadata, "distributions", lambda name: [name] * (name in came_with)
    )
    folder = tmp_path / "My Drive"
    folder.mkdir()
    monkeypatch.chdir(folder)
    variables = {"REPOSITORY": ""}
    shell = Shell(variables)
    variables["get_ipython"] = lambda: shell
    with pytest.raises(AssertionError, match="REPOSITORY"):
        exec(code, variables)
    for _ in range(2):  # at first there is no clone
        variables["REPOSITORY"], shell.installed = str(ROOT), []
        exec(code, variables)
        assert f"{folder}/mprnet_jax" in [word.split("[")[0] for word in shell.installed]
        assert "jax[tpu]" in shell.installed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
