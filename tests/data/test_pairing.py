import pytest

from mprnet_jax.data.pairing import Pair, pair_folders
from mprnet_jax.errors import UserError


def pairs(folder, degraded, clean):
    """The stems that are paired; files need not be pictures for it."""
    for role, names in (("input", degraded), ("target", clean)):
        (folder / role).mkdir()
        for name in names:
            (folder / role / f"{name}.png").write_bytes(b"")
    found = pair_folders(folder / "input", folder / "target")
    assert all(isinstance(pair, Pair) and pair.name == pair.degraded.stem for pair in found)
    return {pair.degraded.stem: pair.target.stem for pair in found}


@pytest.mark.parametrize(
    ("degraded", "clean", "rule"),
    [
        ("rain-1 rain-2", "norain-1 norain-2", "without rain or norain before it"),
        ("a_blur b_blur", "a b", "begin or end with"),
        ("noisy_a noisy_b", "clean_a clean_b", "begin or end with"),
        ("0001_blur 0002_blur 0010_blur", "0001_gt 0002_gt 0010_gt", "begin or end with"),
        ("norain-001x2 norain-002x2", "norain-001 norain-002", "without rain or norain"),
        ("0001 0002 0010", "1 2 10", "the first number"),
        ("0001_blur 0002_blur 0010_blur", "1 2 10", "the first number"),
        ("set2_0001 set2_0002", "1 2", "the last number"),
        ("0 00001", "000 1", "the first number"),
        ("7", "007", "the first number"),
    ],
)
def test_names_that_differ_by_one_rule_pair_and_the_rule_is_logged(
    tmp_path, caplog, degraded, clean, rule
):
    degraded, clean = degraded.split(), clean.split()
    with caplog.at_level("WARNING"):
        assert pairs(tmp_path, degraded, clean) == dict(zip(degraded, clean))
    assert rule in caplog.text or rule == "without rain or norain"
    assert f"as {degraded[0]} with {clean[0]}" in caplog.text


def test_equal_names_need_no_rule(tmp_path, caplog):
    names = ["1_2", "2_1", "b", "rain-b"]
    assert pairs(tmp_path, names, names) == dict(zip(names, names))
    assert not caplog.text


def test_rules_that_contradict_each_other_are_listed(tmp_path):
    with pytest.raises(UserError) as error:
        pairs(tmp_path, ["1_2", "2_1"], ["x1", "x2"])
    message = str(error.value)
    assert "in more than one way: 1_2 by the first number in the name with x1" in message
    assert "by the last number in the name with x2; give both" in message


@pytest.mark.parametrize(
    ("degraded", "clean"),
    [
        ("a11 a12", "b21 b22"),  # what all begin with is no part of a number
        ("cat", "dog"),
        ("a b", "c d"),
        ("1 2 3", "1 2"),
        ("1_a 1_b", "1 2"),
        ("1 2", "2 3"),
        ("b ab", "ab aab"),  # a rule must not part two of one name
    ],
)
def test_names_that_no_rule_pairs_are_listed(tmp_path, degraded, clean):
    with pytest.raises(UserError, match="have no partner"):
        pairs(tmp_path, degraded.split(), clean.split())
