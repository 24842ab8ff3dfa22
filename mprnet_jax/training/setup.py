"""Sets a training run up: its data, devices and functions, and its state at the start."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
from absl import logging
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mprnet_jax import paths
from mprnet_jax.atomic import make_folder
from mprnet_jax.config import MeshConfig, TrainConfig, flatten
from mprnet_jax.data.batches import TrainingBatches, training_source, validation_source
from mprnet_jax.devices import hosts, records
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import use_compile_cache
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.build import (
    build_train_step,
    convert_params,
    nested_params,
    replicated_abstract,
)
from mprnet_jax.training.interrupts import Interrupts
from mprnet_jax.training.monitor import Monitor
from mprnet_jax.training.state import TrainState
from mprnet_jax.training.summaries import MetricWriter, Summaries
from mprnet_jax.training.validation import ValidationResult, Validator
from mprnet_jax.weights import files, names
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints, check_name
from mprnet_jax.weights.run_folder import check_same_run, has_checkpoints, write_config

# What happens if a set grows or shrinks in the course of a run.
CHANGED_SET = {
    "training": "it is shuffled anew, so some examples of this epoch repeat and others are missed, "
    "and the run is not what either set alone would give",
    "held-out": "scores from now on cannot be compared with those before, so the best checkpoint "
    "may not be the best one",
}


class Run:
    """A training run: its config, devices, data and compiled functions."""

    def __init__(self, config: TrainConfig, workdir: Path, writers: Sequence[MetricWriter] = ()):
        """Checks the config and builds the run.

        Writes no run data. With several processes it creates the workdir, to check that it is
        shared. Sets the compile cache of this process.

        Raises:
            UserError: for a config that cannot run, missing data, weights of `init_from` that
                cannot be read or are of another network, or a workdir that is not shared.
        """
        config.validate()
        check_name(workdir)
        use_compile_cache(shared=workdir / "compiled")
        self.config = config
        self.workdir = workdir
        self._writers = writers
        self.mesh = meshes.make_mesh(config.mesh.data, config.mesh.height)
        warn_of_idle_devices(self.mesh, config.mesh)
        meshes.check_divides(
            self.mesh,
            config.batch_size,
            config.accumulate,
            patch_size=config.patch_size,
            validation_crop=config.validation_crop,
        )
        # Processes connect now, as finding the data may take longer than connecting may.
        multihost_utils.sync_global_devices("all have begun")
        self.source, self._degrade = training_source(config.data)
        held_out = validation_source(config.data)
        self._local_indices = meshes.local_images(self.mesh, config.batch_size)
        hosts.check_same_folder(workdir)

        params = self._initial_params()
        self.abstract_params = replicated_abstract(params, self.mesh)
        self.init_state, self.train_step = build_train_step(config, self.mesh, params)
        self.validator = Validator(config, self.mesh, held_out, self.abstract_params)

    def _initial_params(self) -> Any:
        """Returns the parameters of a new run; if it has checkpoints, only their shapes count."""
        if self.config.init_from and not has_checkpoints(self.workdir):
            return read_initial_params(self.config)
        init, _ = pure_functions(self.config.model)
        return init(self.config.seed)

    def claim_workdir(self) -> None:
        """Creates the workdir, checks that it belongs to the same run, and writes config.json.

        Raises:
            UserError: if it belongs to another run, or cannot be written.
        """
        make_folder(self.workdir)
        check_same_run(self.workdir, self.config)
        if hosts.is_main_process():
            write_config(self.workdir, self.config)

    def batches(self, start: int) -> TrainingBatches:
        """Returns the training batches from index `start` on: this process's share of each.

        Raises:
            UserError: if no example can be read.
        """
        config = self.config
        return TrainingBatches(
            self.source,
            self._degrade,
            num_workers=config.data.num_workers,
            batch_size=config.batch_size,
            patch_size=config.patch_size,
            saturation=config.data.saturation,
            seed=config.seed,
            start=start,
            local_indices=self._local_indices,
        )

    def summaries(self, step: int) -> Summaries:
        """Opens an event file after `step` steps, beside the run's writers. Only process 0 writes.

        Raises:
            UserError: if it cannot be written.
        """
        return Summaries(self.workdir, step, hosts.is_main_process(), self._writers)

    def monitor(self, record: dict[str, Any], batches: TrainingBatches) -> Monitor:
        """Returns a monitor that continues from a checkpoint's record."""
        step, counts = record["batches"], record["counts"]
        summaries = self.summaries(step)
        summaries.write_config(step, self.config)
        return Monitor(self.config, step, len(self.source), batches, counts, summaries)

    def compile_step(self, state: TrainState, batch: dict[str, jax.Array]) -> None:
        """Compiles the training step if there are several processes; one does at the first call."""
        with self.announce_compiling():
            self.train_step = hosts.compile_together(self.train_step, state, batch)

    def announce_compiling(self) -> AbstractContextManager:
        """Prints a line if compiling the training step within this context takes long."""
        return records.announced(f"the training step of {self.config.name}")

    def validate(self, state: TrainState, interrupts: Interrupts) -> ValidationResult | None:
        """Validates a state; returns None after a signal. All processes must call this."""
        return self.validator.validate(state.eval_params, interrupts.should_stop)

    def shard_batch(self, batch: dict) -> dict[str, jax.Array]:
        """Puts this process's share of a batch on the devices; see `mesh.put_batch`."""
        return meshes.put_batch(batch, self.mesh, self.config.batch_size, self._local_indices.start)

    def restore_or_init(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        """Returns the state and the record of the newest checkpoint, or those of a new run.

        The record's keys are "batches", the number of batches drawn, which is that of steps done;
        "counts", the counters of `Guard`; "validates", whether a validation was due when the
        checkpoint was saved; and, in records of checkpoints, "examples", the sizes of the sets.

        Raises:
            UserError: if there are checkpoints, but none can be read.
        """
        abstract_state = replicated_abstract(jax.eval_shape(self.init_state), self.mesh)
        saved = checkpoints.load_newest(self.abstract_params, abstract_state.without_eval_params())
        if saved is None:
            state = self.init_state()
            overview = parameter_overview.get_parameter_overview(
                self.abstract_params, include_stats=False
            )
            hosts.print_on_main(overview)
            return state, {"batches": 0, "counts": {}, "validates": False}
        hosts.print_on_main(paths.shown(f"Resuming from step {saved.step} in {self.workdir}"))
        self._warn_of_changed_sets(saved)
        params = convert_params(saved.params, abstract_state.eval_params)
        return TrainState.with_eval_params(params, saved.training_state), saved.record

    def save(
        self,
        checkpoints: Checkpoints,
        step: int,
        state: TrainState,
        counts: dict[str, int],
        validation_due: bool,
    ) -> None:
        """Saves a checkpoint in the background, with the record that `restore_or_init` describes.

        Raises:
            UserError: if this or an earlier checkpoint cannot be written.
        """
        # The counts are copied, since the record is written in the background too.
        record = {
            "batches": step,
            "counts": dict(counts),
            "validates": validation_due,
            "examples": self._set_sizes,
        }
        params = nested_params(state.eval_params, self.abstract_params)
        checkpoints.save(Checkpoint(step, params, state.without_eval_params(), record))

    @property
    def _set_sizes(self) -> dict[str, int]:
        return {"training": len(self.source), "held-out": len(self.validator.held_out)}

    def _warn_of_changed_sets(self, saved: Checkpoint) -> None:
        """Logs a warning in process 0 for each set that grew or shrank since a checkpoint."""
        before = saved.record.get("examples", {})  # older versions did not save it
        for name, size in self._set_sizes.items():
            if hosts.is_main_process() and before.get(name, size) != size:
                logging.warning(
                    "the %s set has %d examples, and had %d when step %d was saved: %s",
                    name,
                    size,
                    before[name],
                    saved.step,
                    CHANGED_SET[name],
                )

    def show(self, validation: ValidationResult, best_step: int | None) -> None:
        """Prints the result of the run and writes before_after.png, in process 0.

        Raises:
            UserError: if the file cannot be written.
        """
        if not hosts.is_main_process():
            return
        picture = self.workdir / "before_after.png"
        validation.write_before_after(picture)
        hosts.print_on_main(validation.table())
        hosts.print_on_main(
            paths.shown(f"Best checkpoint: step {best_step}. Before and after: {picture}")
        )
        if self.config.note:
            hosts.print_on_main(self.config.note)


def warn_of_idle_devices(mesh: Mesh, config: MeshConfig) -> None:
    """Warns if devices stay idle though the config asks for all remaining ones."""
    count = jax.device_count()
    if -1 in (config.data, config.height) and mesh.size < count:
        logging.warning(
            "mesh.data=%d x mesh.height=%d leaves %d of %d devices idle",
            *mesh.devices.shape,
            count - mesh.size,
            count,
        )


def read_initial_params(config: TrainConfig) -> Any:
    """Returns the parameters of `init_from`, a nested dict of arrays.

    Raises:
        UserError: if they cannot be read or are of another network.
    """
    weights = files.read(config.init_from)
    # Fields that affect no shape may differ, such as the widths of U-Nets where there are none.
    if names.name_table(weights.config) == names.name_table(config.model):
        return weights.params
    wanted, found = flatten(config.model, fixed_only=True), flatten(weights.config)
    for name in wanted:
        if name != "dtype" and wanted[name] != found[name]:
            raise UserError(
                f"init_from={config.init_from}: holds a network with {name}={found[name]}, "
                f"model.{name} is {wanted[name]}; set --config.model.{name}={found[name]}"
            )
    return weights.params
