"""The training recipes: the files in configs/, which installed packages carry along."""

from pathlib import Path

from mprnet_jax.errors import UserError
from mprnet_jax.paths import user_path

# Of an installed package, and of a clone.
FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")


def find_recipe(config: str) -> str:
    """Returns the value of --config with a path in place of a recipe's name.

    Args:
        config: a recipe's name, such as "derain", or the path of a config file; either may be
            followed by ":" and a variant.

    Raises:
        UserError: if there is no such recipe.
    """
    file, colon, variant = config.partition(":")
    if file.endswith(".py") or "/" in file:
        return f"{user_path(file)}{colon}{variant}"
    recipes = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.py"))}
    if file not in recipes:
        raise UserError(
            f"--config={config}: there is no recipe {file!r}, only {', '.join(recipes)}; give one "
            "of these or the path of a config file, which ends in .py"
        )
    return f"{recipes[file]}{colon}{variant}"
