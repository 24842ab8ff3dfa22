"""Recipes of training: config files, by the names of those that come with the package or by path.

A config file is Python with a function `get_config`, which returns a `TrainConfig`. What follows a
colon, the variant, is its argument: `derain:sample`, `configs/derain.py:sample`, `~/mine.py`.
"""

import sys
from pathlib import Path
from types import ModuleType

from absl import flags

from mprnet_jax import paths
from mprnet_jax.config import TrainConfig
from mprnet_jax.errors import UserError

PACKAGE = Path(__file__).parent
# In the package where it is installed, beside it in a clone of the repository.
FOLDER = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """Returns the names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def find(text: str) -> tuple[Path, list[str]]:
    """Finds a config file.

    Args:
        text: a recipe's name or a path, and perhaps a variant after a colon. The path may have
            colons too: the first one that follows the name of a recipe or of a file counts.

    Returns:
        The file, and a list of the variant; it is empty if none was given.

    Raises:
        UserError: if there is no such recipe or file.
    """
    parts = text.split(":")
    for count in range(1, len(parts) + 1):
        name, variant = ":".join(parts[:count]), [":".join(parts[count:])][: len(parts) - count]
        if name in names():
            return FOLDER / f"{name}.py", variant
        if (path := paths.absolute(name)).is_file():
            return path, variant
    raise UserError(
        f"--config={text}: there is no such file, and no such recipe; give the path of a config "
        f"file or one of {', '.join(names())}"
    )


def load(text: str) -> TrainConfig:
    """Returns the config of a recipe or of a config file, which is run.

    Raises:
        UserError: if there is no such file, its syntax is wrong, or it returns no TrainConfig.
        Exception: whatever else the config file raises.
    """
    path, variant = find(text)
    module = ModuleType("mprnet_jax_config")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up their module
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except (OSError, SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"--config={path}{line}: {type(error).__name__}: {error}") from error
    exec(code, module.__dict__)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UserError(f"--config={path}: has no attribute 'get_config', a function")
    config = get_config(*variant)
    if not isinstance(config, TrainConfig):
        raise UserError(f"--config={path}: returns no TrainConfig; see {FOLDER}")
    return config


class ConfigParser(flags.ArgumentParser):
    """Parses the flag --config."""

    def parse(self, argument: str) -> TrainConfig:
        """Returns the config of the flag's value; see `load`."""
        return load(argument)
