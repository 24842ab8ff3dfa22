"""The training run: set up or resume, then validate, save, next batch, step, log, in this order.

Saving before the next batch is drawn makes a saved step and its data position agree.
"""

import functools
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from tqdm import tqdm

from mprnet_jax.config import TrainConfig, flatten
from mprnet_jax.data.pipeline import (
    TrainingBatches,
    training_source,
    validation_batches,
    validation_source,
)
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import jit, use_compile_cache
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.mixup import mixup
from mprnet_jax.training.optimizer import make_optimizer, schedule
from mprnet_jax.training.state import TrainState, create_state
from mprnet_jax.training.step import Batch, Metrics, train_step, validation_step
from mprnet_jax.training.summaries import Summaries, Validation
from mprnet_jax.weights import files
from mprnet_jax.weights.checkpoints import (
    UNSCORED,
    Checkpoint,
    Checkpoints,
    read_config,
    write_config,
)

SHOWN = 4  # pairs on a validation sheet


def train(config: TrainConfig, workdir: Path | str) -> Validation:
    """Trains until `config.total_steps`, from where `workdir` stands, and returns the last scores.

    Raises:
        UserError: for a config that cannot run, missing or broken data, a workdir of another run,
            and a loss that is no longer finite.
    """
    return Run(config, Path(workdir)).train()


class Run:
    """A training run and what it is made of."""

    def __init__(self, config: TrainConfig, workdir: Path):
        config.validate()
        use_compile_cache()
        self.config = config
        self.workdir = workdir
        self.is_main = jax.process_index() == 0
        self.mesh = meshes.make_mesh(config.mesh.data, config.mesh.height)
        meshes.check_divides(self.mesh, config.batch_size, config.patch_size)
        meshes.check_divides(self.mesh, config.batch_size, config.validation_crop)
        # Missing data is found out before anything is written.
        self.source = training_source(config.data)
        self.held_out = validation_source(config.data)

        init, apply = pure_functions(config.model)
        optimizer = make_optimizer(config.optim, config.total_steps)
        self.fresh = lambda: create_state(init(config.seed), optimizer)
        if config.init_from:
            start = load_start(config)
            self.fresh = lambda: create_state(start, optimizer)

        mix, from_step = None, config.data.mixup_from_step
        if from_step:
            mix = functools.partial(mixup, seed=config.seed, from_step=from_step)

        copies = meshes.replicated(self.mesh)
        images = meshes.image_sharding(self.mesh)
        rate = schedule(config.optim, config.total_steps)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            after, metrics = train_step(
                state, batch, apply=apply, optimizer=optimizer, loss=config.loss, mix=mix
            )
            return after, metrics | {"learning_rate": rate(state.step)}

        self.step = jit(step, in_shardings=(copies, images), out_shardings=copies, donate_argnums=0)
        self.validation_step = jit(
            functools.partial(validation_step, apply=apply),
            in_shardings=(copies, images),
            out_shardings=copies,
        )

    def train(self) -> Validation:
        """See the function `train`."""
        self.claim_workdir()
        checkpoints = Checkpoints(self.workdir)
        try:
            state, position = self.first_state(checkpoints)
            first = int(state.step)
            if first == self.config.total_steps:
                self.say(f"This run is finished: {first} steps. Its result:")
                validation = self.validate(state.params)
            else:
                validation = self.steps(state, position, checkpoints)
        finally:
            checkpoints.close()
        self.show(validation, checkpoints.best_step)
        return validation

    def steps(self, state: TrainState, position: int, checkpoints: Checkpoints) -> Validation:
        """Trains from `state` and batch number `position` to the end."""
        config = self.config
        first, total = int(state.step), config.total_steps
        batches = self.batches(position)
        summaries = Summaries(self.workdir, first, enabled=self.is_main)
        bar = Progress(config, first, enabled=self.is_main)
        running = None  # the metrics of the step that the devices work on
        try:
            for step in range(first, total + 1):
                validates = due(step, config.validate_every, first, total)
                saves = validates or due(step, config.checkpoint_every, first, total)
                if saves:
                    self.report(step, running, bar, summaries)
                    running = None
                    validation = self.validate(state.params) if validates else None
                    self.save(checkpoints, state, validation)
                    if validation:
                        summaries.validation(step, validation)
                    bar.restart()
                if step == total:
                    return validation
                batch = meshes.put_images(next(batches), self.mesh)
                state, metrics = self.step(state, batch)
                # Reading the step before only now keeps the devices busy meanwhile.
                self.report(step, running, bar, summaries)
                running = metrics
        finally:
            bar.close()
            batches.close()
            summaries.close()

    def report(self, step: int, metrics: Metrics | None, bar: "Progress", summaries: Summaries):
        """Waits for the metrics of the step that led to `step` and shows them.

        Raises:
            UserError: if the loss is not finite.
        """
        if metrics is None:
            return
        values = jax.device_get(metrics)
        loss = values["loss"]
        if not np.isfinite(loss):
            raise UserError(
                f"step {step}: the loss is {loss}; the checkpoints in {self.workdir} are sound. "
                "Lower optim.learning_rate or set optim.clip_norm=0.01, and start anew in another "
                "workdir"
            )
        bar.update(values)
        if step % self.config.log_every == 0:
            summaries.scalars(step, values | {"images_per_second": bar.images_per_second})

    def claim_workdir(self) -> None:
        """Makes the workdir this run's."""
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"workdir {self.workdir}: cannot be made a folder ({error})") from error
        check_same_run(self.workdir, self.config)
        if self.is_main:
            write_config(self.workdir, self.config)

    def first_state(self, checkpoints: Checkpoints) -> tuple[TrainState, int]:
        """The newest checkpoint's state and data position, or a fresh state and 0."""
        copies = meshes.replicated(self.mesh)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=copies),
            jax.eval_shape(self.fresh),
        )
        rest = {"step": shapes.step, "opt_state": shapes.opt_state}
        saved = checkpoints.load_newest(shapes.params, rest)
        if saved is None:
            state = jax.device_put(self.fresh(), copies)
            self.say(parameter_overview.get_parameter_overview(state.params, include_stats=False))
            return state, 0
        self.say(f"Resuming from step {saved.step} in {self.workdir}")
        state = TrainState(saved.rest["step"], saved.params, saved.rest["opt_state"])
        return state, saved.record["batches"]

    def batches(self, start: int) -> TrainingBatches:
        """The training batches from number `start` on."""
        config = self.config
        return TrainingBatches(
            *self.source,
            num_workers=config.data.num_workers,
            batch_size=config.batch_size,
            patch_size=config.patch_size,
            saturation=config.data.saturation,
            seed=config.seed,
            start=start,
        )

    def validate(self, params: Any) -> Validation:
        """Restores the centre crops of the held-out pairs."""
        scores, shown = [], []
        data = self.mesh.shape["data"]
        batch_size = min(self.config.batch_size, -(-len(self.held_out) // data) * data)
        crop = self.config.validation_crop
        for batch, count in validation_batches(self.held_out, batch_size, crop):
            result = self.validation_step(params, meshes.put_same_images(batch, self.mesh))
            scores.append(np.asarray(result["psnr"])[:, :count])
            for i in range(min(count, SHOWN - len(shown))):
                stages = np.asarray(result["images"][:, i])
                shown.append([batch["degraded"][i], *stages, batch["target"][i]])
        return Validation(self.held_out.names, np.concatenate(scores, axis=1), shown)

    def save(self, checkpoints: Checkpoints, state: TrainState, validation: Validation | None):
        """Saves a checkpoint; one with a validation may become the best."""
        step = int(state.step)
        rest = {"step": state.step, "opt_state": state.opt_state}
        record = {"batches": step}  # the data position
        score = validation.score if validation else UNSCORED
        checkpoints.save(Checkpoint(step, state.params, rest, record), score)

    def show(self, validation: Validation, best_step: int | None) -> None:
        """Prints the result and draws it."""
        if not self.is_main:
            return
        picture = self.workdir / "before_after.png"
        validation.write_before_after(picture)
        self.say(validation.table())
        self.say(f"Best checkpoint: step {best_step}. Before and after: {picture}")
        if self.config.note:
            self.say(self.config.note)

    def say(self, text: str) -> None:
        """Prints on the first host only."""
        if self.is_main:
            print(text, flush=True)


def load_start(config: TrainConfig) -> Any:
    """The parameters of `init_from`; UserError unless they are of the config's network."""
    weights = files.read(config.init_from)
    wanted, found = flatten(config.model), flatten(weights.config)
    for name in wanted:
        if name != "dtype" and wanted[name] != found[name]:
            raise UserError(
                f"init_from={config.init_from}: holds a network with {name}={found[name]}, "
                f"model.{name} is {wanted[name]}; set --config.model.{name}={found[name]}"
            )
    return weights.params


class Progress:
    """The progress bar: steps/s, time left, loss, learning rate, images/s."""

    def __init__(self, config: TrainConfig, first: int, *, enabled: bool):
        self._batch_size = config.batch_size
        self._bar = tqdm(
            total=config.total_steps,
            initial=first,
            desc=config.name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not enabled,
        )
        self.restart()

    def restart(self) -> None:
        """Starts the clock of images/s: validating and saving do not count."""
        self._steps, self._time = 0, time.perf_counter()

    def update(self, values: Mapping[str, float]) -> None:
        """Counts a step with the values of its metrics."""
        self._steps += 1
        self._bar.set_postfix_str(
            f"loss {values['loss']:.4f}, rate {values['learning_rate']:.1e}, "
            f"{self.images_per_second:.1f} images/s",
            refresh=False,
        )
        self._bar.update()

    @property
    def images_per_second(self) -> float:
        """Since the last `restart`."""
        return self._steps * self._batch_size / (time.perf_counter() - self._time)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


def due(step: int, every: int, first: int, last: int) -> bool:
    """Whether something that happens every so many steps happens now; at the end it does."""
    return (step > first and step % every == 0) or step == last


def check_same_run(workdir: Path, config: TrainConfig) -> None:
    """Raises UserError if `workdir` holds a run that computes something else."""
    if not (workdir / "config.json").exists():
        return
    theirs = read_config(workdir)
    for name, ours in flatten(config, deciding=True).items():
        value = functools.reduce(lambda node, key: node.get(key, {}), name.split("."), theirs)
        if value != ours:
            raise UserError(
                f"workdir {workdir}: belongs to a run with {name}={value}, this one has "
                f"{name}={ours}; choose another --workdir, or the same value"
            )
