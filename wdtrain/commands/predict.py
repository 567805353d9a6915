"""`tools/predict`: what the networks of a run say of pictures, as PNG files to look at and to use.

Weights are read from safetensors, never from pickle. What a prediction needs to know of the
training (channel means, depth limits, size) is in the checkpoint, so the dataset may be gone.
One picture is held at a time. One that cannot be used is named and left out; the others go on.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from pathlib import Path

import cv2
import numpy as np
import torch

from wdtrain.commands import run_command, tool_parser
from wdtrain.commands.pack_shards import long_work
from wdtrain.commands.predict_inputs import (
    Named,
    list_inputs,
    pictures_of_files,
    pictures_of_split,
    result_names,
    split_names,
    split_stream,
)
from wdtrain.commands.trust import add_trust, load_run_recipe
from wdtrain.config import Recipe
from wdtrain.fields import register_all
from wdtrain.fields.resize import STRIDE, size_for
from wdtrain.learn.build import Learned, learned_from, load_state
from wdtrain.learn.evaluate import predict
from wdtrain.learn.inputs import Normalisation
from wdtrain.learn.out_of_memory import release, try_to
from wdtrain.networks import build_for
from wdtrain.ranks.devices import default_device, exact_float32
from wdtrain.record.checkpoint import Checkpoints, SavedCheckpoint, load_weights
from wdtrain.record.outputs import OVERWRITE_HELP, Outputs
from wdtrain.record.picture_grid import png_of

MOST_INPUT_PIXELS = 2**24
"""Of a picture as networks see it: a strip of 5,000 x 1 would become one of 320,000 x 64."""
SHOWN_PX = (256, 1024)
"""A preview's pictures are brought to a longer side between these."""
_DATA_HELP = (
    "the dataset of --split, a folder or URL; default: the run's own, unless its URL holds a "
    "password or signature, which a run's folder does not keep"
)
_EXAMPLES = """examples:
  tools/predict runs/kit photo.jpg other.png --out predictions
  tools/predict runs/kit ../pictures --out predictions --checkpoint best --size 128
  tools/predict runs/playground --split val-new-new --count 8 --out predictions
  tools/predict runs/mine --split val --data 'https://host/data?sig=...' --out predictions

Of each picture NAME.jpg, after what the networks have learned: NAME.mask.png (probability, 0..255),
NAME.classes.png (ids), NAME.depth.png (16-bit codes of the dataset's depth format; 0 is never
written); and NAME.preview.png (the picture and these side by side). Pictures of the same name in
one call get their endings and folders into the results' names. Folders are taken with all below
them; results then lie in folders of the same names.

Networks see a picture with its shorter side at --size, both sides rounded to multiples of 16.
A picture that is smaller than that is enlarged smoothly (bilinear), a larger one shrunk by area.
What they say is brought back to the picture's size in the same way: probabilities before any
threshold (foreground counts from 128) or choice of a class, and depth, which therefore changes
gradually at an edge, over about one pixel of what the networks saw.

A picture that cannot be read is named and skipped. Nothing is written over what this tool did not
make; what it made (listed in .wdtrain-made.jsonl in --out) is replaced with --overwrite.
The exit code is 0, 1 where pictures were skipped, 2 after an error or where none was left."""


@dataclass(frozen=True)
class Trained:
    """The networks of a run by task, with what they see and learn, as a checkpoint holds them."""

    networks: Mapping[str, torch.nn.Module]
    learned: Mapping[str, Learned]
    normalisations: Mapping[str, Normalisation]
    side: int  # the shorter one that the networks see, as in training
    device: torch.device

    def __call__(self, rgb: np.ndarray) -> dict[str, np.ndarray]:
        """By task, settled predictions [k, h, w] of a uint8 [h, w, 3] picture of any size.

        ValueError for a picture that does not fit into memory, or that networks say NaN of.
        """
        height, width = rgb.shape[:2]
        inner = self._inner_size(height, width)
        picture = torch.from_numpy(resized(rgb, *inner)).permute(2, 0, 1)[None]
        found = {}
        for task in self.networks:
            soft = self._ask(task, picture)
            if not np.isfinite(soft).all():
                raise ValueError(f"the network of task {task!r} says NaN of it; train it anew")
            back = partial(resized, height=height, width=width)
            found[task] = self.learned[task].target.resized(soft, back)
        return found

    def image(self) -> str:
        """The image that all networks see; ValueError where there are several."""
        images = {one.input for one in self.learned.values()}
        if len(images) > 1:
            raise ValueError(
                f"the networks see several images ({', '.join(sorted(images))}), and one picture "
                "is given to all; name one with --input, and only those that see it are asked"
            )
        return images.pop()

    def seeing(self, image: str) -> Trained:
        """Of these networks, those that see an image; ValueError where none does."""
        learned = {task: one for task, one in self.learned.items() if one.input == image}
        if not learned:
            images = ", ".join(sorted({one.input for one in self.learned.values()}))
            raise ValueError(f"--input is {image!r}; the networks of this run see {images}")
        return replace(
            self, learned=learned, networks={task: self.networks[task] for task in learned}
        )

    def endings(self) -> dict[str, str]:
        """What the results are called after a picture's name: by task, and `preview`."""
        kinds = {task: one.target.field.kind for task, one in self.learned.items()}
        count = Counter(kinds.values())
        names = {task: kind if count[kind] == 1 else task for task, kind in kinds.items()}
        return {task: f".{name}.png" for task, name in names.items()} | {"preview": ".preview.png"}

    def _ask(self, task: str, picture: torch.Tensor) -> np.ndarray:
        answers: list[np.ndarray] = []
        network, learned = self.networks[task], self.learned[task]

        def ask() -> None:
            normalisation = self.normalisations[learned.input]
            sent = picture.to(self.device)
            soft = predict(network, sent, learned.target, normalisation=normalisation)
            answers.append(soft[0].cpu().numpy())

        if out_of_memory := try_to(ask):
            release(self.device)
            height, width = picture.shape[2:]
            raise ValueError(
                f"at {width} x {height} it does not fit into memory ({out_of_memory.message}); "
                "give a smaller --size"
            )
        return answers[0]

    def _inner_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that the networks see: the shorter side as in training."""
        inner = size_for((height, width), self.side, multiple=STRIDE)
        if inner[0] * inner[1] > MOST_INPUT_PIXELS:
            raise ValueError(
                f"it is {width} x {height}, which networks would see at {inner[1]} x {inner[0]}: "
                f"more than {MOST_INPUT_PIXELS:,} pixels; give a smaller --size, or cut "
                "it into parts"
            )
        return inner


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """[height, width, ...] of the same dtype: axes that shrink by area, those that grow bilinearly.

    One after the other, since OpenCV's area repeats pixels where it enlarges.
    """
    smaller = min(width, picture.shape[1]), min(height, picture.shape[0])
    picture = cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR))


def load_trained(folder: Path, which: str, side: int | None, *, trust: bool = False) -> Trained:
    """The networks of the run in `folder`, at its last or best checkpoint."""
    recipe = load_run_recipe(folder, trust=trust)
    sys.path.append(str(Path.cwd()))  # networks of the user's own, as in training
    register_all(recipe.data.kinds)
    found = _checkpoint(folder, which)
    exact_float32()
    device = default_device()
    learned, normalisations, trained_side = _seen_in_training(found, recipe)
    networks = {}
    for task, declared in recipe.tasks.items():
        channels = learned[task].target.channels
        network = build_for(channels, declared.network, declared.options)
        load_state(network, load_weights(found.path / f"{task}.safetensors"))
        networks[task] = network.to(device).eval()
    return Trained(networks, learned, normalisations, side or trained_side, device)


def _seen_in_training(
    found: SavedCheckpoint, recipe: Recipe
) -> tuple[dict[str, Learned], dict[str, Normalisation], int]:
    """What each task sees and learns, how pictures were prepared, and their shorter side, as the
    checkpoint says."""
    try:
        images, saved = found.extra["view"]["normalisations"], found.extra["learned"]
        learned = {task: learned_from(saved[task], recipe.targets) for task in recipe.tasks}
        normalisations = {name: Normalisation(**one) for name, one in images.items()}
        return learned, normalisations, int(found.extra["side"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"checkpoint {found.path} does not say how pictures were prepared ({error!r}), so "
            "networks would see others than in training; take one that train.py has saved"
        ) from error


def _checkpoint(folder: Path, which: str) -> SavedCheckpoint:
    checkpoints = Checkpoints(folder / "checkpoints")
    found = checkpoints.best() if which == "best" else checkpoints.latest()
    if found is None:
        why = "; ".join(checkpoints.skipped) or "none was saved yet"
        raise ValueError(f"{folder} has no whole checkpoint ({why}); train it first")
    return found


def side_by_side(
    rgb: np.ndarray, found: Mapping[str, np.ndarray], learned: Mapping[str, Learned]
) -> np.ndarray:
    """uint8 [h, w, 3]: the picture and what was found of it, at a size to look at."""
    height, width = rgb.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, SHOWN_PX[0]), SHOWN_PX[1]) / longer
    size = max(1, round(height * scale)), max(1, round(width * scale))
    coloured = [learned[task].target.colour(values) for task, values in found.items()]
    tiles = [resized(picture, *size) for picture in (rgb, *coloured)]
    gap = np.full((size[0], 4, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], 1)


@dataclass
class Work:
    """What there is to predict, by the names of its results, and how far it is."""

    trained: Trained
    outputs: Outputs
    names: list[str]
    done: int = 0
    skipped: int = 0

    def check(self) -> None:
        """OutputError where a result may not be written."""
        endings = self.trained.endings().values()
        self.outputs.check(name + ending for name in self.names for ending in endings)

    def skip(self, why: str) -> None:
        """A picture cannot be used, which is reported at once and counted."""
        self.skipped += 1
        print(f"skipped: {why}", file=sys.stderr)

    def do(self, pictures: Iterator[Named]) -> None:
        """All results of those that can be used are written, one picture after the other."""
        with long_work("predicting", "pictures") as progress:
            for number, (name, rgb) in enumerate(pictures, 1):
                if rgb is not None:
                    try:
                        found = self.trained(rgb)
                    except ValueError as error:
                        self.skip(f"{name}: {error}")
                    else:
                        self._write(name, rgb, found)
                progress(number, len(self.names))

    def _write(self, name: str, rgb: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        trained, endings = self.trained, self.trained.endings()
        for task, values in found.items():
            data = trained.learned[task].target.encode(values)
            self.outputs.write(name + endings[task], data)
        preview = side_by_side(rgb, found, trained.learned)
        self.outputs.write(name + endings["preview"], png_of(preview))
        self.done += 1

    def summary(self) -> str:
        """A line that counts."""
        pictures = f"{self.done:,} picture{'s' * (self.done != 1)}"
        skipped = f"; {self.skipped:,} skipped, named above" if self.skipped else ""
        return f"predicted {pictures} into {self.outputs.folder}{skipped}"


def _predict(options: argparse.Namespace) -> int:
    _check_options(options)
    trained = load_trained(options.run, options.checkpoint, options.size, trust=options.trust)
    trained = trained if options.input is None else trained.seeing(options.input)
    trained.image()
    outputs = Outputs(options.out, "predict", overwrite=options.overwrite)
    work = Work(trained, outputs, [])
    if options.split:
        recipe = load_run_recipe(options.run, trust=options.trust)
        image = trained.image()
        streams = [split_stream(recipe, options.split, options.data, image=image) for _ in range(2)]
        work.names = split_names(streams[0], options.count)
        pictures = pictures_of_split(streams[1], work.names, options.count, work.skip)
    else:
        listing = list_inputs(options.pictures)
        for remark in listing.remarks():
            print(remark, file=sys.stderr)
        work.names = result_names(listing.pictures)
        pictures = pictures_of_files(listing.pictures, work.names, work.skip)
    work.check()
    try:
        work.do(pictures)
    except KeyboardInterrupt:
        print(work.summary())
        raise
    if not work.done:
        raise ValueError("none of the pictures could be predicted; the reasons stand above")
    print(work.summary())
    return 1 if work.skipped else 0


def _check_options(options: argparse.Namespace) -> None:
    if options.split and options.pictures:
        raise ValueError("pictures and --split were both given; name one of them")
    if not options.split and not options.pictures:
        raise ValueError("there is no picture to predict; name picture files, or a --split")
    if options.data is not None and not options.split:
        raise ValueError("--data names the dataset of a --split; give --split NAME with it")
    if options.count < 1:
        raise ValueError(f"--count is {options.count}; it must be at least 1")
    side = options.size
    if side is not None and (side < STRIDE or side % STRIDE or side * side > MOST_INPUT_PIXELS):
        near = min(max(STRIDE, round(side / STRIDE) * STRIDE), isqrt(MOST_INPUT_PIXELS))
        raise ValueError(
            f"--size is {side}; networks take sides that are multiples of {STRIDE}, up to "
            f"{isqrt(MOST_INPUT_PIXELS):,}; give {near}"
        )


def _path(text: str) -> Path:
    """The path; an empty one, as an unset variable of a shell gives, would be this folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a file or folder, or . for here")
    return Path(text)


def _url(text: str) -> str:
    """The place of a dataset; not an empty one either."""
    if not text:
        raise argparse.ArgumentTypeError("the place is empty; name a dataset's folder or URL")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = tool_parser(
        "predict",
        "Predict mask, classes and depth of pictures with the networks of a run.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("run", type=_path, metavar="RUN", help="the folder of a run")
    add("pictures", type=_path, nargs="*", metavar="PICTURE", help="files, or folders of them")
    add("--out", type=_path, required=True, metavar="DIR", help="folder for the results")
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    add("--checkpoint", choices=("last", "best"), default="last", help="default: last")
    add("--size", type=int, metavar="S", help="shorter side the networks see; as in training")
    add("--input", metavar="NAME", help="the image it is, where networks see several")
    add("--split", metavar="NAME", help="a split of the run's dataset, instead of pictures")
    add("--data", type=_url, metavar="URL", help=_DATA_HELP)
    add("--count", type=int, default=8, metavar="N", help="pictures of the split; default: 8")
    add_trust(parser)
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _predict(options))


if __name__ == "__main__":
    raise SystemExit(main())
