"""The training loop: save, validate, draw a batch, step, report the step before, in this order.

A checkpoint is saved before the next batch is drawn, so a saved step and its position in the data
always agree. Step number n always has batch number n, also after skipped steps.
"""

from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import jax
from absl import logging

from mprnet_jax.compat import malloc
from mprnet_jax.config import TrainConfig
from mprnet_jax.devices import hosts, memory
from mprnet_jax.training.interrupts import Interrupts
from mprnet_jax.training.monitor import Monitor, print_on_main
from mprnet_jax.training.setup import Run
from mprnet_jax.training.state import TrainState
from mprnet_jax.training.summaries import Summaries
from mprnet_jax.training.validation import Validation
from mprnet_jax.weights.checkpoints import UNSCORED, Checkpoints

TAKES_LESS = (
    "--config.accumulate=2 or more and --config.model.remat=cab take less each, and in a new "
    "workdir --config.model.dtype=bfloat16"
)


def train(config: TrainConfig, workdir: Path | str) -> Validation | None:
    """Trains until `config.total_steps`, from the newest checkpoint in `workdir` if there is one.

    SIGTERM and Ctrl-C save a checkpoint and end it earlier.

    Returns:
        The last validation, or None if a signal ended the run.

    Raises:
        UserError: for a config that cannot run, missing or broken data, a workdir of another run
            or one that cannot be written, and if too many steps in a row were skipped.
    """
    malloc.limit_arenas()
    with (
        Interrupts() as interrupts,
        hosts.report_lost_host(),
        memory.report_out_of_memory(TAKES_LESS),
    ):
        return train_run(Run(config, Path(workdir)), interrupts)


def train_run(run: Run, interrupts: Interrupts) -> Validation | None:
    """Trains a run that is set up; see `train`."""
    run.claim_workdir()
    with Checkpoints(run.workdir) as checkpoints:
        state, record = run.restore_or_init(checkpoints)
        step, total = record["batches"], run.config.total_steps
        if step < total:
            validation = train_steps(run, state, record, checkpoints, interrupts)
        else:
            print_on_main(f"This run is finished: {step} steps. Its result:")
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
) -> Validation | None:
    """Trains from a checkpoint's state and record to the end, or until a signal."""
    config, first, total = run.config, record["batches"], run.config.total_steps
    step, metrics = first, None  # metrics: of the step that the devices are computing
    save_due = False
    # A run may have been stopped between saving a checkpoint and validating it.
    validation_due = record["validates"] and checkpoints.score(first) == UNSCORED
    with closing(run.batches(first)) as batches, closing(run.monitor(record, batches)) as monitor:
        while True:
            stop, validation = interrupts.should_stop(), None
            save_due |= is_due(step, config.checkpoint_every, first, total)
            validation_due |= is_due(step, config.validate_every, first, total)
            if stop or save_due or validation_due:
                monitor.report(step, metrics)
                metrics = None
                # After a skipped step both wait for one that is not skipped: if all further steps
                # are, their checkpoints must not replace good ones.
                if stop or step == total or not monitor.counts["skipped_in_a_row"]:
                    run.save(checkpoints, step, state, monitor.counts, validation_due)
                    if validation_due and not stop:
                        validation = run.validate(state, interrupts)
                    if validation:
                        record_validation(step, validation, checkpoints, monitor)
                    save_due = validation_due = False
                monitor.restart_clock()
                stop = interrupts.should_stop()  # validating may have taken long
            if stop:
                run.save(checkpoints, step, state, monitor.counts, validation_due)
                checkpoints.wait()
                print_on_main(f"Stopped after step {step}; the same command goes on from there.")
                return None
            if step == total:
                return validation
            batch = run.put(monitor.log_unreadable(next(batches)))
            # The batch and the metrics are all that is copied between host and devices.
            with jax.transfer_guard("disallow"):
                monitor.before_step(step, state)
                with run.announce_compiling() if step == first else nullcontext():
                    state, next_metrics = run.train_step(state, batch)
                if step == first:
                    run.validator.compile_in_background()
                # Waits for the step before this one, while the devices compute this one.
                monitor.report(step, metrics)
            step, metrics = step + 1, next_metrics
            checkpoints.check()


def record_validation(
    step: int, validation: Validation, checkpoints: Checkpoints, summaries: Monitor | Summaries
) -> None:
    """Saves the score of a checkpoint and adds the validation to the event file."""
    summaries.validation(step, validation)
    if validation.complete:
        checkpoints.set_score(step, validation.score)
    else:
        logging.warning("step %d does not count for the best checkpoint: pairs are missing", step)


def is_due(step: int, every: int, first: int, last: int) -> bool:
    """Whether something that happens every `every` steps is due after `step` steps.

    It is due after the last step as well, and not at the start.
    """
    return (step > max(first, 0) and step % every == 0) or step == last
