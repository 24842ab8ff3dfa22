"""The training loop: save, validate, draw a batch, step, report the previous step, in this order.

Before a save or a validation the previous step is reported first, as it decides whether they are
put off. A checkpoint is saved before the next batch is drawn, so a saved step and its position in
the data always agree. A step of the loop draws one batch: the n-th step (n from 1) always uses the
batch with index n - 1, even if earlier steps were skipped. `TrainState.step` does not count those.
"""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
from absl import logging

from mprnet_jax import paths
from mprnet_jax.compat import malloc
from mprnet_jax.config import TrainConfig
from mprnet_jax.devices import hosts, memory
from mprnet_jax.training.interrupts import Interrupts
from mprnet_jax.training.monitor import Monitor
from mprnet_jax.training.setup import Run
from mprnet_jax.training.state import TrainState
from mprnet_jax.training.summaries import MetricWriter, Summaries
from mprnet_jax.training.validation import ValidationResult
from mprnet_jax.weights.checkpoints import UNSCORED, Checkpoints

__all__ = ["train"]

OUT_OF_MEMORY_REMEDY = (
    "to use less memory, set --config.accumulate=2 (or more), --config.model.remat=cab or both, or "
    "--config.model.dtype=bfloat16 in a new workdir"
)


def train(
    config: TrainConfig, workdir: Path | str, writers: Sequence[MetricWriter] = ()
) -> ValidationResult | None:
    """Trains until `config.total_steps`, from the newest checkpoint in `workdir` if there is one.

    SIGTERM and Ctrl-C save a checkpoint and end the run. Outside the main thread no signal handlers
    are installed. Limits the malloc arenas of this process and sets its compile cache.

    Args:
        config: the configuration of the run.
        workdir: the run folder, for checkpoints, logs and pictures.
        writers: further writers of scalars, images and texts, used in process 0 and closed at the
            end of the run.

    Returns:
        The last validation, or None if a signal ended the run.

    Raises:
        UserError: if the config is invalid, data are missing, the workdir belongs to another run or
            cannot be written, the disk is full, a device runs out of memory, a process is lost, too
            many steps in a row are skipped or too many examples cannot be read.
    """
    malloc.limit_arenas()
    with (
        Interrupts() as interrupts,
        hosts.report_lost_host(),
        memory.report_out_of_memory(OUT_OF_MEMORY_REMEDY),
    ):
        return train_run(Run(config, paths.anywhere(workdir), writers), interrupts)


def train_run(run: Run, interrupts: Interrupts) -> ValidationResult | None:
    """Trains a run that is set up; see `train`."""
    run.claim_workdir()
    with Checkpoints(run.workdir) as checkpoints:
        state, record = run.restore_or_init(checkpoints)
        step, total = record["batches"], run.config.total_steps
        if step < total:
            validation = train_steps(run, state, record, checkpoints, interrupts)
        else:
            hosts.print_on_main(f"This run is finished: {step} steps. Its result:")
            validation = run.validate(state, interrupts)
            if validation and checkpoints.score(step) == UNSCORED:
                with closing(run.summaries(step)) as summaries:
                    record_validation(step, validation, checkpoints, summaries)
    if validation:
        run.show(validation, checkpoints.best_step)
    return validation


def train_steps(
    run: Run,
    state: TrainState,
    record: dict[str, Any],
    checkpoints: Checkpoints,
    interrupts: Interrupts,
) -> ValidationResult | None:
    """Trains from a checkpoint's state and record to the end, or until a signal."""
    config, start_step, total = run.config, record["batches"], run.config.total_steps
    step, metrics = start_step, None  # metrics: of the step in flight
    save_due = False
    # A run may have been stopped between saving a checkpoint and validating it.
    validation_due = record["validates"] and checkpoints.score(start_step) == UNSCORED
    with (
        closing(run.batches(start_step)) as batches,
        closing(run.monitor(record, batches)) as monitor,
    ):
        while True:
            stop = interrupts.should_stop()
            validation = None
            save_due |= is_due(step, config.checkpoint_every, start_step, total)
            validation_due |= is_due(step, config.validate_every, start_step, total)
            if stop or save_due or validation_due:
                monitor.report(step, metrics)
                metrics = None
                # Do not save or validate right after a skipped step: if the parameters have
                # diverged, old checkpoints would be deleted for new ones that are worse. Always
                # save at a stop and after the last step.
                if stop or step == total or not monitor.counts["skipped_in_a_row"]:
                    run.save(checkpoints, step, state, monitor.counts, validation_due)
                    if validation_due and not stop:
                        validation = run.validate(state, interrupts)
                        if validation:
                            record_validation(step, validation, checkpoints, monitor)
                        stop = interrupts.should_stop()  # validating may have taken long
                    save_due = validation_due = False
                monitor.restart_clock()
            if stop:  # the checkpoint was saved above
                checkpoints.wait_until_finished()
                hosts.print_on_main(f"Stopped after step {step}; the same command continues.")
                return None
            if step == total:
                return validation
            batch = run.shard_batch(monitor.log_unreadable(next(batches)))
            if step == start_step:
                run.compile_step(state, batch)
            # Raises on implicit transfers between host and devices. The batch was transferred
            # explicitly above; `report` fetches the metrics explicitly.
            with jax.transfer_guard("disallow"):
                monitor.before_step(step, state)
                with run.announce_compiling() if step == start_step else nullcontext():
                    state, next_metrics = run.train_step(state, batch)
                if step == start_step:
                    run.validator.start_compiling()
                # Waits for the previous step, while the devices compute this one.
                monitor.report(step, metrics)
            step, metrics = step + 1, next_metrics
            checkpoints.check_for_errors()


def record_validation(
    step: int,
    validation: ValidationResult,
    checkpoints: Checkpoints,
    writer: Monitor | Summaries,
) -> None:
    """Saves the score of a checkpoint and adds the validation to the event file.

    A validation that is not complete gives no score, since it cannot be compared with others.
    """
    writer.write_validation(step, validation)
    if validation.complete:
        checkpoints.set_score(step, validation.score)
    else:
        logging.warning("step %d does not count for the best checkpoint: pairs are missing", step)


def is_due(step: int, every: int, start_step: int, total_steps: int) -> bool:
    """Returns whether an action with period `every` is due after `step` steps of a run.

    The action is always due after the last step. It is not due at the step that the run started
    from, unless that is also the last one.
    """
    return (step > start_step and step % every == 0) or step == total_steps
