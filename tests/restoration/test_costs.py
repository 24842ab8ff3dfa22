"""What programs cost: kept between commands, and guessed until it is measured."""

import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import records
from mprnet_jax.restoration.costs import GUESSES, Costs, ProgramShape

PLACE = ("cpu", "a CPU, JAX")
# Of networks that are traced quickly.
SMALL, LARGER = (ModelConfig(width, 0, 2, cabs_per_orb=1, stages="orsnet") for width in (4, 8))


def costs(cached=()) -> Costs:
    return Costs("test", {False: 10.0, True: 12.0}, 1e-5, 100.0, cached=tuple(cached))


def test_what_was_measured_is_there_for_the_next_command():
    config, program = SMALL, ProgramShape(256, 256, True)
    first = Costs.load(config, *PLACE, "variant")
    assert first.last_compile_seconds(program) is None
    first.record_compile(program, 17.0, 2.0**30)
    first.record_run(program, 2, 40.0)
    again = Costs.load(config, *PLACE, "variant")
    assert again.last_compile_seconds(program) == 17
    assert again.last_compile_seconds(ProgramShape(8, 8, False)) is None
    assert again.bytes_per_pixel == 2**14
    assert again.seconds_per_pixel == 40 / (2 * 256 * 256)
    assert again.seconds_to_compile(program) < again.seconds_to_compile(
        ProgramShape(256, 264, True)
    )
    # The other kind's first guess is scaled alike.
    assert again.compile_seconds[False] / again.compile_seconds[True] == pytest.approx(2.5 / 3.5)
    assert Costs.load(LARGER, *PLACE, "variant").last_compile_seconds(program) is None


def test_a_program_that_is_in_the_cache_no_more_is_noticed():
    price, program = costs(cached=[ProgramShape(64, 64, True)]), ProgramShape(64, 64, True)
    price.record_compile(program, 0.5, 0)
    assert price.compile_seconds[True] == 12
    price.record_compile(program, 15, 0)
    assert price.compile_seconds[True] == 15
    assert price.cached == (program,)


def test_what_small_programs_take_says_nothing_of_pixels():
    price = costs()
    price.record_compile(ProgramShape(8, 8, False), 1.0, 2.0**20)
    price.record_run(ProgramShape(8, 8, False), 1, 1.0)
    price.record_compile(ProgramShape(512, 512, False), 1.0, 0)  # 0: the compiler tells nothing
    assert (price.bytes_per_pixel, price.seconds_per_pixel) == (100, 1e-5)
    price.record_run(ProgramShape(512, 512, False), 1, 26.0)
    price.record_run(ProgramShape(128, 128, False), 1, 26.0)
    assert price.seconds_per_pixel == 26 / 512**2


def test_figures_that_cannot_be_are_ignored():
    guessed = Costs.load(SMALL, *PLACE, "variant")
    for wrong in (
        {"run": "fast"},
        {"run": 0.0, "memory": float("inf")},
        {"compile": None, "compile_canvas": -1},
        {"programs": [1]},
        {"programs": 3},
    ):
        records.update(guessed.key, **wrong)
        assert Costs.load(SMALL, *PLACE, "variant") == guessed


@pytest.mark.parametrize("platform", list(GUESSES))
def test_first_guesses_are_sane(platform):
    """Between a nanosecond and a millisecond, and between 100 bytes and 20 kB, for each pixel."""
    guessed = Costs.load(ModelConfig.deblur(), platform, "none", "variant")
    assert 1e-9 < guessed.seconds_per_pixel < 1e-3
    assert 100 < guessed.bytes_per_pixel < 20_000
