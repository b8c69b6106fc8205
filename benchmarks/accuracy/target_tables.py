"""Generated tables of shops and wells, with targets that are no plain real numbers.

A shop has weeks: units sold, whether it sold out, price, weather and promotion. A well has depths: flow,
which is positive, and whether it leaks. Names and laws are made up; seeds give other shops and wells.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
"""A table: columns by name, all of one length."""
ROWS = 16
"""Rows of each shop and of each well."""
WEATHER = ("rain", "snow", "sun")
NOISE_FREEDOM = 3
"""Degrees of freedom of Student's t, the noise of log flows, whose tails are heavy."""


@dataclass(frozen=True)
class Target:
    """A target of a generated table, and what a user tells `bmaml-train table` about it.

    Attributes:
        name: of the target, in a page.
        table: "shops" or "wells".
        y: what `--y` says.
        options: others than task, inputs and target.
    """

    name: str
    table: str
    y: str
    options: tuple[str, ...] = ()

    @property
    def classes(self) -> bool:
        """Whether it is a class."""
        return "--target" in self.options

    @property
    def task(self) -> str:
        """The column of the task."""
        return "shop" if self.table == "shops" else "well"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of x."""
        return ("week", "price", "weather", "promo") if self.table == "shops" else ("depth", "status")

    def command(self, file: Path, name: str) -> list[str]:
        """The arguments of `bmaml-train`, the defaults left out."""
        columns = ["--task", self.task, "--x", *self.inputs, "--y", self.y]
        return ["table", str(file), "--name", name, *columns, *self.options]

    def table_of(self, tasks: int, seed: int) -> Columns:
        """So many tasks."""
        generator = np.random.default_rng(seed)
        return (shops if self.table == "shops" else wells)(tasks, generator)


TARGETS = (
    Target("units", "shops", "units:count"),
    Target("sold_out", "shops", "sold_out", ("--target", "classes")),
    Target("flow", "wells", "flow:log"),
)


def shops(tasks: int, generator: np.random.Generator) -> Columns:
    """Weeks of shops: negative binomial demand, and a stock that it may exceed."""
    shop = np.repeat(np.arange(tasks), ROWS)
    size = generator.normal(3.2, 0.6, tasks)[shop]
    elasticity = generator.normal(0.35, 0.1, tasks)[shop]
    season = generator.uniform(0, 2 * np.pi, tasks)[shop]
    stock = np.exp(generator.normal(3.4, 0.3, tasks))[shop]
    week = generator.integers(0, 52, len(shop))
    price = generator.uniform(1, 5, len(shop)).round(2)
    weather = generator.integers(0, len(WEATHER), len(shop))
    promo = generator.random(len(shop)) < 0.3
    log_rate = size - elasticity * (price - 3) + 0.35 * promo + np.array([-0.15, -0.25, 0.2])[weather]
    log_rate += 0.3 * np.cos(2 * np.pi * week / 52 - season)
    demand = generator.poisson(np.exp(log_rate) * generator.gamma(12, 1 / 12, len(shop)))
    return {
        "shop": shop,
        "week": week,
        "price": price,
        "weather": np.array(WEATHER)[weather],
        "promo": promo,
        "units": demand,
        "sold_out": (demand > stock).astype(np.int64),
    }


def wells(tasks: int, generator: np.random.Generator) -> Columns:
    """Depths of wells: log flow rises with depth and levels off; a leak takes some of it."""
    well = np.repeat(np.arange(tasks), ROWS)
    level = generator.normal(4.0, 0.9, tasks)[well]
    rise = generator.normal(2.5, 0.8, tasks)[well]
    length = np.exp(generator.normal(5.6, 0.4, tasks))[well]
    depth = generator.uniform(10, 1000, len(well)).round(1)
    leak = generator.random(len(well)) < 0.5
    noise = generator.standard_t(NOISE_FREEDOM, len(well)) / np.sqrt(NOISE_FREEDOM / (NOISE_FREEDOM - 2))
    log_flow = level + rise * (1 - np.exp(-depth / length)) - 0.3 * leak + 0.7 * noise
    return {
        "well": well,
        "depth": depth,
        "status": np.where(leak, "leak", "ok"),
        "flow": np.exp(log_flow),
    }
