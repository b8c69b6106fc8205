"""Phrases of the manual's pages whose numbers nobody measured: sizes, bounds, years, figures of others.

On the pages named here every other number has a key into a measured table (`tests/docs/figures.py`).
"""

UNMEASURED: dict[str, tuple[str, ...]] = {
    "README.md": (
        "Python 3.11",
        "accuracy at 16 to 64 training rows",
        "is 0.7988, 0.8341 and 0.8524.",
        "64 clients",
        "learn2learn",
        "NeurIPS 2018",
    ),
    "comparison.md": (
        "at most 1,000 |",
        "at most 1,000,000]",
        "at most 200]",
        "up to 5,000 rows",
        "[60 of each a minute",
        "64 clients",
        "learn2learn",
    ),
    "performance.md": (
        "a 2-core virtual AMD EPYC",
        "a 2-core virtual Intel Xeon",
        "ten particles of 1-40-40-40-1, ten tasks of 10 + 10 points",
        "authors report 260 ms",
        "weigh less than 10⁻⁸",
        "quantiles take 24 rounds",
        "At most 128 graphs",
        "has weight: 640 of them",
        "at 1,024 points",
        "At 64 clients",
        "at most 30 % padding",
        "with 429 at once",
    ),
    "when-not.md": (
        "1,000 rows",
        "200 features",
        "in 90 % |",
        "90 % interval holds",
        "79 trees",
    ),
}
