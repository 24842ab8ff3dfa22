"""Whatever is public says what it is, and the examples in docstrings are true."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("mprnet_jax", "configs", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def undocumented(node: ast.AST, name: str):
    """The public names at and below a module, class or function that have no docstring."""
    if not ast.get_docstring(node):
        yield name
    for child in node.body:
        named = isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_")
        # What lies in a function is no public name.
        if named and not isinstance(node, ast.FunctionDef):
            yield from undocumented(child, f"{name}:{child.name}")


def test_every_public_name_has_a_docstring():
    missing = [
        name
        for path in SOURCES
        for name in undocumented(ast.parse(path.read_text()), path.relative_to(ROOT).as_posix())
    ]
    assert not missing


def examples() -> list[str]:
    """The modules with examples in docstrings."""
    paths = [path for path in SOURCES if ">>> " in path.read_text()]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


@pytest.mark.parametrize("module", examples())
def test_examples_are_true(module: str):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed
