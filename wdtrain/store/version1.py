"""Manifests of version 1: an overlay, a mask and a depth, by these names.

Owns what that version says in its own way; all else is as in those after it. The only place in this
room that knows these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from wdtrain.fields import DepthFormat, FieldError, triple_of
from wdtrain.store.schema import (
    ChannelSums,
    DeclaredFields,
    Head,
    Part,
    PixelCount,
    SchemaError,
    check_facts,
    check_sums,
    validated,
)

VERSION_1: Final = 1


class _Member(Part):
    member: str
    dtype: str
    shape: list[PixelCount]


class _Depth(_Member):
    kind: Literal["metric", "geometric", "inverse", "relative"]
    near_m: float
    far_m: float
    bits: int


class _Meta(Part):
    member: Literal["json"]


class _Members(Part):
    overlay: _Member
    mask: _Member
    depth: _Depth
    meta: _Meta


class _Fields(Part):
    fields: _Members
    overlay: ChannelSums


def fields_of_version1(document: Mapping[str, Any], head: Head) -> DeclaredFields:
    """The three fields of a manifest of version 1; SchemaError for what no packer wrote."""
    found = validated(_Fields, document)
    depth = found.fields.depth
    facts = depth.model_dump(include={"kind", "near_m", "far_m", "bits"})
    try:
        fields = triple_of(DepthFormat(**facts))
    except FieldError as error:
        raise SchemaError("fields.depth", facts, f"a depth format ({error})") from error
    for field in fields:
        member: _Member = getattr(found.fields, field.name)
        facts = {"member": member.member, "dtype": member.dtype, "shape": member.shape}
        size = head.height, head.width
        check_facts(f"fields.{field.name}", field, facts, head.encoding, size)
    check_sums("overlay", found.overlay)
    return DeclaredFields({field.name: field for field in fields}, {"overlay": found.overlay})
