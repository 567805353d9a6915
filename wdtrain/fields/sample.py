"""One sample on its way into a dataset, and its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wdtrain.fields.base import Value
from wdtrain.fields.errors import FieldError


@dataclass(frozen=True)
class Sample:
    """arrays: by field, as the field stores it, or the bytes of a JPEG as they lie; a field that
    the sample lacks is not in it. meta: what is kept in the sample's JSON, with `background` and
    `cutout`, or `group`, naming its parts where the source knows them."""

    key: str
    arrays: Mapping[str, Value]
    meta: dict[str, Any] = field(default_factory=dict)


def encode_meta(meta: dict[str, Any], *, pad_to: int = 0) -> bytes:
    """Canonical JSON, padded with spaces up to `pad_to` bytes; FieldError for what JSON has no
    word for, NaN and infinity among it."""
    try:
        text = _ENCODER.encode(meta)
    except (ValueError, TypeError, RecursionError) as error:
        raise FieldError(f"json cannot be written ({error})") from error
    return text.encode().ljust(pad_to)


def decode_meta(data: bytes | memoryview) -> dict[str, Any]:
    """The object that JSON bytes hold. Numbers that JSON does not know (`NaN`, `Infinity`, which
    Python writes, and those beyond a float) become None; a name that stands twice is refused."""
    try:
        meta = _read_json(bytes(data))
    except ValueError as error:
        raise FieldError(f"json is not readable ({error})") from error
    if not isinstance(meta, dict):
        raise FieldError(f"json holds a {type(meta).__name__}; an object is needed")
    return meta


def _read_json(data: bytes) -> Any:
    """What JSON bytes hold; ValueError for what is none."""
    try:
        return _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in an object")
    return found


_DECODER: Final = json.JSONDecoder(
    parse_constant=lambda name: None, parse_float=_finite, object_pairs_hook=_each_name_once
)
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
"""Both made once: `json.loads` and `dumps` make one for each text, which takes longer than most
samples' JSON."""
