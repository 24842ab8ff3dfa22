from dataclasses import replace

import jax
import pytest

from benchmarks import divergence
from mprnet_jax.config import DataConfig, OptimConfig, flatten
from mprnet_jax.training import build


@pytest.fixture
def recipe(tiny_run):
    return replace(
        tiny_run,
        data=DataConfig(source="sample_blur"),
        optim=OptimConfig(learning_rate=1e-3, max_skipped=2),
        total_steps=4,
    )


@pytest.fixture
def one_gain(monkeypatch):
    """The network, which would take long to compile, scales images by one of its parameters."""

    def apply(params, images, **_):
        gain = jax.tree.leaves(params)[0].ravel()[0]
        return [images * (1 + gain / 100)] * 3

    monkeypatch.setattr(build, "build_apply", lambda *_: apply)


def printed_rows(capsys):
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_only_the_clip_and_the_limit_to_spikes_differ(recipe):
    plain, safe = flatten(recipe), flatten(divergence.safe_settings(recipe))
    assert {name for name in plain if plain[name] != safe[name]} == {
        "optim.clip_norm",
        "optim.spike_factor",
    }


@pytest.mark.usefixtures("one_gain")
@pytest.mark.parametrize(
    ("learning_rate", "diverged", "stopped", "steps", "skipped"),
    [
        (1e-3, "0 of 2", "0", "4", "0"),
        (1e30, "2 of 2", "2", "3", "2"),  # the loss is not finite after the first step
    ],
)
def test_the_guard_stops_runs_at_an_absurd_rate(
    learning_rate, diverged, stopped, steps, skipped, recipe, capsys
):
    divergence.main(recipe, seeds=2, learning_rate=learning_rate)
    rows = printed_rows(capsys)
    assert [row[1] for row in rows] == ["recipe", "safe"]
    for row in rows:
        assert row[2:6] == [diverged, stopped, steps, skipped]
        assert (float(row[6]) > 2) == (diverged == "2 of 2")


def test_the_rate_is_doubled_until_the_recipe_diverges(recipe, capsys, monkeypatch):
    trained = []

    def train(run, step, learning_rate):
        is_safe = run.config.optim.clip_norm > 0
        trained.append((is_safe, run.config.seed, learning_rate))
        return divergence.Outcome(False, 4, 0, loss=0.5 if is_safe else 1e3 * learning_rate)

    monkeypatch.setattr(divergence, "train", train)
    divergence.main(recipe, seeds=2, learning_rate=None)
    rates = [1e-3, 2e-3, 4e-3]
    assert trained == [
        (is_safe, seed, rate) for rate in rates for is_safe in (False, True) for seed in (0, 1)
    ]
    assert printed_rows(capsys)[-2:] == [
        ["0.004", "recipe", "2 of 2", "0", "4", "0", "4"],
        ["0.004", "safe", "0 of 2", "0", "4", "0", "0.5"],
    ]
