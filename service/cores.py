"""How many cores of the machine this process may use."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container's time on the CPU: microseconds in each period, and the period (cgroup v2)."""


def cores(quota: Path = QUOTA) -> int:
    """Those that it may run on, and no more than its container has time for; one at least."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = quota.read_text().split()
        allowed = min(allowed, math.ceil(int(share) / int(period)))
    except (OSError, ValueError):  # no such bound, which is also said as "max"
        pass
    return max(1, allowed)
