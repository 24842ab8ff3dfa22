"""Memory limits of Linux's control groups (cgroups), which containers are made of. In bytes."""

from pathlib import Path


def available_bytes(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Returns the bytes left in each control group around this process that has a limit.

    Args:
        groups: the file that lists the groups of the process.
        root: the folder that the groups are mounted in.
    """
    available = []
    for line in groups.read_text().splitlines() if groups.exists() else []:
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
            if group.is_relative_to(top) and (group / names[0]).exists():
                available += _available_in(group, *names)
    return available


def _available_in(group: Path, limit: str, usage: str, cache: str) -> list[int]:
    """Returns the bytes left in one group; an empty list if it has no limit.

    Args:
        group: the group's folder.
        limit: name of the file with the limit.
        usage: name of the file with the bytes in use.
        cache: name of the line of memory.stat with the bytes of cached files.
    """
    allowed = (group / limit).read_text().strip()
    if allowed == "max":
        return []
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    reclaimable = int(stat.get(cache, 0))  # the kernel drops cached files when memory is short
    return [int(allowed) - int((group / usage).read_text()) + reclaimable]
