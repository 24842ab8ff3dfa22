"""Memory limits of Linux's control groups (cgroups), by which containers are limited. In bytes."""

import contextlib
from pathlib import Path


def available_bytes(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Returns the bytes left in each control group of this process that has a readable limit.

    Args:
        groups: the file that lists the groups of the process.
        root: the folder that the groups are mounted in.
    """
    try:
        lines = groups.read_text().splitlines()
    except (OSError, ValueError):  # not on Linux, not readable, or not in UTF-8
        return []
    available = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2 of control groups
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                # A group that has no such files, is not readable, or in another format is left out.
                with contextlib.suppress(OSError, ValueError):
                    available += _available_in(group, *names)
    return available


def _available_in(group: Path, limit: str, usage: str, cache: str) -> list[int]:
    """Returns the bytes left in one group; an empty list if it has no limit.

    Args:
        group: the group's folder.
        limit: name of the file with the limit.
        usage: name of the file with the bytes in use.
        cache: name of the line of memory.stat with the bytes of cached files.

    Raises:
        OSError: if a file is missing or cannot be read.
        ValueError: if a file has another format.
    """
    allowed = (group / limit).read_text().strip()
    if allowed == "max":
        return []
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    reclaimable = int(stat.get(cache, 0))  # the kernel drops cached files when memory is short
    return [int(allowed) - int((group / usage).read_text()) + reclaimable]
