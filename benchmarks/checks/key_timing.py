"""A timing attack on bearer keys: the time of a rejection must not tell how much of the key is right.

    python -m benchmarks.checks.key_timing [--repeats 20000]

Keys that share nothing, a half, and all but the last character with a valid one are looked up among a
hundred callers, in random order. A Mann-Whitney U test is printed for each pair of kinds; a small p-value
would mean that their times differ.
"""

import hashlib
import itertools
import secrets
import time
from contextlib import suppress

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks import command_line
from service.errors import RequestError
from service.keys import Keys

CALLERS = 100


def main() -> None:
    """Time the rejections, and print quantiles and p-values."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=20_000)
    repeats = arguments.parse_args().repeats
    good = [secrets.token_urlsafe(32) for _ in range(CALLERS)]
    keys = Keys(tuple((f"caller-{n}", hashlib.sha256(key.encode()).digest()) for n, key in enumerate(good)))
    right = {"nothing": 0, "half": 21, "all but one": len(good[0]) - 1}
    times: dict[str, list[int]] = {name: [] for name in right}
    rng = np.random.default_rng(0)
    names, headers = rng.permutation(np.repeat(list(right), repeats)).tolist(), []
    for name in names:
        key = bytearray(secrets.token_urlsafe(32).encode())
        key[: right[name]] = good[rng.integers(CALLERS)][: right[name]].encode()
        key[-1:] = b"-"  # no good key ends so: its last character stands for four bits, of sixteen that may
        headers.append(f"Bearer {key.decode()}")
    # Cut from one text in the order of the look-ups: a key's place in memory, and what was freed beside it,
    # show in the time.
    for name, header in zip(names, "\n".join(headers).split("\n"), strict=True):
        began = time.perf_counter_ns()
        with suppress(RequestError):
            keys.caller(header)
            raise SystemExit("a key that should be rejected was accepted")
        ended = time.perf_counter_ns()
        times[name].append(ended - began)
    for name, found in times.items():
        low, middle, high = np.quantile(found, (0.1, 0.5, 0.9)) / 1000
        print(f"right: {name:12} median {middle:.2f} µs, 10 % {low:.2f}, 90 % {high:.2f}")
    for one, two in itertools.combinations(times, 2):
        print(f"{one} against {two}: p = {mannwhitneyu(times[one], times[two]).pvalue:.2f}")


if __name__ == "__main__":
    main()
