"""The embedding of 100 pictures in ways that might be faster than the service: their time and features.

    python -m benchmarks.speed.embedding [--runs 5] [--characters omniglot28.npz] [--page docs/performance.md]

All ways embed the same pictures with the shipped `omniglot`, on one thread, in turns. The service's own has
channels last and folds the normalisation into the kernels. With `--characters` the test characters are
classified by the features of the service's two ways, on the same tasks.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from benchmarks import command_line, pages
from bmaml.embedding import BLOCKS, EPSILON, PREFIX, VIEW_SHIFTS, ConvNet
from model_store import SHIPPED, Model, Store
from training.config import ImagesConfig
from training.evaluate_classes import WAYS_AND_SHOTS, class_metrics
from training.families import Images

PICTURES = 100
BLOCK = 256
"""Pictures embedded at once for the accuracies."""
TASKS, SEED = 500, 77
COARSE = "the service's, with `BMAML_BFLOAT16`"
"""The way whose features differ by more than rounding."""
Features = Callable[[Tensor], Tensor]
"""Features `[picture, feature]` of pictures `[picture, channel, height, width]`."""


def folded(learned: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Kernel and offset of each block, with its normalisation in them."""
    found = []
    for block in range(BLOCKS):
        names = ("kernel", "scale", "shift", "mean", "variance")
        kernel, scale, shift, mean, variance = (learned[f"{PREFIX}{block}.{name}"] for name in names)
        factor = scale * torch.rsqrt(variance + EPSILON)
        found.append((kernel * factor[:, None, None, None], shift - mean * factor))
    return found


def one_view(
    layers: list[tuple[Tensor, Tensor]],
    pictures: Tensor,
    fused: bool = False,
) -> Tensor:
    """Features of one view by a light network whose normalisation is folded, pooled before the ReLU.

    Args:
        fused: the ReLU is part of oneDNN's convolution.
    """
    signal = pictures.contiguous(memory_format=torch.channels_last)
    for block, (kernel, offset) in enumerate(layers):
        stride, padding = 2 if block == 0 else 1, kernel.shape[-1] // 2
        if fused:
            signal = torch.ops.mkldnn._convolution_pointwise(
                signal, kernel, offset, [padding] * 2, [stride] * 2, [1, 1], 1, "relu", [], ""
            )
        else:
            signal = conv2d(signal, kernel, offset, stride, padding)
        if 0 < block < BLOCKS - 1:
            signal = max_pool2d(signal, 2)
        signal = signal if fused else signal.relu_()
    return signal.flatten(1)


def averaged(features: Features, views: int, pictures: Tensor) -> Tensor:
    """The mean over views, one after the other."""
    shifted = (features(pictures.roll(move, (-2, -1))) for move in VIEW_SHIFTS[:views])
    return torch.stack(list(shifted)).mean(0)


def stacked(features: Features, views: int, pictures: Tensor) -> Tensor:
    """The mean over views that are embedded together."""
    shifted = torch.cat([pictures.roll(move, (-2, -1)) for move in VIEW_SHIFTS[:views]])
    return features(shifted).unflatten(0, (views, -1)).mean(0)


def ways(network: ConvNet, learned: Mapping[str, Tensor]) -> dict[str, Features]:
    """The service's way and others, by name."""
    view, views = partial(one_view, folded(learned)), network.views
    return {
        "the service's": lambda pictures: network(learned, pictures.flatten(1)[None])[0],
        "folded once, pooled before the ReLU": partial(averaged, view, views),
        "ReLU fused into the convolution": partial(averaged, partial(view, fused=True), views),
        "views stacked": partial(stacked, view, views),
    }


def main() -> None:
    """Print the table; write it into a page."""
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--characters", help="omniglot28.npz, for the accuracies")
    command_line.add_page(arguments)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    model = Store(SHIPPED).load("omniglot")
    network, half = model.embedding, model.to("cpu", bfloat16=True)
    assert isinstance(network, ConvNet)
    pictures = torch.rand(PICTURES, network.channels, network.size, network.size)
    candidates = ways(network, model.learned)
    candidates[COARSE] = lambda pictures: half.embedded(pictures.flatten(1)[None])[0]
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.inference_mode():
        found = {name: features(pictures) for name, features in candidates.items()}
        for _ in range(options.runs):
            for name, features in candidates.items():
                started = time.process_time()
                features(pictures)
                times[name].append(1000 * (time.process_time() - started))
    first, *_ = candidates
    base = statistics.median(times[first])
    lines = [f"Measured on {options.machine}, one thread, processor time, medians of {options.runs}.", ""]
    lines += [
        "| way | ms | times faster | largest difference of a feature, of the largest feature |",
        "|---|---|---|---|",
    ]
    for name in candidates:
        away = float((found[name] - found[first]).abs().max() / found[first].abs().max())
        middle = statistics.median(times[name])
        lines.append(f"| {name} | {middle:.0f} | {base / middle:.2f} | {away:.4f} |")
    print("\n".join(lines))
    if options.page:
        pages.write(options.page, lines, "embedding")
    if options.characters:
        lines = accuracies(model, {name: candidates[name] for name in (first, COARSE)}, options)
        print("\n".join(lines))
        if options.page:
            pages.write(options.page, lines, "embedding-accuracy")


def accuracies(model: Model, candidates: Mapping[str, Features], options: argparse.Namespace) -> list[str]:
    """The table of accuracies on test characters, by the features of each way."""
    config = ImagesConfig(path=options.characters, size=28, channels=1, split="class_split_vinyals")
    pixels, index = Images(config, 0).of_role("test")
    pictures = pixels.float().div(255).view(-1, 1, config.size, config.size)
    lines = [
        f"Measured on {options.machine}: {TASKS} tasks of {len(index)} test characters, the same for all, "
        "± half a 95 % interval.",
        "",
        f"| way | {' | '.join(f'{ways}-way {shots}-shot, %' for ways, shots in WAYS_AND_SHOTS)} |",
        f"|---|{'---|' * len(WAYS_AND_SHOTS)}",
    ]
    for name, features in candidates.items():
        with torch.inference_mode():
            rows = torch.cat([features(some) for some in pictures.split(BLOCK)])
        cells = []
        for ways, shots in WAYS_AND_SHOTS:
            found = class_metrics(model, rows, index, ways, shots, TASKS, SEED)
            cells.append(f"{100 * found.accuracy:.2f} ± {100 * found.half_width:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
