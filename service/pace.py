"""How long the device takes for the work of each model, and how much of its time each has had lately."""

import math
import time
from dataclasses import dataclass

UNKNOWN_PACE = 1e-6
"""Seconds for a unit of work, until there has been some."""
MEMORY = 0.9
"""Weight of the past against one batch, in what a model's work is believed to take."""
LATELY_S = 1.0
"""For how long, by and large, a model that had the device is believed to want it again."""
REMEMBERED = 256
"""Models whose pace is."""


@dataclass
class _Pace:
    """Of one model, or of all.

    Attributes:
        seconds, work: how long it took lately, and how much it was.
        had: seconds of the device; those of `LATELY_S` before `at` count 1/e.
    """

    seconds: float = 0.0
    work: float = 0.0
    had: float = 0.0
    at: float = 0.0

    def learn(self, seconds: float, work: int, now: float) -> None:
        """So much was done in these seconds, until now."""
        self.had = LATELY_S * self.share(now) + seconds
        self.seconds, self.work, self.at = MEMORY * self.seconds + seconds, MEMORY * self.work + work, now

    def share(self, now: float) -> float:
        """Of the device's time of late."""
        return self.had * math.exp((self.at - now) / LATELY_S) / LATELY_S


NONE = _Pace()


class Paces:
    """Learns from batches. One thread at a time may tell it of them; any may ask."""

    def __init__(self) -> None:
        self._models: dict[str, _Pace] = {}
        self._whole = _Pace()

    def learn(self, model: str, seconds: float, work: int) -> None:
        """So much work of this model took these seconds, until now."""
        now, pace = time.monotonic(), self._models.get(model) or _Pace()
        pace.learn(seconds, work, now)
        self._whole.learn(seconds, work, now)
        self._models[model] = pace
        if len(self._models) > REMEMBERED:
            self._models.pop(min(self._models, key=lambda name: self._models[name].at))

    def seconds(self, model: str, work: int) -> float:
        """How long this much work of the model takes, as far as is known."""
        pace = self._models.get(model, NONE)
        return work * (pace.seconds / pace.work if pace.work else UNKNOWN_PACE)

    def left_to(self, model: str) -> float:
        """Share of the device's time that other models have not used lately."""
        now = time.monotonic()
        return 1 - (self._whole.share(now) - self._models.get(model, NONE).share(now))
