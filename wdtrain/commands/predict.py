"""`tools/predict`: what the networks of a run say of pictures, as PNG files to look at and to use.

Weights are read from safetensors, never from pickle. What a prediction needs to know of the
training (channel means, depth limits, size) lies in the checkpoint, so the dataset may be gone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from wdtrain.commands import run_command
from wdtrain.config import Recipe, load_recipe
from wdtrain.learn.build import load_state
from wdtrain.learn.evaluate import predict
from wdtrain.learn.networks import build
from wdtrain.learn.view import View, plain_view
from wdtrain.pictures import read_rgb
from wdtrain.record.checkpoint import Checkpoint, Checkpoints, load_weights
from wdtrain.record.pictures import colour_depth, colour_mask, save_png
from wdtrain.resize import size_for
from wdtrain.store.manifest import Manifest
from wdtrain.store.shrink import Resizer
from wdtrain.stream import open_stream
from wdtrain.triple import DepthFormat, encode_png

STRIDE = 16
"""Networks take sides divisible by this."""
SHOWN_PX = 256
"""Small pictures are magnified side by side up to about this height."""

_EXAMPLES = """examples:
  tools/predict runs/kit photo.jpg other.png --out predictions
  tools/predict runs/kit ../pictures/*.jpg --out predictions --checkpoint best --size 128
  tools/predict runs/playground --split val-new-new --count 8 --out predictions

writes for each picture NAME: NAME.mask.png (probability 0..255), NAME.depth.png (16-bit codes of
the dataset's depth format; 0 is never written), NAME.png (picture, mask, depth side by side)"""


@dataclass(frozen=True)
class Trained:
    """The networks of a run by task, with their targets, as one of its checkpoints holds them."""

    networks: Mapping[str, torch.nn.Module]
    targets: Mapping[str, str]
    view: View
    side: int  # the shorter one that the networks see, as in training
    device: torch.device

    def __call__(self, rgb: np.ndarray) -> dict[str, np.ndarray]:
        """By target, float32 [h, w] in 0..1 of a uint8 [h, w, 3] picture of any size."""
        height, width = rgb.shape[:2]
        inner = size_for((height, width), self.side, multiple=STRIDE)
        small = np.empty((1, *inner, 3), np.uint8)
        Resizer((height, width), inner).shrink(np.ascontiguousarray(rgb)[None], small)
        overlay = torch.from_numpy(small).permute(0, 3, 1, 2).to(self.device)
        found = {}
        for task, network in self.networks.items():
            unit = predict(network, overlay, normalisation=self.view.normalisation)
            whole = unit[0, 0].cpu().numpy()
            found[self.targets[task]] = cv2.resize(
                whole, (width, height), interpolation=cv2.INTER_LINEAR
            )
        return found


def load_trained(folder: Path, which: str, side: int | None) -> Trained:
    """The networks of the run in `folder`, at its last or best checkpoint."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run: it holds no config.yaml; name a run's folder")
    sys.path.append(str(Path.cwd()))  # networks of the user's own, as in training
    recipe = load_recipe(folder / "config.yaml", [])
    found = _checkpoint(folder, which)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = {}
    for task, declared in recipe.tasks.items():
        network = build(declared.network, **declared.options)
        load_state(network, load_weights(found.path / f"{task}.safetensors"))
        networks[task] = network.to(device).eval()
    saved = found.extra["view"]
    view = plain_view(saved["mean"], saved["std"], DepthFormat(**saved["depth"]), "fp32")
    targets = {task: recipe.target_of(task) for task in recipe.tasks}
    return Trained(networks, targets, view, side or found.extra["side"], device)


def _checkpoint(folder: Path, which: str) -> Checkpoint:
    checkpoints = Checkpoints(folder / "checkpoints")
    found = checkpoints.best() if which == "best" else checkpoints.latest()
    if found is None:
        why = "; ".join(checkpoints.skipped) or "none was saved yet"
        raise ValueError(f"{folder} has no whole checkpoint ({why}); train it first")
    return found


def pictures_of_files(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """RGB pictures by file stem; ValueError naming a file that cannot be read, or two alike."""
    pictures: dict[str, np.ndarray] = {}
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ValueError(f"{path} {what}; name picture files")
        rgb = read_rgb(path.read_bytes(), name=str(path))
        if path.stem in pictures:
            raise ValueError(f"two pictures are named {path.stem}; their results would be one file")
        pictures[path.stem] = rgb
    return pictures


def pictures_of_split(recipe: Recipe, split: str, count: int) -> dict[str, np.ndarray]:
    """The first `count` overlays of a split of the run's own dataset, by key."""
    manifest = Manifest.load(**recipe.data.manifest_arguments())
    pictures: dict[str, np.ndarray] = {}
    chunk = recipe.data.chunk
    for batch in open_stream(manifest, split=split, batch_size=chunk, seed=0, chunk=chunk):
        for key, overlay in zip(batch.keys, batch.overlay, strict=True):
            if len(pictures) == count:
                return pictures
            pictures[key] = overlay.permute(1, 2, 0).contiguous().numpy()
    return pictures


def side_by_side(rgb: np.ndarray, found: Mapping[str, np.ndarray]) -> np.ndarray:
    """uint8 [h, w, 3]: the picture, its mask, its depth, small ones magnified."""
    tiles = [rgb]
    if "mask" in found:
        tiles.append(colour_mask(found["mask"]))
    if "depth" in found:
        tiles.append(colour_depth(found["depth"]))
    factor = max(1, SHOWN_PX // rgb.shape[0])
    gap = np.full((rgb.shape[0] * factor, 4, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (_magnified(tile, factor), gap)]
    return np.concatenate(parts[:-1], 1)


def _magnified(picture: np.ndarray, factor: int) -> np.ndarray:
    return picture.repeat(factor, 0).repeat(factor, 1)


def write_prediction(
    out: Path, name: str, rgb: np.ndarray, found: Mapping[str, np.ndarray], depth: DepthFormat
) -> None:
    """NAME.mask.png, NAME.depth.png and NAME.png are in `out`."""
    if "mask" in found:
        mask = np.rint(found["mask"] * 255).astype(np.uint8)
        (out / f"{name}.mask.png").write_bytes(encode_png(mask))
    if "depth" in found:
        fine = replace(depth, bits=16)
        codes = 1 + np.rint(np.clip(found["depth"], 0, 1) * (fine.max_code - 1))
        (out / f"{name}.depth.png").write_bytes(encode_png(codes.astype(np.uint16)))
    save_png(out / f"{name}.png", side_by_side(rgb, found))


def _predict(options: argparse.Namespace) -> int:
    if options.split and options.pictures:
        raise ValueError("pictures and --split were both given; name one of them")
    if options.count < 1 or (options.size is not None and options.size < STRIDE):
        raise ValueError(f"--count must be at least 1, and --size at least {STRIDE}")
    trained = load_trained(options.run, options.checkpoint, options.size)
    if options.split:
        recipe = load_recipe(options.run / "config.yaml", [])
        pictures = pictures_of_split(recipe, options.split, options.count)
    else:
        pictures = pictures_of_files(options.pictures)
    if not pictures:
        raise ValueError("there is no picture to predict; name picture files, or a --split")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rgb in pictures.items():
        write_prediction(options.out, name, rgb, trained(rgb), trained.view.depth_format)
    print(f"predicted {len(pictures)} picture{'s' * (len(pictures) != 1)} into {options.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="predict",
        description="Predict mask and depth of pictures with the networks of a run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run")
    add("pictures", type=Path, nargs="*", metavar="PICTURE", help="picture files, of any size")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add("--checkpoint", choices=("last", "best"), default="last", help="default: last")
    add("--size", type=int, metavar="S", help="shorter side the networks see; as in training")
    add("--split", metavar="NAME", help="a split of the run's dataset, instead of pictures")
    add("--count", type=int, default=8, metavar="N", help="pictures of the split; default: 8")
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _predict(options))


if __name__ == "__main__":
    raise SystemExit(main())
