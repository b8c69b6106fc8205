"""How long the device takes for the work of each model, and how much of its time each has had lately."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.job import Stratum

UNKNOWN_PACE = 1e-6
"""Seconds for a unit of work, until there has been some."""
UNKNOWN_BATCH_S = 1e-3
"""Seconds that any batch takes beside those for its work, until there has been one."""
LEAST = 0.1
"""Of the pace of all work of a model, that of a stratum at least: batches need not tell them apart."""
MEMORY = 0.9
"""Weight of the past against one batch, in what work is believed to take."""
LATELY_S = 1.0
"""For how long, by and large, a model that had the device is believed to want it again."""
TICK_S = 1e-7
"""A batch took so long at least, whatever a coarse clock says."""
REMEMBERED = 256
"""Models whose pace is, and strata of each."""


@dataclass
class _Rate:
    """Seconds for a unit, lately: so many seconds for so much."""

    seconds: float = 0.0
    work: float = 0.0

    def or_else(self, otherwise: float) -> float:
        return self.seconds / self.work if self.work else otherwise

    def learn(self, seconds: float, work: float) -> None:
        self.seconds, self.work = MEMORY * self.seconds + seconds, MEMORY * self.work + work


@dataclass
class _ModelCost:
    """Of one model.

    Attributes:
        whole: of all its work.
        strata: of some.
        batch: what any batch takes beside those.
        batches: how many there were of late, and how much work in them.
    """

    whole: _Rate = field(default_factory=_Rate)
    strata: dict[Stratum, _Rate] = field(default_factory=dict)
    batch: _Rate = field(default_factory=_Rate)
    batches: _Rate = field(default_factory=_Rate)

    def learn(self, seconds: float, work: Mapping[Stratum, int]) -> None:
        """A batch of such work took these seconds.

        What each stratum had of them is what was believed of it, in proportion: over batches of different
        make-up that is expectation maximisation for Poisson rates (Shepp and Vardi 1982).
        """
        each = {stratum: some * self._rate(stratum) for stratum, some in work.items()}
        beside = max(self.batch.or_else(UNKNOWN_BATCH_S), TICK_S)
        scale = seconds / (beside + sum(each.values()))
        for stratum, some in work.items():
            self.strata.setdefault(stratum, _Rate()).learn(scale * each[stratum], some)
        if len(self.strata) > REMEMBERED:
            del self.strata[next(iter(self.strata))]
        total = sum(work.values())
        self.whole.learn(scale * sum(each.values()), total)
        self.batch.learn(scale * beside, 1)
        self.batches.learn(1, total)

    def seconds(self, work: Mapping[Stratum, int], batches: float | None = None) -> float:
        """How long it takes, in so many batches, by default as large as those of late."""
        total, units = 0.0, 0
        for stratum, some in list(work.items()):  # at once: another thread may change it
            total += some * self._rate(stratum)
            units += some
        if batches is None:
            batches = units * self.batches.or_else(0.0)
        return total + batches * self.batch.or_else(UNKNOWN_BATCH_S)

    def _rate(self, stratum: Stratum) -> float:
        """Of one that has not been seen, that of the model's other work."""
        whole = self.whole.or_else(UNKNOWN_PACE)
        seen = self.strata.get(stratum)
        return whole if seen is None else max(seen.or_else(whole), LEAST * whole)


@dataclass
class _DeviceUse:
    """Of the device: seconds, of which those of `LATELY_S` before `at` count 1/e."""

    had: float = 0.0
    at: float = 0.0

    def learn(self, seconds: float, now: float) -> None:
        self.had, self.at = LATELY_S * self.share(now) + seconds, now

    def share(self, now: float) -> float:
        """Of its time of late."""
        return self.had * math.exp((self.at - now) / LATELY_S) / LATELY_S


class CostModel:
    """Learns from batches. One thread at a time may tell it of them; any may ask."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[_ModelCost, _DeviceUse]] = {}
        self._all = _DeviceUse()

    def learn(self, model: str, seconds: float, work: Mapping[Stratum, int]) -> None:
        """So much work of this model took these seconds, until now."""
        now, seconds = time.monotonic(), max(seconds, TICK_S)
        pace, use = self._models.get(model) or (_ModelCost(), _DeviceUse())
        pace.learn(seconds, work)
        for each in (use, self._all):
            each.learn(seconds, now)
        self._models[model] = pace, use
        if len(self._models) > REMEMBERED:
            self._models.pop(min(self._models, key=lambda name: self._models[name][1].at))

    def seconds(self, model: str, work: Mapping[Stratum, int], batches: float | None = None) -> float:
        """How long this much work of the model takes, as far as is known, in so many batches."""
        pace, _ = self._models.get(model) or (_ModelCost(), None)
        return pace.seconds(work, batches)

    def left_to(self, model: str) -> float:
        """Share of the device's time that other models have not used lately."""
        now = time.monotonic()
        own = self._models[model][1].share(now) if model in self._models else 0.0
        return 1 - (self._all.share(now) - own)
