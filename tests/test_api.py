"""The public names: each has its page, and none changes unseen.

`python tests/test_api.py` writes `tests/api.txt` anew; CONTRIBUTING says when that is right.
"""

import ast
import dataclasses
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SNAPSHOT = ROOT / "tests/api.txt"
SPECIAL = ("__init__", "__call__", "__len__", "__getitem__")


def source_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def public_modules() -> dict[str, list[str]]:
    """The names in `__all__` by module."""
    found = {}
    for path in sorted((ROOT / "mprnet_jax").rglob("*.py")):
        text = path.read_text()
        for node in ast.parse(text).body if "__all__" in text else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                parts = path.relative_to(ROOT).with_suffix("").parts
                module = ".".join(part for part in parts if part != "__init__")
                found[module] = ast.literal_eval(node.value)
    return found


def signature(function: ast.FunctionDef) -> str:
    """The parameters with their defaults; annotations may become more exact."""
    for argument in ast.walk(function.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return f"({ast.unparse(function.args)})"


def default_of(module: str, name: str, field: str) -> str:
    """The default of a dataclass's field, as it is and not as it is written."""
    owner = getattr(importlib.import_module(module), name)
    for found in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
        if found.name == field and found.default is not dataclasses.MISSING:
            return f" = {found.default!r}"
    return ""


def described(module: str, name: str) -> Iterator[str]:
    """Lines for a name of a module: its parameters; of a class the fields and public methods."""
    for node in ast.parse(source_of(module).read_text()).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            yield from [name] if node.module in public_modules() else described(node.module, name)
        elif isinstance(node, ast.FunctionDef) and node.name == name:
            yield name + signature(node)
        elif isinstance(node, ast.ClassDef) and node.name == name:
            yield name
            for part in node.body:
                if isinstance(part, ast.AnnAssign):
                    field = ast.unparse(part.target)
                    yield f"{name}.{field}{default_of(module, name, field)}"
                if isinstance(part, ast.FunctionDef) and (
                    part.name in SPECIAL or not part.name.startswith("_")
                ):
                    yield f"{name}.{part.name}{signature(part)}"


def api() -> str:
    lines = [
        f"{module}.{line}"
        for module, names in public_modules().items()
        for name in names
        for line in described(module, name)
    ]
    return "\n".join(lines) + "\n"


def test_names_and_signatures_are_those_of_the_snapshot():
    assert api() == SNAPSHOT.read_text(), "see 'Public names' in CONTRIBUTING.md"


def test_public_names_exist():
    modules = public_modules()
    assert set(modules["mprnet_jax"]) >= {"MPRNet", "Restorer", "load"}
    for module, names in modules.items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_each_public_module_has_its_page():
    pages = [path.read_text() for path in (ROOT / "docs/api").glob("*.md")]
    shown = [module for page in pages for module in re.findall(r"^::: (\S+)$", page, re.M)]
    assert sorted(shown) == sorted(public_modules())


if __name__ == "__main__":
    SNAPSHOT.write_text(api())
