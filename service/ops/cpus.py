"""How many cores of the machine this process may use."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""The control groups, which bound containers; and those that this process is in (cgroups(7))."""


def cores(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Those that it may run on, and no more than its container has time for; one at least."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(groups, membership)])))


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """CPUs' worth of time, where a group bounds it."""
    for group in _groups(groups, membership):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # of version 2, and of 1
            with suppress(OSError, ValueError, ZeroDivisionError):  # not there; "max"
                quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
                if quota > 0:  # -1 is no bound
                    yield quota / period


def _groups(groups: Path, membership: Path) -> Iterator[Path]:
    """Folders of the groups that have a say in the process's time, where they are visible.

    A container sees its own group at the root, and perhaps not where it is said to be.
    """
    said = b""
    with suppress(OSError):
        said = membership.read_bytes()
    for line in ["0::/", ":cpu:/", *os.fsdecode(said).split("\n")]:
        _, controllers, path, *_ = *line.split(":", 2), "", ""
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in [groups / controllers, groups / "cpu"] if controllers else [groups]:
            inner = root / path.lstrip("/")
            yield from (each for each in (inner, *inner.parents) if each.is_relative_to(root))
