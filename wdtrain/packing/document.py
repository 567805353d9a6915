"""The manifest's JSON, put together from the summaries of finished shards.

Its counterpart, reading, is in `manifest.py`. Sums are whole numbers, so the order in which shards
were finished cannot show in a last digit.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

from wdtrain.disk.failures import StoreError
from wdtrain.fields import triple_of
from wdtrain.packing.contents import FromFiles, contents_digest
from wdtrain.packing.plan import Job, Plan
from wdtrain.packing.prepare import OverlaySums
from wdtrain.packing.staging import Staging
from wdtrain.store import manifest as manifests
from wdtrain.store import version1

FOUND: Final = ("contents", "passed_over")
"""What stands in the manifest of a source and is not known before it is packed."""
_SHARD_FIELDS = ("name", "samples", "bytes", "sha256", "blocks")


def manifest_document(plan: Plan, work: Staging, jobs: list[Job]) -> dict[str, Any]:
    """The manifest of a packing whose shards are all finished, with its digest. `jobs` are all
    shards in the manifest's order, each in its last edition."""
    splits: dict[str, dict[str, Any]] = {}
    rejects: list[tuple[str, str]] = []
    sums = OverlaySums()
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
                sums.merge(summary["sums"])
    if not sums.pixels:
        raise StoreError("every sample for training was rejected; mend the source")
    document = {
        "format": manifests.FORMAT,
        "version": version1.VERSION,
        "encoding": plan.settings.encoding,
        "compression": plan.settings.compression,
        "height": plan.settings.height,
        "width": plan.settings.width,
        "samples_per_block": plan.settings.samples_per_block,
        "fields": _fields(plan),
        "splits": splits,
        "overlay": _overlay(sums),
        "rejects": _rejects(rejects),
        **plan.identity(),
    }
    document["source"] = {**document["source"], **_found(plan, work, jobs)}
    _check_complete(plan, document)
    return {**document, "digest": manifests.digest_of(document)}


def _found(plan: Plan, work: Staging, jobs: list[Job]) -> dict[str, Any]:
    """What packing found in the files of a source: it tells what was packed, not what to pack."""
    found: dict[str, Any] = {}
    if isinstance(plan.source, FromFiles):
        found["contents"] = contents_digest(work.files(job.edition)[2] for job in jobs)
    passed_over = getattr(plan.source, "passed_over", None)
    if passed_over is not None:
        found["passed_over"] = {"count": passed_over.count, "first": passed_over.first}
    return found


def _check_complete(plan: Plan, document: dict[str, Any]) -> None:
    """Every triple of the source is in a shard or in the rejects."""
    packed = sum(split["samples"] for split in document["splits"].values())
    assert packed + document["rejects"]["count"] == len(plan.source), "a sample went missing"


def _fields(plan: Plan) -> dict[str, Any]:
    """Member names, dtypes and shapes, and what the codes of a depth mean."""
    shape = [plan.settings.height, plan.settings.width]
    depth = plan.source.fields[2].format  # type: ignore[attr-defined]
    suffixes = manifests.member_suffixes(triple_of(depth), plan.settings.encoding)
    overlay, mask, depth_name, meta = suffixes
    return {
        "overlay": {"member": overlay, "dtype": "uint8", "shape": [*shape, 3]},
        "mask": {"member": mask, "dtype": "uint8", "shape": shape},
        "depth": {
            "member": depth_name,
            "dtype": str(depth.dtype),
            "shape": shape,
            **depth.as_dict(),
        },
        "meta": {"member": meta},
    }


def _overlay(sums: OverlaySums) -> dict[str, Any]:
    """The whole-number sums of the train split's overlays, and what follows from them."""
    entry = sums.as_dict()
    mean, std = manifests.mean_and_std(entry)
    return {**entry, "mean": list(mean), "std": list(std)}


def _rejects(rejects: list[tuple[str, str]]) -> dict[str, Any]:
    """How many, how many of each kind (the reason up to its first detail), and each with why."""
    kinds = Counter(re.split(r"[:;(]", reason)[0].strip() for _, reason in rejects)
    return {
        "count": len(rejects),
        "reasons": dict(kinds),
        "list": [{"key": key, "reason": reason} for key, reason in sorted(rejects)],
    }
