"""Trains a network.

Example, on embedded photos with synthetic rain, a few minutes on two CPU cores:

    python -m mprnet_jax.train --config configs/derain.py:sample

Any field of the config can be changed: --config.batch_size=8 --config.optim.learning_rate=1e-4.
The same command in the same workdir resumes an interrupted run.
"""

from absl import flags
from ml_collections import config_flags

from mprnet_jax.command import run
from mprnet_jax.config import TrainConfig
from mprnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Config file, with :VARIANT behind it where it has variants."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: checkpoints, TensorBoard files, result. Default: runs/NAME.",
)
flags.mark_flag_as_required("config")


def main() -> None:
    """Runs the command."""
    from mprnet_jax.training.loop import train

    config = CONFIG.value
    if not isinstance(config, TrainConfig):
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"--config={file}: there is no such config file; see configs/")
    train(config, WORKDIR.value or f"runs/{config.name}")


if __name__ == "__main__":
    run(main)
