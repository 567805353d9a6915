"""One sample on its way into a dataset, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wdtrain.fields.base import Value


@dataclass(frozen=True)
class Sample:
    """arrays: by field, as the field stores it, or the bytes of a JPEG as they lie; a field that
    the sample lacks is not in it. meta: what is kept in the sample's JSON, with `background` and
    `cutout`, or `group`, naming its parts where the source knows them."""

    key: str
    arrays: Mapping[str, Value]
    meta: dict[str, Any] = field(default_factory=dict)
