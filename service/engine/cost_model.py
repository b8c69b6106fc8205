"""The cost model of the queue: the device time of a model's work, and each model's share of the device."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.job import Stratum

DEFAULT_PACE = 1e-6
"""Seconds per unit of work of a model without a batch so far."""
DEFAULT_OVERHEAD_S = 1e-3
"""Seconds that a batch takes beside its work, for a model without a batch so far."""
MIN_STRATUM_PACE_RATIO = 0.1
"""Lower bound of a stratum's pace, as a share of the model's pace.

Strata that always share batches cannot be told apart: the estimate of one could fall to zero.
"""
DECAY_PER_BATCH = 0.9
"""Weight of past batches against the newest one."""
RECENT_S = 1.0
"""Time constant, in seconds, of the average of the device's use."""
MIN_BATCH_S = 1e-7
"""Shortest time believed of a batch: the clock may be coarse."""
MAX_TRACKED = 256
"""Models that are tracked, and strata of each model."""


@dataclass
class _Rate:
    """A ratio of two exponentially decayed sums, such as seconds per unit of work."""

    amount: float = 0.0
    units: float = 0.0

    def value(self, default: float) -> float:
        """The rate; `default` before the first batch."""
        return self.amount / self.units if self.units else default

    def add(self, amount: float, units: float) -> None:
        """Add a batch's amount and units to the sums."""
        self.amount = DECAY_PER_BATCH * self.amount + amount
        self.units = DECAY_PER_BATCH * self.units + units


@dataclass
class _BatchTime:
    """The expected time of a model's batches: an overhead for each, and a pace for each stratum's work.

    Attributes:
        pace: seconds per unit of work, all strata together.
        strata: the same of single strata.
        overhead: seconds per batch beside its work.
        batches: batches per unit of work.
    """

    pace: _Rate = field(default_factory=_Rate)
    strata: dict[Stratum, _Rate] = field(default_factory=dict)
    overhead: _Rate = field(default_factory=_Rate)
    batches: _Rate = field(default_factory=_Rate)

    def learn(self, seconds: float, work: Mapping[Stratum, int]) -> None:
        """Learn from a batch with this work in each stratum.

        Its seconds are divided in proportion to the expectations of overhead and strata. Over batches of
        different composition that is expectation maximisation for Poisson rates (Shepp and Vardi 1982).
        """
        expected = {stratum: units * self._pace_of(stratum) for stratum, units in work.items()}
        overhead = max(self.overhead.value(DEFAULT_OVERHEAD_S), MIN_BATCH_S)
        scale = seconds / (overhead + sum(expected.values()))
        for stratum, units in work.items():
            self.strata.setdefault(stratum, _Rate()).add(scale * expected[stratum], units)
        if len(self.strata) > MAX_TRACKED:
            del self.strata[next(iter(self.strata))]
        total = sum(work.values())
        self.pace.add(scale * sum(expected.values()), total)
        self.overhead.add(scale * overhead, 1)
        self.batches.add(1, total)

    def seconds(self, work: Mapping[Stratum, int], batches: float | None = None) -> float:
        """Expected seconds of this work.

        Args:
            batches: number of batches; by default they are as large as recent ones.
        """
        seconds, total = 0.0, 0
        for stratum, units in list(work.items()):  # a copy: another thread may change it
            seconds += units * self._pace_of(stratum)
            total += units
        if batches is None:
            batches = total * self.batches.value(0.0)
        return seconds + batches * self.overhead.value(DEFAULT_OVERHEAD_S)

    def _pace_of(self, stratum: Stratum) -> float:
        """The stratum's pace; the model's for a stratum without a batch so far."""
        pace = self.pace.value(DEFAULT_PACE)
        own = self.strata.get(stratum)
        return pace if own is None else max(own.value(pace), MIN_STRATUM_PACE_RATIO * pace)


@dataclass
class _DeviceUse:
    """Device seconds, an exponential average with time constant `RECENT_S`.

    Attributes:
        seconds: their sum at `updated_at`, each weighted by exp(-age / `RECENT_S`).
        updated_at: seconds on the monotonic clock.
    """

    seconds: float = 0.0
    updated_at: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        """Count a batch that has just ended."""
        self.seconds, self.updated_at = RECENT_S * self.share(now) + seconds, now

    def share(self, now: float) -> float:
        """The share of recent time that the device was in use."""
        return self.seconds * math.exp((self.updated_at - now) / RECENT_S) / RECENT_S


class CostModel:
    """The cost model of all models, learned from finished batches.

    One thread at a time may call `learn`; any thread may ask.
    """

    def __init__(self) -> None:
        self._models: dict[str, tuple[_BatchTime, _DeviceUse]] = {}
        self._total_use = _DeviceUse()

    def learn(self, model: str, seconds: float, work: Mapping[Stratum, int]) -> None:
        """Learn from a batch of this model that has just ended."""
        now, seconds = time.monotonic(), max(seconds, MIN_BATCH_S)
        batch_time, use = self._models.get(model) or (_BatchTime(), _DeviceUse())
        batch_time.learn(seconds, work)
        for each in (use, self._total_use):
            each.add(seconds, now)
        self._models[model] = batch_time, use
        if len(self._models) > MAX_TRACKED:
            self._models.pop(min(self._models, key=lambda name: self._models[name][1].updated_at))

    def seconds(self, model: str, work: Mapping[Stratum, int], batches: float | None = None) -> float:
        """Expected seconds of this work of the model.

        Args:
            batches: number of batches; by default they are as large as recent ones.
        """
        batch_time, _ = self._models.get(model) or (_BatchTime(), None)
        return batch_time.seconds(work, batches)

    def share_left_to(self, model: str) -> float:
        """The share of recent device time that other models have not used."""
        now = time.monotonic()
        _, own = self._models.get(model) or (None, _DeviceUse())
        return 1 - (self._total_use.share(now) - own.share(now))
