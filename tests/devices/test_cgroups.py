"""Memory limits of control groups, both versions."""

from pathlib import Path

import pytest

from mprnet_jax.devices import cgroups


@pytest.mark.parametrize(
    ("line", "folder", "names", "unlimited"),
    [
        ("0::/box", "", ("memory.max", "memory.current", "inactive_file"), "max"),
        (
            "4:cpu,memory:/box",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            "9223372036854771712",
        ),
    ],
)
def test_control_groups_count_with_those_around_them(
    tmp_path: Path, line: str, folder: str, names: tuple[str, str, str], unlimited: str
):
    limit, usage, cache = names
    outer = tmp_path / folder
    for place, allowed in ((outer, "5000"), (outer / "box", unlimited)):
        place.mkdir(parents=True, exist_ok=True)
        (place / limit).write_text(allowed)
        (place / usage).write_text("3000")
        (place / "memory.stat").write_text(f"anon 5\n{cache} 1000\n")
    groups = tmp_path / "groups"
    groups.write_text(f"7:pids:/elsewhere\n{line}\n")
    assert min(cgroups.available_bytes(groups, tmp_path)) == 5000 - 3000 + 1000


def test_no_control_groups(tmp_path: Path):
    assert cgroups.available_bytes(tmp_path / "missing", tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda group: (group / "memory.current").unlink(),
        lambda group: (group / "memory.current").write_text("many"),
        lambda group: (group / "memory.max").write_text(""),
        lambda group: (group / "memory.max").write_bytes(b"\xff"),
        lambda group: (group / "memory.stat").write_text("a line of words"),
    ],
)
def test_a_group_that_cannot_be_read_is_left_out(tmp_path: Path, damage):
    for group in (tmp_path, tmp_path / "box"):
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text("5000")
        (group / "memory.current").write_text("3000")
        (group / "memory.stat").write_text("inactive_file 1000")
    damage(tmp_path / "box")
    groups = tmp_path / "groups"
    groups.write_text("0::/box")
    assert cgroups.available_bytes(groups, tmp_path) == [5000 - 3000 + 1000]
