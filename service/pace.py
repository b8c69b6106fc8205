"""How long the device takes for the work of each model, and how much of its time each has had lately."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

Stratum = tuple[str, bool, int]
"""Of a model's work: what takes about as long for a unit of work (see `Work.stratum`)."""

UNKNOWN_PACE = 1e-6
"""Seconds for a unit of work, until there has been some."""
MEMORY = 0.9
"""Weight of the past against one batch, in what work is believed to take."""
LATELY_S = 1.0
"""For how long, by and large, a model that had the device is believed to want it again."""
TICK_S = 1e-7
"""A batch took so long at least, whatever a coarse clock says."""
REMEMBERED = 256
"""Models whose pace is."""


@dataclass
class _Rate:
    """Seconds for a unit of work, lately: so many seconds for so much."""

    seconds: float = 0.0
    work: float = 0.0

    def learn(self, seconds: float, work: float) -> None:
        self.seconds, self.work = MEMORY * self.seconds + seconds, MEMORY * self.work + work


@dataclass
class _Pace:
    """Of one model: over all its work, and by stratum."""

    whole: _Rate = field(default_factory=_Rate)
    strata: dict[Stratum, _Rate] = field(default_factory=dict)

    def learn(self, seconds: float, work: Mapping[Stratum, int]) -> None:
        """A batch of such work took these seconds.

        What each stratum had of them is what was believed of it, in proportion: over batches of different
        make-up that is expectation maximisation for Poisson rates (Shepp and Vardi 1982).
        """
        believed = {stratum: self.seconds({stratum: some}) for stratum, some in work.items()}
        scale = seconds / sum(believed.values())
        for stratum, some in work.items():
            self.strata.setdefault(stratum, _Rate()).learn(scale * believed[stratum], some)
        self.whole.learn(seconds, sum(work.values()))

    def seconds(self, work: Mapping[Stratum, int]) -> float:
        """How long it takes; of a stratum that has not been seen, as long as the model's other work."""
        total = 0.0
        for stratum, some in list(work.items()):  # at once: another thread may change it
            rate = self.strata.get(stratum, self.whole)
            total += some * (rate.seconds / rate.work if rate.work else UNKNOWN_PACE)
        return total


@dataclass
class _Use:
    """Of the device: seconds, of which those of `LATELY_S` before `at` count 1/e."""

    had: float = 0.0
    at: float = 0.0

    def learn(self, seconds: float, now: float) -> None:
        self.had, self.at = LATELY_S * self.share(now) + seconds, now

    def share(self, now: float) -> float:
        """Of its time of late."""
        return self.had * math.exp((self.at - now) / LATELY_S) / LATELY_S


class Paces:
    """Learns from batches. One thread at a time may tell it of them; any may ask."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[_Pace, _Use]] = {}
        self._all = _Use()

    def learn(self, model: str, seconds: float, work: Mapping[Stratum, int]) -> None:
        """So much work of this model took these seconds, until now."""
        now, seconds = time.monotonic(), max(seconds, TICK_S)
        pace, use = self._models.get(model) or (_Pace(), _Use())
        pace.learn(seconds, work)
        for each in (use, self._all):
            each.learn(seconds, now)
        self._models[model] = pace, use
        if len(self._models) > REMEMBERED:
            self._models.pop(min(self._models, key=lambda name: self._models[name][1].at))

    def seconds(self, model: str, work: Mapping[Stratum, int]) -> float:
        """How long this much work of the model takes, as far as is known."""
        pace, _ = self._models.get(model) or (_Pace(), None)
        return pace.seconds(work)

    def left_to(self, model: str) -> float:
        """Share of the device's time that other models have not used lately."""
        now = time.monotonic()
        own = self._models[model][1].share(now) if model in self._models else 0.0
        return 1 - (self._all.share(now) - own)
