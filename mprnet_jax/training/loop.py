"""The training run: set up or resume, then validate, save, next batch, step, log, in this order.

Saving before the next batch is drawn makes a saved step and its data position agree. A step counts
when its batch is drawn, also if it is skipped, so step number n always has batch number n.
"""

import contextlib
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from clu import parameter_overview

from mprnet_jax.config import TrainConfig, flatten
from mprnet_jax.data.batches import (
    TrainingBatches,
    training_source,
    validation_batches,
    validation_source,
)
from mprnet_jax.devices import hosts, memory, records
from mprnet_jax.devices import mesh as meshes
from mprnet_jax.devices.compiling import compile_in_background, jit, use_compile_cache
from mprnet_jax.errors import UserError
from mprnet_jax.model.mprnet import pure_functions
from mprnet_jax.training.guard import Guard
from mprnet_jax.training.interrupts import Interrupts
from mprnet_jax.training.mixup import mixup
from mprnet_jax.training.optimizer import make_optimizer, schedule
from mprnet_jax.training.progress import Progress, Trace
from mprnet_jax.training.state import TrainState, create_state
from mprnet_jax.training.step import Batch, Metrics, of_vector, train_step, validation_step
from mprnet_jax.training.summaries import Summaries, Validation
from mprnet_jax.weights import files
from mprnet_jax.weights.checkpoints import UNSCORED, Checkpoint, Checkpoints
from mprnet_jax.weights.packing import join, pack, split, unpack
from mprnet_jax.weights.run_folder import check_same_run, has_checkpoints, write_config

SHOWN = 4  # pairs on a validation sheet
TAKES_LESS = (
    "--config.accumulate=2 or more and --config.model.remat=cab take less each, and in a new "
    "workdir --config.model.dtype=bfloat16"
)


def train(config: TrainConfig, workdir: Path | str) -> Validation | None:
    """Trains until `config.total_steps`, from where `workdir` stands, and returns the last scores.

    SIGTERM and Ctrl-C save a checkpoint and end it earlier; then there are no scores.

    Raises:
        UserError: for a config that cannot run, missing or broken data, a workdir of another run
            or one that cannot be written, and when too many steps in a row had to be skipped.
    """
    memory.limit_malloc_arenas()
    with (
        Interrupts() as interrupts,
        hosts.report_lost_host(),
        memory.report_out_of_memory(TAKES_LESS),
    ):
        return Run(config, Path(workdir)).train(interrupts)


class Run:
    """A training run and what it is made of."""

    def __init__(self, config: TrainConfig, workdir: Path):
        config.validate()
        use_compile_cache(shared=workdir / "compiled")
        self.config = config
        self.workdir = workdir
        self.is_main = jax.process_index() == 0
        self.mesh = meshes.make_mesh(config.mesh.data, config.mesh.height)
        meshes.check_divides(self.mesh, config.batch_size, config.patch_size, config.accumulate)
        meshes.check_divides(self.mesh, config.batch_size, config.validation_crop)
        # Missing data is found out before anything is written.
        self.source, self.degrade = training_source(config.data)
        self.held_out = validation_source(config.data)
        self.share = meshes.local_images(self.mesh, config.batch_size)
        hosts.check_shared(workdir)

        init, apply = pure_functions(config.model)
        apply = functools.partial(apply, constrain=meshes.sharding_constraint(self.mesh))
        optimizer = make_optimizer(config.optim, config.total_steps)
        tuned = config.init_from and not has_checkpoints(workdir)
        start = load_start(config) if tuned else init(config.seed)
        copies = meshes.replicated(self.mesh)
        self.shapes = jax.tree.map(  # of the parameters
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=copies), start
        )
        self.validation_step = jit(
            functools.partial(validation_step, apply=apply), out_shardings=copies
        )
        if jax.default_backend() != "tpu":
            start, apply = join(start), of_vector(apply, self.shapes)
        # One program, since a thousand small ones for the optimizer's arrays take a second.
        create = functools.partial(create_state, optimizer=optimizer, config=config.optim)
        self.fresh = functools.partial(jax.jit(create, out_shardings=copies), start)

        mix, from_step = None, config.data.mixup_from_step
        if from_step:
            mix = functools.partial(mixup, seed=config.seed, from_step=from_step)
        rate = schedule(config.optim, config.total_steps)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            after, metrics = train_step(
                state,
                batch,
                apply=apply,
                optimizer=optimizer,
                loss=config.loss,
                optim=config.optim,
                accumulate=config.accumulate,
                mix=mix,
            )
            metrics["learning_rate"] = rate(state.step)
            return after, metrics | {"unreadable": jnp.sum(batch["unreadable"])}

        self.step = jit(step, out_shardings=copies, donate_argnums=0)
        data = self.mesh.shape["data"]
        self.validation_batch = min(config.batch_size, -(-len(self.held_out) // data) * data)

    def train(self, interrupts: Interrupts) -> Validation | None:
        """See the function `train`."""
        self.interrupts = interrupts
        self.claim_workdir()
        with Checkpoints(self.workdir) as checkpoints:
            state, record = self.first_state(checkpoints)
            first = record["batches"]
            if first == self.config.total_steps:
                self.say(f"This run is finished: {first} steps. Its result:")
                validation = self.validate(state.weights)
                if validation and checkpoints.score(first) == UNSCORED:
                    summaries = Summaries(self.workdir, first, enabled=self.is_main)
                    summaries.validation(first, validation)
                    summaries.close()
                    self.score(checkpoints, first, validation)
            else:
                validation = self.steps(state, record, checkpoints)
        if validation:
            self.show(validation, checkpoints.best_step)
        return validation

    def steps(
        self, state: TrainState, record: dict[str, Any], checkpoints: Checkpoints
    ) -> Validation | None:
        """Trains from a checkpoint's state and record to the end, or until a signal."""
        config, first, total = self.config, record["batches"], self.config.total_steps
        batches = self.batches(first)  # before the bar, for it may say that nothing can be read
        bar = Progress(config, first, enabled=self.is_main)
        guard = Guard(config, self.source, bar.tell, record["counts"])
        summaries = Summaries(self.workdir, first, enabled=self.is_main)
        # One host's, since the files of several on one machine would bear one name.
        trace = Trace(self.workdir, first, config.profile_steps if self.is_main else 0)
        running = None  # the metrics of the step that the devices work on
        saves = False
        # What was due when the checkpoint was saved may not have been done any more.
        validates = record["validates"] and checkpoints.score(first) == UNSCORED

        def report(step: int) -> None:
            """Waits for step number `step`, checks and shows it."""
            if running is None:
                return
            values = jax.device_get(running)
            guard.check(step, values, lambda: batches.names(step - 1))
            bar.update(values)
            if step % config.log_every == 0:
                shown = {name: values[name] for name in values if name not in guard.counts}
                summaries.scalars(step, shown | guard.counts | bar.speed)

        try:
            for step in range(first, total + 1):
                stops = self.interrupts.stop()
                saves |= due(step, config.checkpoint_every, first, total)
                validates |= due(step, config.validate_every, first, total)
                if stops or saves or validates:
                    report(step)
                    running = validation = None
                    # After a skipped step both wait for the next sound one: where no step helps any
                    # more, what led there should not replace what is sound.
                    if stops or step == total or not guard.counts["skipped_in_a_row"]:
                        self.save(checkpoints, step, state, guard.counts, validates)
                        if validates and not stops:
                            validation = self.validate(state.weights)
                        if validation:
                            summaries.validation(step, validation)
                            self.score(checkpoints, step, validation)
                        saves = validates = False
                    bar.restart()
                    stops = self.interrupts.stop()  # validating may have taken long
                if stops:
                    self.save(checkpoints, step, state, guard.counts, validates)
                    checkpoints.wait()
                    self.say(f"Stopped after step {step}; the same command goes on from there.")
                    return None
                if step == total:
                    return validation
                trace.before(step, state)
                batch = guard.look_at(next(batches))
                batch = meshes.put_batch(batch, self.mesh, config.batch_size, self.share.start)
                with self.announced("training step", step == first):
                    state, metrics = self.step(state, batch)
                if step == first:
                    self.prepare_validation()
                # Reading the step before only now keeps the devices busy meanwhile.
                report(step)
                running = metrics
                checkpoints.check()
        finally:
            bar.close()
            trace.close()
            batches.close()
            summaries.close()

    def claim_workdir(self) -> None:
        """Makes the workdir this run's."""
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"workdir {self.workdir}: cannot be made a folder ({error})") from error
        check_same_run(self.workdir, self.config)
        if self.is_main:
            write_config(self.workdir, self.config)

    def first_state(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint's state and record, or those of a fresh run; see `save`."""
        copies = meshes.replicated(self.mesh)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=copies),
            jax.eval_shape(self.fresh),
        )
        saved = checkpoints.load_newest(self.shapes, rest_of(shapes))
        if saved is None:
            state = self.fresh()
            self.say(parameter_overview.get_parameter_overview(self.shapes, include_stats=False))
            return state, {"batches": 0, "counts": {}, "validates": False}
        self.say(f"Resuming from step {saved.step} in {self.workdir}")
        weights = unpack(pack(saved.params), shapes.weights)
        name = "params" if shapes.ema is None else "ema"
        return TrainState(**{name: weights}, **saved.training_state), saved.record

    def batches(self, start: int) -> TrainingBatches:
        """The training batches from number `start` on."""
        config = self.config
        return TrainingBatches(
            self.source,
            self.degrade,
            num_workers=config.data.num_workers,
            batch_size=config.batch_size,
            patch_size=config.patch_size,
            saturation=config.data.saturation,
            seed=config.seed,
            start=start,
            share=self.share,
        )

    def announced(self, what: str, compiles: bool) -> contextlib.AbstractContextManager:
        """For a block that may wait for the compiler; only then is there something to look up."""
        if compiles:
            return records.announced(f"the {what} of {self.config.name}")
        return contextlib.nullcontext()

    def prepare_validation(self) -> None:
        """Compiles the validation while training runs, where that takes nothing from it."""
        # On a CPU training would wait for the compiler. Processes must compile in one order.
        if jax.default_backend() == "cpu" or jax.process_count() > 1:
            return
        crop = self.config.validation_crop
        images = jax.ShapeDtypeStruct(
            (self.validation_batch, crop, crop, 3),
            jnp.uint8,
            sharding=meshes.image_sharding(self.mesh),
        )
        batch = {"degraded": images, "target": images}
        self.validation_step = compile_in_background(self.validation_step, self.shapes, batch)

    def validate(self, weights: Any) -> Validation | None:
        """Restores the centre crops of the held-out pairs; None if a signal came meanwhile."""
        if isinstance(weights, jax.Array):  # the vector that the step works on
            weights = unpack(pack(weights), self.shapes)
        scores, read, shown = [], [], []
        crop = self.config.validation_crop
        for batch, readable in validation_batches(self.held_out, self.validation_batch, crop):
            if self.interrupts.stop():
                return None
            readable = hosts.on_all(readable)
            placed = meshes.put_batch(batch, self.mesh)
            with self.announced("validation", not scores):
                result = self.validation_step(weights, placed)
            scores.append(np.asarray(result["psnr"])[:, : len(readable)])
            read.append(readable)
            for i in np.flatnonzero(readable)[: SHOWN - len(shown)]:
                stages = np.asarray(result["images"][:, i])
                shown.append([batch["degraded"][i], *stages, batch["target"][i]])
        names, psnr, read = self.held_out.names, np.hstack(scores), np.hstack(read)
        if not read.any():
            raise UserError("no held-out pair can be read: replace those named above")
        if not read.all():
            names, psnr = [names[i] for i in np.flatnonzero(read)], psnr[:, read]
        return Validation(names, psnr, shown, complete=read.all())

    def score(self, checkpoints: Checkpoints, step: int, validation: Validation) -> None:
        """Tells a checkpoint's score, if it is one to compare with others: of all pairs."""
        if validation.complete:
            checkpoints.set_score(step, validation.score)
        else:
            logging.warning("step %d does not count for the best checkpoint: pairs lack", step)

    def save(
        self,
        checkpoints: Checkpoints,
        step: int,
        state: TrainState,
        counts: dict[str, int],
        validates: bool,
    ) -> None:
        """Saves a checkpoint, whose record holds the data position, what went wrong, and whether a
        validation is due.
        """
        # Copied, for it is written in the background.
        record = {"batches": step, "counts": dict(counts), "validates": validates}
        weights = split(join(state.weights), self.shapes)
        checkpoints.save(Checkpoint(step, weights, rest_of(state), record))

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


def rest_of(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds besides the weights: all fields that are in use."""
    weights = "params" if state.ema is None else "ema"
    rest = {name: value for name, value in vars(state).items() if name != weights}
    return {name: value for name, value in rest.items() if value is not None}


def load_start(config: TrainConfig) -> Any:
    """The parameters of `init_from`; UserError unless they are of the config's network."""
    weights = files.read(config.init_from)
    wanted, found = flatten(config.model, fixed_only=True), flatten(weights.config)
    for name in wanted:
        if name != "dtype" and wanted[name] != found[name]:
            raise UserError(
                f"init_from={config.init_from}: holds a network with {name}={found[name]}, "
                f"model.{name} is {wanted[name]}; set --config.model.{name}={found[name]}"
            )
    return weights.params


def due(step: int, every: int, first: int, last: int) -> bool:
    """Whether something that happens every so many steps happens now; at the end it does."""
    return (step > max(first, 0) and step % every == 0) or step == last
