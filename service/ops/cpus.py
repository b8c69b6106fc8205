"""The number of CPU cores that this process may use, and how its Python threads share one."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SWITCH_INTERVAL_S = 0.001
"""Seconds that a Python thread may run while others wait: the event loop and the engine share the process."""
CGROUP_ROOT = Path("/sys/fs/cgroup")
"""Where control groups, which bound containers, are mounted (cgroups(7))."""
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")
"""The control groups that this process belongs to."""


def usable_cores(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> int:
    """Cores of the process's CPU affinity, bounded by the whole CPUs of its container's quota; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(root, membership)])))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """CPU quotas, in CPUs, of the control groups that have one."""
    for group in _group_folders(root, membership):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # cgroup v2, cgroup v1
            with suppress(OSError, ValueError, ZeroDivisionError):  # no such file; "max"
                quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
                if quota > 0:  # -1: unlimited
                    yield quota / period


def _group_folders(root: Path, membership: Path) -> Iterator[Path]:
    """Folders of the process's CPU control groups and their parents, where they are visible.

    A container sees its own group at the root, and may not see the path that `membership` names.
    """
    content = b""
    with suppress(OSError):
        content = membership.read_bytes()
    for line in ["0::/", ":cpu:/", *os.fsdecode(content).split("\n")]:
        _, controllers, path, *_ = *line.split(":", 2), "", ""
        if controllers and "cpu" not in controllers.split(","):
            continue
        for hierarchy in [root / controllers, root / "cpu"] if controllers else [root]:
            inner = hierarchy / path.lstrip("/")
            yield from (each for each in (inner, *inner.parents) if each.is_relative_to(hierarchy))
