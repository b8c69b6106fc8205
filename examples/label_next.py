"""Label images in the order of their information, by active learning with the service.

    python examples/label_next.py FOLDER --model grocery [--url http://127.0.0.1:8000] [--rounds 20]

FOLDER holds a folder per class with at least one labelled image, and `unlabelled/`. Each round asks the
service which unlabelled image to label next, asks you for its class, and moves it into that folder.
"""

import argparse
from pathlib import Path

from bmaml_client import Client

POOL = "unlabelled"
SUFFIXES = {".png", ".jpg", ".jpeg"}


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def contents(paths: list[Path]) -> list[bytes]:
    """The bytes of files."""
    return [path.read_bytes() for path in paths]


def next_image(client: Client, folder: Path, model: str) -> tuple[Path, float]:
    """The unlabelled image with the highest predictive entropy, and its entropy in nats."""
    classes = [each for each in sorted(folder.iterdir()) if each.is_dir() and each.name != POOL]
    labelled = [(path, each.name) for each in classes for path in image_files(each)]
    pool = image_files(folder / POOL)
    choice = client.uncertainty(
        model,
        contents([path for path, _ in labelled]),
        [name for _, name in labelled],
        pool=contents(pool),
        acquisition="entropy",
    )
    best = choice.selected[0]
    return pool[best.index], best.score


def main() -> None:
    """Ask for classes and move files, round by round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with Client(options.url) as client:
        for _ in range(options.rounds):
            if not image_files(options.folder / POOL):
                break
            path, entropy = next_image(client, options.folder, options.model)
            name = input(f"{path} (entropy {entropy:.2f} nats) is a: ").strip()
            (options.folder / name).mkdir(exist_ok=True)
            path.rename(options.folder / name / path.name)


if __name__ == "__main__":
    main()
