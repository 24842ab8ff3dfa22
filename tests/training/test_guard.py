import numpy as np
import pytest

from mprnet_jax.errors import UserError
from mprnet_jax.training.guard import Guard

SOUND = {"loss": 1.0, "gradient_norm": 2.0, "skipped": 0, "unreadable": 0}
SKIPPED = SOUND | {"loss": float("nan"), "skipped": 1}


@pytest.fixture
def logged():
    return []


@pytest.fixture
def guard(tiny_run, logged):
    tiny_run.optim.max_skipped = 3
    tiny_run.data.max_unreadable = 0.01
    return Guard(tiny_run, 100, logged.append)


def check(guard, *metrics):
    for step, values in enumerate(metrics, 1):
        guard.count_and_check(step, values, lambda: ["a.png", "b.png"])


def test_a_skipped_step_is_logged_with_its_images(guard, logged):
    check(guard, SOUND, SKIPPED, SOUND)
    assert len(logged) == 1
    assert "step 2 is skipped: loss nan, gradient norm 2; its images: a.png, b.png" in logged[0]
    assert guard.counts["skipped"] == 1


def test_many_skipped_steps_in_a_row_end_the_run(guard):
    check(guard, SKIPPED, SKIPPED, SOUND, SKIPPED, SKIPPED, SOUND)
    with pytest.raises(UserError, match=r"step 3: 3 steps in a row were skipped.*loss nan"):
        check(guard, SKIPPED, SKIPPED, SKIPPED)


def test_counts_go_on_where_they_were(guard, tiny_run, logged):
    check(guard, SKIPPED, SKIPPED)
    resumed = Guard(tiny_run, 100, logged.append, guard.counts)
    with pytest.raises(UserError, match=r"3 steps in a row"):
        check(resumed, SKIPPED)


def test_an_unreadable_picture_is_logged_once_with_the_reason(guard, logged):
    for _ in range(2):
        batch = guard.log_unreadable({"unreadable": np.array(["", "c.png: cannot be read"])})
        assert batch["unreadable"].tolist() == [False, True]
    assert logged == ["c.png: cannot be read; the next picture stands in for it"]


def test_too_many_unreadable_pictures_end_the_run(guard):
    one = SOUND | {"unreadable": 1}
    check(guard, one)  # of a set of 100
    with pytest.raises(
        UserError, match=r"2 reads of pictures failed, .*max_unreadable=0\.01 of 100"
    ):
        check(guard, one)


def test_after_the_first_epoch_the_share_of_all_steps_counts(guard):
    check(guard, *[SOUND | {"unreadable": step % 100 == 0} for step in range(1, 1000)])
    assert guard.counts["unreadable"] == 9
