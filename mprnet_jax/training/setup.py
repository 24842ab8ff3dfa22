"""Sets a training run up: its data, devices and functions, and its state at the start."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview

from mprnet_jax.config import TrainConfig, flatten
from mprnet_jax.data.batches import TrainingBatches, training_source, validation_source
from mprnet_jax.devices import hosts, records
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import use_compile_cache
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.build import build_train_step, replicated_shapes
from mprnet_jax.training.interrupts import Interrupts
from mprnet_jax.training.monitor import Monitor, print_on_main
from mprnet_jax.training.state import TrainState
from mprnet_jax.training.summaries import Summaries
from mprnet_jax.training.validation import Validation, Validator
from mprnet_jax.weights import files
from mprnet_jax.weights.checkpoints import Checkpoint, Checkpoints
from mprnet_jax.weights.packing import pack, split, unpack
from mprnet_jax.weights.run_folder import check_same_run, has_checkpoints, write_config


class Run:
    """A training run: what it reads, what it computes with, and what it saves."""

    def __init__(self, config: TrainConfig, workdir: Path):
        """Checks the config and builds the run. Writes nothing yet.

        Raises:
            UserError: for a config that cannot run, or missing data.
        """
        config.validate()
        use_compile_cache(shared=workdir / "compiled")
        self.config = config
        self.workdir = workdir
        self.mesh = meshes.make_mesh(config.mesh.data, config.mesh.height)
        meshes.check_divides(self.mesh, config.batch_size, config.patch_size, config.accumulate)
        meshes.check_divides(self.mesh, config.batch_size, config.validation_crop)
        self.source, self._degrade = training_source(config.data)
        held_out = validation_source(config.data)
        self._local_images = meshes.local_images(self.mesh, config.batch_size)
        hosts.check_shared(workdir)

        params = self._initial_params()
        self.param_shapes = replicated_shapes(params, self.mesh)
        self.init_state, self.train_step = build_train_step(config, self.mesh, params)
        self.validator = Validator(config, self.mesh, held_out, self.param_shapes)

    def _initial_params(self) -> Any:
        """Returns the parameters to start from; once there is a checkpoint, any."""
        if self.config.init_from and not has_checkpoints(self.workdir):
            return read_initial_params(self.config)
        init, _ = pure_functions(self.config.model)
        return init(self.config.seed)

    def claim_workdir(self) -> None:
        """Makes the workdir this run's.

        Raises:
            UserError: if it is that of another run, or cannot be written.
        """
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"workdir {self.workdir}: cannot be made a folder ({error})") from error
        check_same_run(self.workdir, self.config)
        if jax.process_index() == 0:
            write_config(self.workdir, self.config)

    def batches(self, start: int) -> TrainingBatches:
        """Returns the training batches from number `start` on, this host's share of each."""
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
            local_indices=self._local_images,
        )

    def summaries(self, step: int) -> Summaries:
        """Opens an event file after `step` steps; only the first host writes one."""
        return Summaries(self.workdir, step, enabled=jax.process_index() == 0)

    def monitor(self, record: dict[str, Any], batches: TrainingBatches) -> Monitor:
        """Returns what watches the run from a checkpoint's record on."""
        step = record["batches"]
        return Monitor(
            self.config, step, self.source, batches, record["counts"], self.summaries(step)
        )

    def announce_compiling(self) -> AbstractContextManager:
        """Prints a line if compiling the training step within this context takes long."""
        return records.announced(f"the training step of {self.config.name}")

    def validate(self, state: TrainState, interrupts: Interrupts) -> Validation | None:
        """Validates a state; returns None after a signal."""
        return self.validator.validate(state.eval_params, interrupts.should_stop)

    def put(self, batch: dict) -> dict[str, jax.Array]:
        """Puts this host's share of a batch on the devices."""
        return meshes.put_batch(batch, self.mesh, self.config.batch_size, self._local_images.start)

    def restore_or_init(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        """Returns state and record of the newest checkpoint, or those of a new run; see `save`."""
        shapes = replicated_shapes(jax.eval_shape(self.init_state), self.mesh)
        saved = checkpoints.load_newest(self.param_shapes, shapes.without_eval_params())
        if saved is None:
            state = self.init_state()
            overview = parameter_overview.get_parameter_overview(
                self.param_shapes, include_stats=False
            )
            print_on_main(overview)
            return state, {"batches": 0, "counts": {}, "validates": False}
        print_on_main(f"Resuming from step {saved.step} in {self.workdir}")
        params = saved.params
        if isinstance(shapes.eval_params, jax.ShapeDtypeStruct):  # the state holds a vector
            params = unpack(pack(params), shapes.eval_params)
        return TrainState.with_eval_params(params, saved.training_state), saved.record

    def save(
        self,
        checkpoints: Checkpoints,
        step: int,
        state: TrainState,
        counts: dict[str, int],
        validation_due: bool,
    ) -> None:
        """Saves a checkpoint in the background.

        Its record has the number of batches drawn, what went wrong so far, and whether a validation
        was due.
        """
        # Copied, since the record is written in the background too.
        record = {"batches": step, "counts": dict(counts), "validates": validation_due}
        params = state.eval_params
        if isinstance(params, jax.Array):
            params = split(jax.device_get(params), self.param_shapes)
        checkpoints.save(Checkpoint(step, params, state.without_eval_params(), record))

    def show(self, validation: Validation, best_step: int | None) -> None:
        """Prints the result of the run and draws it, on the first host."""
        if jax.process_index():
            return
        picture = self.workdir / "before_after.png"
        validation.write_before_after(picture)
        print_on_main(validation.table())
        print_on_main(f"Best checkpoint: step {best_step}. Before and after: {picture}")
        if self.config.note:
            print_on_main(self.config.note)


def read_initial_params(config: TrainConfig) -> Any:
    """Returns the parameters of `init_from`; UserError if they are of another network."""
    weights = files.read(config.init_from)
    wanted, found = flatten(config.model, fixed_only=True), flatten(weights.config)
    for name in wanted:
        if name != "dtype" and wanted[name] != found[name]:
            raise UserError(
                f"init_from={config.init_from}: holds a network with {name}={found[name]}, "
                f"model.{name} is {wanted[name]}; set --config.model.{name}={found[name]}"
            )
    return weights.params
