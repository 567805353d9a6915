"""The manifest's JSON, put together from the summaries of finished shards.

Its counterpart, reading, is in `manifest.py`. Sums are whole numbers, so the order in which shards
were finished cannot show in a last digit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from wdtrain.disk.failures import StoreError
from wdtrain.fields import ImageField
from wdtrain.fields.errors import kind_of_reject
from wdtrain.packing.contents import FromFiles, contents_digest
from wdtrain.packing.plan import Job, Plan, field_entry
from wdtrain.packing.prepare import PixelSums
from wdtrain.packing.staging import Staging
from wdtrain.store import manifest as manifests
from wdtrain.store.manifest import Manifest

FOUND: Final = ("contents", "passed_over")
"""What stands in the manifest of a source and is not known before it is packed."""
_SHARD_FIELDS = ("name", "samples", "bytes", "sha256", "blocks")


def manifest_document(plan: Plan, work: Staging, jobs: list[Job]) -> dict[str, Any]:
    """The manifest of a packing whose shards are all finished, with its digest. `jobs` are all
    shards in the manifest's order, each in its last edition."""
    splits: dict[str, dict[str, Any]] = {}
    rejects: list[tuple[str, str]] = []
    sums = {field.name: PixelSums() for field in plan.fields if isinstance(field, ImageField)}
    for job in jobs:
        summary = work.summary(job.edition)
        if summary is None:
            raise StoreError(
                f"the summary of shard {job.name} went missing while the dataset was put together; "
                "give the same command again"
            )
        rejects += [(key, reason) for key, reason in summary["rejects"]]
        if summary["samples"]:
            split = splits.setdefault(job.split, {"samples": 0, "shards": []})
            split["samples"] += summary["samples"]
            split["shards"].append({k: summary[k] for k in _SHARD_FIELDS if summary.get(k)})
            if job.split == "train":
                for name, of_shard in summary["sums"].items():
                    sums[name].merge(of_shard)
    if "train" not in splits:
        raise StoreError("every sample for training was rejected; mend the source")
    document = {
        "format": manifests.FORMAT,
        "version": manifests.VERSION,
        "encoding": plan.settings.encoding,
        "compression": plan.settings.compression,
        "height": plan.settings.height,
        "width": plan.settings.width,
        "samples_per_block": plan.settings.samples_per_block,
        "splits": splits,
        "statistics": {name: _statistics(of_image) for name, of_image in sums.items()},
        "rejects": _rejects(rejects),
        **plan.identity(),
        "fields": _fields(plan),
    }
    document["source"] = {**document["source"], **_found(plan, work, jobs)}
    _check_complete(plan, document)
    return {**document, "digest": manifests.digest_of(document)}


def identity_of(manifest: Manifest, plan: Plan) -> dict[str, Any]:
    """What the identity of the plan was that a dataset was packed by, to be compared with that of
    `plan`. Version 1 knew no `fit`: heights x widths were stretched to."""
    settings, source = dict(manifest.settings), dict(manifest.source)
    if manifest.version == 1:
        source.pop("depth_format", None)
        is_stretched = not settings.pop("keep_shape", False) and settings["resize"]
        fit = "stretch" if is_stretched and plan.settings.fit == "stretch" else None
        settings = {"splits": "deal", **settings, "fit": fit}
    return {
        "settings": settings,
        "source": {name: of for name, of in source.items() if name not in FOUND},
        "fields": [field_entry(field) for field in manifest.fields.values()],
    }


def _found(plan: Plan, work: Staging, jobs: list[Job]) -> dict[str, Any]:
    """What packing found in the files of a source: of what was packed, not of what to pack."""
    found: dict[str, Any] = {}
    if isinstance(plan.source, FromFiles):
        found["contents"] = contents_digest(work.files(job.edition)[2] for job in jobs)
    passed_over = getattr(plan.source, "passed_over", None)
    if passed_over is not None:
        found["passed_over"] = {"count": passed_over.count, "first": passed_over.first}
    return found


def _check_complete(plan: Plan, document: dict[str, Any]) -> None:
    """Every sample of the source is in a shard or in the rejects."""
    packed = sum(split["samples"] for split in document["splits"].values())
    assert packed + document["rejects"]["count"] == len(plan.source), "a sample went missing"


def _fields(plan: Plan) -> list[dict[str, Any]]:
    """The fields in stored order as they are declared, each with the name, the dtype and the shape
    of its members, for readers that do not know its kind."""
    settings = plan.settings
    return [
        {
            **field_entry(field),
            "member": field.member(settings.encoding),
            "dtype": str(field.dtype),
            "shape": list(field.shape(*settings.size)),
        }
        for field in plan.fields
    ]


def _statistics(sums: PixelSums) -> dict[str, Any]:
    """The whole-number sums of an image over the train split, and what follows from them."""
    entry = sums.as_dict()
    mean, std = manifests.mean_and_std(entry)
    return {**entry, "mean": list(mean), "std": list(std)}


def _rejects(rejects: list[tuple[str, str]]) -> dict[str, Any]:
    """How many, how many of each kind (the reason up to its first detail), and each with why."""
    kinds = Counter(kind_of_reject(reason) for _, reason in rejects)
    return {
        "count": len(rejects),
        "reasons": dict(kinds),
        "list": [{"key": key, "reason": reason} for key, reason in sorted(rejects)],
    }
