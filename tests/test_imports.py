"""The rules of who imports whom keep files and folders free of circles, and the package light."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mprnet_jax"
TOP = ("config", "errors", "atomic", "command", "paths", "symmetries", "threads", "version")
# Folder -> the folders it may import from. Commands and the package itself may import any.
ALLOWED = {
    "ops": (),
    "compat": (),
    "imageio": (),
    "model": ("ops",),
    "devices": (),
    "weights": ("model", "devices", "compat"),
    "export": ("model", "weights", "compat"),
    "data": ("devices", "imageio", "compat"),
    "training": ("model", "devices", "weights", "data", "imageio", "compat"),
    "evaluation": ("model", "devices", "weights", "data", "imageio"),
    "restoration": ("model", "devices", "weights", "imageio", "export"),
}
# Package -> the only places that may import it; "" stands for the top of the package.
ONLY = {
    "orbax": ("weights/store.py", "compat/orbax.py"),
    "grain": ("data",),
    "tensorflow_datasets": ("data", "compat/tfds.py"),
    "gradio": ("demo.py", "compat/gradio.py"),
    "safehttpx": ("compat/gradio.py",),
    "huggingface_hub": ("weights/hub.py", "weights/card.py", "demo.py"),
    "onnx": ("export",),
    "onnxruntime": ("export/runtimes.py",),
    "openvino": ("compat/openvino.py",),
    "torch": ("weights", "evaluation/perceptual.py"),
}
# These run where nothing but jax, flax, optax and numpy is installed.
BARE = ("model", "ops", "training/losses.py", "training/optimizer.py", "training/state.py")
BARE += ("training/step.py", "training/mixup.py", "training/build.py")
BARE += ("devices/compiling.py", "devices/mesh.py")

# Why `except Exception` may stand there: file -> reason. compat/ and these alone.
BROAD = {
    "weights/checkpoints.py": "closing after an error, which is raised, may fail because of it",
    "weights/store.py": "Orbax raises bare `Exception`s for disks; defects are raised again",
    "command.py": "while flags are parsed a config file runs, which is the user's code",
    "weights/torch_reference.py": "--reference names a file that is the user's code",
}
# Underscored names that their libraries document.
DOCUMENTED = ("_replace", "_asdict", "_fields", "_make", "_exit")


def imports(path):
    """(module, whether at the top of the file) of every import."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield name, id(node) in top


def sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).as_posix()


def test_folders_import_in_one_direction():
    for path, name in sources():
        folder = name.split("/")[0]
        if folder not in ALLOWED or name.endswith("__init__.py"):
            continue
        for module, _ in imports(path):
            if module.startswith("mprnet_jax."):
                other = module.split(".")[1]
                assert other in (*TOP, folder, *ALLOWED[folder]), f"{name} imports {module}"


def test_no_files_import_each_other():
    """Nor do they in a larger circle; imports inside functions count too."""
    files = {
        "mprnet_jax." + name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path, name in sources()
        if path.parent != PACKAGE or path.name != "__init__.py"
    }
    imported = {}
    for file, path in files.items():
        targets = [module for module, _ in imports(path) if module.startswith("mprnet_jax.")]
        # `from package.module import name` is listed as package.module.name.
        names = {name for target in targets for name in (target, target.rpartition(".")[0])}
        imported[file] = names & files.keys() - {file}
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_heavy_packages_stay_in_their_place():
    for path, name in sources():
        for module, at_top in imports(path):
            package = module.split(".")[0]
            if package in ONLY:
                assert name.startswith(ONLY[package]), f"{name} imports {module}"
            if package in ("torch", "huggingface_hub"):
                assert not at_top, f"{name} imports {package} at its top"


def test_the_core_needs_jax_flax_optax_and_numpy_only():
    known = {"jax", "flax", "optax", "numpy", "mprnet_jax", *sys.stdlib_module_names}
    for path, name in sources():
        if name.startswith(BARE):
            for module, _ in imports(path):
                assert module.split(".")[0] in known, f"{name} imports {module}"


def test_importing_the_package_is_light():
    heavy = ("torch", "orbax", "grain", "tensorflow_datasets", "cv2", "skimage", "PIL")
    heavy += ("huggingface_hub",)
    code = f"import sys, mprnet_jax; print([m for m in {heavy} if m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["convert", "corpus", "evaluate", "prepare"])
def test_a_command_imports_what_it_needs(name):
    """From nothing, unlike those that start warm; other tests start the other commands so."""
    command = [sys.executable, "-m", f"mprnet_jax.{name}", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"python -m mprnet_jax.{name} " in result.stdout


def test_broad_handlers_have_a_reason():
    found = set()
    for path, name in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            caught = ""
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "BaseException"
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                caught = ", ".join(map(ast.unparse, node.args))
            if {"Exception", "BaseException"} & set(caught.strip("()").split(", ")):
                found.add(name)
    assert {name for name in found if not name.startswith("compat/")} == set(BROAD)


def test_private_parts_of_others_stay_in_compat():
    def private(name):
        return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED

    for path, name in sources():
        if name.startswith("compat/"):
            continue
        tree = ast.parse(path.read_text())
        own = {node.attr for node in ast.walk(tree) if is_own(node)}
        own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not {attr for attr in used - own if private(attr)}, name
        for module, _ in imports(path):
            assert not any(private(part) for part in module.split(".")), f"{name}: {module}"


def is_own(node):
    """Whether a syntax node is an attribute of `self` or `cls`."""
    owner = getattr(node, "value", None)
    return isinstance(node, ast.Attribute) and getattr(owner, "id", "") in ("self", "cls")
