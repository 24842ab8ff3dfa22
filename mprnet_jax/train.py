"""Trains a network.

Example, on embedded photos with synthetic rain, a few minutes on two CPU cores:

    python -m mprnet_jax.train --config configs/derain.py:sample

A recipe's name means the same in any folder, without a clone of the repository: derain:sample. Any
field of the config can be changed: --config.batch_size=8 --config.optim.learning_rate=1e-4. The
same command in the same workdir resumes an interrupted run. On several hosts, start it on each with
--distributed and a workdir that all of them share.
"""

from absl import flags
from ml_collections import config_flags

from mprnet_jax import recipes
from mprnet_jax.command import run
from mprnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string=f"Recipe ({', '.join(recipes.names())}) or the path of a config file, followed by "
    ":VARIANT if it has variants.",
)
flags.FLAGS["config"].parser = recipes.ConfigParser()
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, TensorBoard files and the result. Default: runs/NAME.",
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Trains together with the same command on other hosts. On TPU pods and under SLURM the hosts "
    "are found automatically; elsewhere give the next three flags.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; the port must be free."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes that train.", 1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.", 0)


def main() -> None:
    """Runs the command."""
    from mprnet_jax.devices import hosts
    from mprnet_jax.training.loop import train

    config = CONFIG.value
    if DISTRIBUTED.value:
        hosts.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    elif (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value) != (None, None, None):
        raise UserError("--coordinator, --num_processes and --process_id need --distributed")
    train(config, WORKDIR.value or f"runs/{config.name}")


if __name__ == "__main__":
    run(main, required=(CONFIG,))
