"""Which programs are chosen for many sizes, going by what they cost."""

import itertools

import numpy as np
import pytest

from mprnet_jax.restoration.costs import Costs, ProgramShape
from mprnet_jax.restoration.planning import ProgramChooser, initial_groups, make_plan


def costs(compile=10.0, canvas=12.0, pixel=1e-5, cached=()) -> Costs:
    return Costs("test", {False: compile, True: canvas}, pixel, 100.0, cached=tuple(cached))


def sizes(count: int, low: int, high: int) -> list[tuple[int, int]]:
    every = list(itertools.product(range(low, high + 1, 8), repeat=2))
    chosen = np.random.default_rng(0).choice(len(every), count, replace=False)
    return [every[index] for index in chosen]


def test_one_size_gets_its_own_program():
    assert make_plan({(64, 96): 50}, costs(), 1e9).programs == {
        (64, 96): ProgramShape(64, 96, False)
    }


def test_small_photos_share_a_canvas_where_compiling_costs_more_than_pixels():
    counts = dict.fromkeys(sizes(24, 96, 224), 1)
    chosen = make_plan(counts, costs(), 1e9)
    assert len(set(chosen.programs.values())) == 1
    assert all(program.holds(size) for size, program in chosen.programs.items())


def test_large_photos_get_more_programs():
    counts = dict.fromkeys(sizes(40, 160, 640), 1)
    numbers = [len(make_plan(counts, costs(pixel=rate), 1e9).order) for rate in (1e-6, 1e-4, 1e-1)]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[1] < numbers[2] == 40


def test_a_size_that_many_photos_share_gets_its_own_program():
    counts = {(400, 600): 500, (408, 592): 1, (392, 608): 1, (416, 576): 1}
    chosen = make_plan(counts, costs(compile=5, canvas=6, pixel=3e-6), 1e9).programs
    assert chosen[400, 600] == ProgramShape(400, 600, False)
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
            total += price.compile_seconds[len(group) > 1]
            total += price.seconds_per_pixel * height * width * (-(-len(group) // batch) * batch)
        return total

    best = min(map(seconds, groupings(list(some))))
    assert best <= make_plan(some, price, 1e9, batch).seconds * (1 + 1e-9)
    assert make_plan(some, price, 1e9, batch).seconds < (1.05 if batch == 1 else 1.15) * best


def test_no_canvas_is_larger_than_allowed():
    counts = dict.fromkeys([(64, 400), (400, 64), (72, 392), (392, 72)], 1)
    chosen = make_plan(counts, costs(), 40_000).programs
    assert {program.pixels for program in chosen.values()} == {72 * 400, 400 * 72}


def test_programs_of_earlier_commands_are_used_again():
    counts, first = dict.fromkeys(sizes(24, 96, 224), 1), costs()
    programs = make_plan(counts, first, 1e9).programs
    # By now other figures were measured, by which one would compile others.
    again = costs(compile=8, canvas=8, pixel=1.3e-5, cached=programs.values())
    assert make_plan(counts, again, 1e9).programs == programs


def test_a_rejected_canvas_is_replaced_by_smaller_programs():
    counts, chooser = {(16, 400): 1, (400, 16): 1}, ProgramChooser(costs(), 1, 1e9)
    chooser.plan(counts, 1e9)
    (canvas,) = {chooser.choose(size, []) for size in counts}
    assert canvas == ProgramShape(400, 400, True)
    chooser.reject(canvas)
    assert {chooser.choose(size, [canvas]) for size in counts} == {
        ProgramShape(16, 400, False),
        ProgramShape(400, 16, False),
    }


def test_a_rejected_canvas_is_not_planned_again():
    counts = {(16, 400): 1, (400, 16): 1}
    canvas, larger = ProgramShape(400, 400, True), ProgramShape(800, 800, True)
    chooser = ProgramChooser(costs(cached=[canvas]), 1, 1e9)
    chooser.reject(canvas)
    assert not any(program.canvas for program in chooser.plan(counts, 1e9).programs.values())
    # Nor is it what replaces a larger one.
    chooser = ProgramChooser(costs(cached=[canvas, larger]), 1, 1e9)
    chooser.plan({(800, 400): 1, (16, 800): 1, **counts}, 1e9)
    chooser.reject(canvas)
    chooser.reject(larger)
    assert canvas not in {chooser.choose(size, []) for size in counts}


def test_no_larger_canvas_is_tried_after_one_was_rejected():
    cached = ProgramShape(2048, 2048, True)
    chooser = ProgramChooser(costs(cached=[cached]), 1, 1e9)
    compiled = [ProgramShape(64, 64, False)]
    size = 1000, 1104
    assert chooser.choose(size, compiled) == ProgramShape(1024, 1152, True)
    chooser.reject(ProgramShape(1024, 1024, True))
    assert chooser.choose(size, compiled) == ProgramShape(*size, False)


def test_images_of_the_size_of_a_rejected_canvas_get_their_own_program():
    chooser = ProgramChooser(costs(), 1, 1e9)
    for size in ((80, 80), (128, 128)):
        chooser.reject(ProgramShape(*size, True))
    assert chooser.choose((80, 80), [ProgramShape(8, 8, False)]) == ProgramShape(80, 80, False)


def test_sizes_without_a_plan_share_what_is_compiled():
    chooser = ProgramChooser(costs(), 1, 1e9)
    assert chooser.choose((64, 64), []) == ProgramShape(64, 64, False)
    second = chooser.choose((72, 72), [ProgramShape(64, 64, False)])
    assert second == ProgramShape(128, 128, True)
    assert chooser.choose((80, 120), [second]) == second
    # 13 seconds are wasted, and compiling takes 10.
    for _ in range(100):
        chooser.record_use(second, (64, 48))
    assert chooser.choose((64, 48), [second]) == ProgramShape(64, 48, False)


def test_a_coarser_rounding_that_leaves_more_sizes_alone_is_not_used():
    some = sizes(1000, 160, 640)
    groups = initial_groups(some, 640 * 640)
    assert sorted(size for group in groups for size in group) == sorted(some)
    # Rounded up to multiples of 512, nearly all sizes exceed the limit.
    assert len(initial_groups(some, 300 * 300)) < len(some)


def test_thousands_of_sizes_are_planned_in_no_time():
    counts = dict.fromkeys(sizes(3000, 160, 640), 1)
    chosen = make_plan(counts, costs(pixel=1e-6), 1e9)
    assert chosen.programs.keys() == counts.keys()
    assert all(program.holds(size) for size, program in chosen.programs.items())


def test_the_plan_is_one_line():
    line = str(make_plan({(64, 64): 3, (72, 64): 1}, costs(), 1e9))
    assert line.startswith(
        "4 images of 2 sizes to compute: 1 program, 1 of them for several sizes, "
    )
    assert "\n" not in line
    exact = make_plan({(64, 64): 10**6, (256, 64): 1}, costs(), 1e9)
    assert str(exact).startswith("1000001 images of 2 sizes to compute; about")
