"""What a packing will do, decided before a byte is written: settings, shards, and who is where.

A plan is a pure function of the source and the options. It travels to the packing processes whole,
and its digest distinguishes an unfinished packing of the same from one of another.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import cv2
import numpy as np
import simplejpeg
import zstandard

from wdtrain.disk.failures import StoreError
from wdtrain.fields import Encoding, Field, FieldError
from wdtrain.fields.resize import Size, size_for
from wdtrain.fields.source import SPLITS, Grouped, Source
from wdtrain.packing.fit import FITS, misfit
from wdtrain.packing.options import PackingOptions
from wdtrain.packing.probing import SampleSize, anywhere, check_probes, commonest, spread
from wdtrain.packing.splits import Deal, Holdout, Kept, different_parts, make_splitter
from wdtrain.store.limits import max_key, most_free_bytes
from wdtrain.store.manifest import canonical

_BLOCK_BYTES: Final = 1 << 20
_MIN_BLOCK_SAMPLES: Final = 8
_WANTED_BLOCKS: Final = 64
_SHARD_SAMPLES: Final = 8192
_MIN_SHARD_SAMPLES: Final = 512
_WANTED_SHARDS: Final = 16
_HEADER_BYTES: Final = 512
_JPEG_BYTES: Final = 0.5
_MIN_LEVEL, _MAX_LEVEL = -7, 22
_LOPSIDED: Final = 1.5
_FEW_PARTS: Final = 5
_MOST_LOOKED_AT: Final = 64
SPLIT_BY: Final = ("auto", "own", "deal")
_LEVELS: Final = {"image": 9, "raw": -1}
_COMPRESSION: Final = re.compile(r"zstd(?::(-?\d{1,2}))?")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that the bytes of a dataset depend on, beside its source."""

    encoding: Encoding
    compression: str
    height: int
    width: int
    resize: bool
    fit: str | None
    jpeg_quality: int
    seed: int
    shard_samples: int
    samples_per_block: int
    holdout: Holdout
    splits: str

    @property
    def size(self) -> Size:
        return self.height, self.width

    @property
    def zstd_level(self) -> int | None:
        """None where blocks are not compressed."""
        return None if self.compression == "none" else int(self.compression.split(":")[1])

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "holdout": vars(self.holdout)}


@dataclass(frozen=True)
class Job:
    """One shard to pack: rows [start, stop) of a split, without the source indices in `excluded`,
    whose keys other samples have already."""

    name: str
    split: str
    start: int
    stop: int
    excluded: frozenset[int] = frozenset()

    @property
    def edition(self) -> str:
        """The shard's name while it is not published. Without its duplicates it is another file,
        and both may be in the making at once."""
        if not self.excluded:
            return self.name
        indices = repr(sorted(self.excluded)).encode()
        return f"{self.name}.{hashlib.blake2b(indices, digest_size=6).hexdigest()}"


@dataclass(frozen=True)
class Plan:
    """A source with its settings and its deal."""

    source: Source
    settings: Settings
    deal: Deal

    @cached_property
    def declared(self) -> tuple[Field, ...]:
        """The source's fields, as its samples have them."""
        return self.source.fields

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Those as they are stored: where samples are padded, able to say so."""
        is_padded = self.settings.fit == "pad"
        return tuple(field.padded() if is_padded else field for field in self.declared)

    @cached_property
    def padded(self) -> frozenset[str]:
        """Names of the fields that say unknown only since samples are padded."""
        pairs = zip(self.fields, self.declared, strict=True)
        return frozenset(field.name for field, declared in pairs if field != declared)

    @cached_property
    def longest_key(self) -> int:
        """Letters that a key may have."""
        return max_key(self.fields)

    @cached_property
    def most_free_bytes(self) -> int:
        """What JPEGs and JSON of a sample may take together."""
        return most_free_bytes(*self.settings.size, self.fields)

    @cached_property
    def grouped(self) -> Grouped | None:
        """The source, where its samples come in groups."""
        return self.source if isinstance(self.source, Grouped) else None

    def jobs(self) -> list[Job]:
        """The shards of all splits, in the manifest's order."""
        step = self.settings.shard_samples
        suffix = "tar" if self.settings.zstd_level is None else "tar.zst"
        return [
            Job(f"{split}-{start // step:06d}.{suffix}", split, start, min(start + step, samples))
            for split in SPLITS
            if (samples := self.deal.samples(split))
            for start in range(0, samples, step)
        ]

    def rows(self, job: Job) -> np.ndarray:
        """int64 source indices of a shard's samples, in order."""
        return self.deal.rows(self.source, job.split, job.start, job.stop)

    def identity(self) -> dict[str, Any]:
        """What distinguishes this dataset from another; it is stored in the manifest."""
        source = {**self.source.description, "samples": len(self.source)}
        fields = [field_entry(field) for field in self.fields]
        return {"settings": self.settings.as_dict(), "source": source, "fields": fields}

    def digest(self) -> str:
        """SHA-256 (hex) of the identity and of the libraries that the bytes depend on."""
        libraries = [zstandard.ZSTD_VERSION, cv2.__version__, simplejpeg.__version__]
        return hashlib.sha256(canonical([self.identity(), libraries])).hexdigest()


def field_entry(field: Field) -> dict[str, Any]:
    """A field as it is declared in the manifest."""
    return {"name": field.name, **field.as_dict()}


def parse_compression(text: str | None, encoding: str) -> str:
    """`none`, or `zstd:LEVEL` with the level filled in; StoreError for anything else.

    None, or no level: what suits the encoding. Pixels that nothing has packed before inflate
    three times as fast, to a sixth more bytes, where zstd spends no entropy coding on them.
    """
    if text == "none":
        return text
    match = _COMPRESSION.fullmatch("zstd" if text is None else text)
    level = int(match[1] or _LEVELS[encoding]) if match else 0
    if level not in range(_MIN_LEVEL, _MAX_LEVEL + 1) or level == 0:
        raise StoreError(
            f"compression {text!r} is not known; use none, zstd:1 to zstd:{_MAX_LEVEL}, or "
            f"zstd:-1 to zstd:{_MIN_LEVEL}, which are faster and larger"
        )
    return f"zstd:{level}"


def choose_block(
    fields: tuple[Field, ...], *, encoding: Encoding, height: int, width: int, samples: int
) -> int:
    """Samples in a block: the power of two nearest below 1 MiB inflated, by an estimate of half a
    byte a pixel for a JPEG; fewer so that a small set has 64 blocks, but 8 at least."""
    pixel_bytes = sum(
        _JPEG_BYTES if field.codec(encoding) == "jpeg" else field.channels * field.dtype.itemsize
        for field in fields
    )
    sample_bytes = height * width * pixel_bytes + (len(fields) + 2) * _HEADER_BYTES
    wanted = min(_BLOCK_BYTES / sample_bytes, samples / _WANTED_BLOCKS)
    return max(_MIN_BLOCK_SAMPLES, 1 << max(0, int(wanted).bit_length() - 1))


def choose_shard(samples: int) -> int:
    """Samples in a shard: 8,192; fewer so that a small set has 16 shards to share among processes,
    but 512 at least."""
    wanted = samples // _WANTED_SHARDS
    return min(_SHARD_SAMPLES, max(_MIN_SHARD_SAMPLES, 1 << max(0, wanted.bit_length() - 1)))


def own_split(source: Source, splits: str) -> Kept | None:
    """What a source's own folders say of its splits, where that is wanted; StoreError where it is
    wanted and not there, or where only a part of the source is divided."""
    if splits not in SPLIT_BY:
        raise StoreError(f"splits {splits!r} is not known; it must be {', '.join(SPLIT_BY)}")
    division = getattr(source, "division", None)
    if splits == "deal" or (division is None and splits == "auto"):
        return None
    if division is None:
        raise StoreError(
            "splits 'own': the source is not divided: it has no folder train/ beside a folder val/ "
            "(valid/, validation/, dev/) or test/; name its folders so, or let it be dealt"
        )
    if division.outside and not division.folders:
        raise StoreError(
            f"{{split}} is a folder named train, val (valid, validation, dev) or test, and here "
            f"are {', '.join(division.first)}; write another word, such as {{scene}}, for folders "
            "that are no split"
        )
    if division.outside:
        raise StoreError(
            f"the source is divided ({division}), yet {division.outside:,} samples lie outside of "
            f"these folders ({', '.join(division.first)}), so nothing says which split they are "
            "of; move them, or say --splits deal to throw all together and divide them anew"
        )
    return Kept(division.codes)


def make_plan(source: Source, options: PackingOptions) -> Plan:
    """The plan of packing a source; StoreError for options that cannot be met."""
    _check(source, options)
    probes = spread(source)
    height, width = _size(probes, options.size)
    is_resized = options.size is not None or options.fit is not None
    check_probes(
        probes if options.fit is not None else [*probes, *anywhere(source)],
        partial(misfit, size=(height, width), is_resized=is_resized, fit=options.fit),
        samples=len(source),
        max_rejects=options.max_rejects,
    )
    encoding: Encoding = "raw" if options.encoding == "raw" else "image"
    kept = own_split(source, options.splits)
    holdout = options.holdout or Holdout()
    settings = Settings(
        encoding=encoding,
        compression=parse_compression(options.compression, encoding),
        height=height,
        width=width,
        resize=is_resized,
        fit=options.fit,
        jpeg_quality=options.jpeg_quality,
        seed=options.seed,
        shard_samples=options.shard_samples or choose_shard(len(source)),
        samples_per_block=options.samples_per_block
        or choose_block(
            source.fields, encoding=encoding, height=height, width=width, samples=len(source)
        ),
        holdout=holdout,
        splits="deal" if kept is None else "own",
    )
    deal = Deal(source, kept or make_splitter(source, holdout, options.seed), options.seed)
    if deal.samples("train") == 0:
        raise StoreError("no sample is left for training; hold out fewer backgrounds or cut-outs")
    return Plan(source, settings, deal)


def _check(source: Source, options: PackingOptions) -> None:
    """StoreError for what cannot be packed, or not so, before any sample is looked at."""
    if options.encoding not in ("image", "raw"):
        raise StoreError(f"encoding {options.encoding!r} is not known; it must be image or raw")
    if options.fit is not None and options.fit not in FITS:
        raise StoreError(f"fit {options.fit!r} is not known; it must be {', '.join(FITS)}")
    if len(source) == 0:
        raise StoreError("the source holds no samples; there is nothing to pack")
    names = [field.name for field in source.fields]
    if not names or len(set(names)) < len(names):
        raise StoreError(
            f"the source's fields are {', '.join(names) or 'none'}; each needs a name of its own"
        )
    numbers = (options.shard_samples, options.samples_per_block)
    if min(1 if number is None else number for number in numbers) < 1:
        raise StoreError("samples per shard and samples per block must be 1 or more")
    if not 1 <= options.jpeg_quality <= 100:
        raise StoreError(f"JPEG quality is {options.jpeg_quality}; it goes from 1 to 100")


def _size(probes: list[SampleSize], size: int | tuple[int, int] | None) -> Size:
    try:
        return size_for(commonest(probes), size)
    except ValueError as error:
        raise StoreError(str(error)) from error


def notes_on(plan: Plan) -> list[str]:
    """What a person should know of a source before it is packed, one sentence each."""
    notes = []
    if plan.settings.splits == "own":
        division = plan.source.division  # type: ignore[attr-defined]
        notes.append(
            f"the source is divided already ({division}), and that split is kept; --splits deal "
            "throws all together and divides it anew"
        )
    else:
        notes += _lopsided(plan) if plan.grouped is None else _lopsided_groups(plan)
    passed_over = getattr(plan.source, "passed_over", None)
    if passed_over is not None and passed_over.count:
        notes.append(str(passed_over))
    return notes


def _lopsided(plan: Plan) -> list[str]:
    """That far more is held out than was asked for: what the JSON names are kinds, it seems."""
    samples, holdout = len(plan.source), plan.settings.holdout
    held = 1 - plan.deal.samples("train") / samples
    asked = 1 - (1 - holdout.backgrounds) * (1 - holdout.cutouts) * (1 - holdout.pairs)
    if held <= max(_LOPSIDED * asked, holdout.samples * _LOPSIDED):
        return []
    few = []
    for name, ids in zip(("background", "cutout"), different_parts(plan.source), strict=True):
        if ids is not None and 2 <= len(ids) <= _FEW_PARTS:
            few.append(f"{len(ids)} different {name}s ({', '.join(_names(plan.source, name))})")
    if not few:
        return []
    return [
        f"{held:.0%} of the samples are held out of training, {asked:.0%} were asked for: the "
        f"source names only {' and '.join(few)}, of which at least one is held out whole; if these "
        "are kinds and not single pictures, say --holdout-backgrounds 0 or --holdout-cutouts 0"
    ]


def _lopsided_groups(plan: Plan) -> list[str]:
    """That another share is held out than was asked for: the groups are few, or of unlike sizes."""
    held, asked = 1 - plan.deal.samples("train") / len(plan.source), plan.settings.holdout.samples
    if asked / _LOPSIDED <= held <= asked * _LOPSIDED:
        return []
    return [
        f"{held:.0%} of the samples are held out of training, {asked:.0%} were asked for "
        "(--holdout-samples): a group lies whole on one side, and these are few or large"
    ]


def _names(source: Source, part: str) -> list[str]:
    """The first few values of a part in the samples' JSON, sorted."""
    found: set[str] = set()
    for index in range(min(len(source), _MOST_LOOKED_AT)):
        try:
            found.add(str(source.load(index).meta.get(part)))
        except FieldError:
            continue
    return sorted(found)[:_FEW_PARTS]
