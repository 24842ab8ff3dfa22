"""Which programs are chosen for many sizes, going by what they cost."""

import itertools

import jax
import numpy as np
import pytest

from mprnet_jax.config import ModelConfig
from mprnet_jax.devices import records
from mprnet_jax.restoration import planning
from mprnet_jax.restoration.planning import Costs, Program, plan


def costs(compile=10.0, canvas=12.0, pixel=1e-5, cached=()) -> Costs:
    return Costs("test", {False: compile, True: canvas}, pixel, 100.0, cached=tuple(cached))


def sizes(count: int, low: int, high: int) -> list[tuple[int, int]]:
    every = list(itertools.product(range(low, high + 1, 8), repeat=2))
    chosen = np.random.default_rng(0).choice(len(every), count, replace=False)
    return [every[index] for index in chosen]


def test_one_size_gets_its_own_program():
    assert plan({(64, 96): 50}, costs(), 1e9).programs == {(64, 96): Program(64, 96, False)}


def test_small_photos_share_a_canvas_where_compiling_costs_more_than_pixels():
    counts = dict.fromkeys(sizes(24, 96, 224), 1)
    chosen = plan(counts, costs(), 1e9)
    assert len(set(chosen.programs.values())) == 1
    assert all(program.holds(size) for size, program in chosen.programs.items())


def test_large_photos_get_more_programs():
    counts = dict.fromkeys(sizes(40, 160, 640), 1)
    numbers = [len(plan(counts, costs(pixel=rate), 1e9).order) for rate in (1e-6, 1e-4, 1e-1)]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[1] < numbers[2] == 40


def test_a_size_that_many_photos_share_gets_its_own_program():
    counts = {(400, 600): 500, (408, 592): 1, (392, 608): 1, (416, 576): 1}
    chosen = plan(counts, costs(compile=5, canvas=6, pixel=3e-6), 1e9).programs
    assert chosen[400, 600] == Program(400, 600, False)
    assert len({chosen[size] for size in counts}) == 2


@pytest.mark.parametrize("batch", [1, 4])
def test_no_other_grouping_of_few_sizes_is_much_better(batch: int):
    """Against all groupings of six sizes; merging pairs may miss the best by a little."""
    some, price = dict.fromkeys(sizes(6, 160, 640), 1), costs(canvas=3, compile=2.5, pixel=3e-5)

    def groupings(items):
        if not items:
            yield []
            return
        for rest in groupings(items[1:]):
            yield [[items[0]], *rest]
            for i in range(len(rest)):
                yield [*rest[:i], [items[0], *rest[i]], *rest[i + 1 :]]

    def seconds(groups):
        total = 0
        for group in groups:
            height, width = (max(side) for side in zip(*group))
            total += price.compile[len(group) > 1]
            total += price.run * height * width * (-(-len(group) // batch) * batch)
        return total

    best = min(map(seconds, groupings(list(some))))
    assert best <= plan(some, price, 1e9, batch).seconds * (1 + 1e-9)
    assert plan(some, price, 1e9, batch).seconds < (1.05 if batch == 1 else 1.15) * best


def test_no_canvas_is_larger_than_allowed():
    counts = dict.fromkeys([(64, 400), (400, 64), (72, 392), (392, 72)], 1)
    chosen = plan(counts, costs(), 40_000).programs
    assert {program.pixels for program in chosen.values()} == {72 * 400, 400 * 72}


def test_programs_of_earlier_commands_are_used_again():
    counts, first = dict.fromkeys(sizes(24, 96, 224), 1), costs()
    programs = plan(counts, first, 1e9).programs
    # By now other figures were measured, by which one would compile others.
    again = costs(compile=8, canvas=8, pixel=1.3e-5, cached=programs.values())
    assert plan(counts, again, 1e9).programs == programs


def test_thousands_of_sizes_are_planned_in_no_time():
    counts = dict.fromkeys(sizes(3000, 160, 640), 1)
    chosen = plan(counts, costs(pixel=1e-6), 1e9)
    assert chosen.programs.keys() == counts.keys()
    assert all(program.holds(size) for size, program in chosen.programs.items())


def test_the_plan_is_one_line():
    line = str(plan({(64, 64): 3, (72, 64): 1}, costs(), 1e9))
    assert line.startswith(
        "4 images of 2 sizes to compute: 1 programs, 1 of them for several sizes, "
    )
    assert "\n" not in line


def test_what_was_measured_is_there_for_the_next_command():
    device, config, program = jax.devices()[0], ModelConfig.derain(), Program(256, 256, True)
    first = Costs.of(config, device, "variant")
    assert first.last_compile(program) is None
    first.compiled(program, 17.0, 2.0**30)
    first.ran(program, 2, 40.0)
    again = Costs.of(config, device, "variant")
    assert again.last_compile(program) == 17
    assert again.last_compile(Program(8, 8, False)) is None
    assert again.memory == 2**14
    assert again.run == 40 / (2 * 256 * 256)
    assert again.to_compile(program) < again.to_compile(Program(256, 264, True))
    # The other kind's first guess is scaled alike.
    assert again.compile[False] / again.compile[True] == pytest.approx(2.5 / 3.5)
    assert Costs.of(ModelConfig.deblur(), device, "variant").last_compile(program) is None


def test_a_program_that_is_in_the_cache_no_more_is_noticed():
    price, program = costs(cached=[Program(64, 64, True)]), Program(64, 64, True)
    price.compiled(program, 0.5, 0)
    assert price.compile[True] == 12
    price.compiled(program, 15, 0)
    assert price.compile[True] == 15
    assert price.cached == (program,)


def test_what_small_programs_take_says_nothing_of_pixels():
    price = costs()
    price.compiled(Program(8, 8, False), 1.0, 2.0**20)
    price.ran(Program(8, 8, False), 1, 1.0)
    price.compiled(Program(512, 512, False), 1.0, 0)  # 0: the compiler tells nothing
    assert (price.memory, price.run) == (100, 1e-5)
    price.ran(Program(512, 512, False), 1, 26.0)
    price.ran(Program(128, 128, False), 1, 26.0)
    assert price.run == 26 / 512**2


def test_figures_that_cannot_be_are_ignored():
    device = jax.devices()[0]
    guessed = Costs.of(ModelConfig.derain(), device, "variant")
    for wrong in (
        {"run": "fast"},
        {"run": 0.0, "memory": float("inf")},
        {"compile": None, "compile_canvas": -1},
        {"programs": [1]},
        {"programs": 3},
    ):
        records.update(guessed.key, **wrong)
        assert Costs.of(ModelConfig.derain(), device, "variant") == guessed


@pytest.mark.parametrize("platform", list(planning.GUESSES))
def test_first_guesses_are_sane(platform):
    """Between a nanosecond and a millisecond, and between 100 bytes and 10 kB, for each pixel."""

    class Device:
        device_kind = "none"

    Device.platform = platform
    guessed = Costs.of(ModelConfig.deblur(), Device(), "variant")
    assert 1e-9 < guessed.run < 1e-3
    assert 100 < guessed.memory < 10_000
