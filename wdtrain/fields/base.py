"""What every kind of field has: how its arrays are made of files, stored, resized and understood.

A field is a declaration: frozen, compared by value, written into the manifest as JSON and read back
strictly. One kind is one subclass in one file. A kind of one's own overrides what differs: most
often `from_array`, `decode`, `resize` and, where its arrays have three channels, `channels`.
The surprise: `read` takes a person's file and may convert it; `decode_member` takes what was stored
and never does.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np

from wdtrain.fields import npy
from wdtrain.fields.errors import FieldError, check_pixels, shown
from wdtrain.fields.png import decode_png, encode_png, encode_stored_png, png_shape
from wdtrain.fields.resize import Size

Encoding = Literal["image", "raw"]
"""How a dataset stores its members: as pictures, or as `.npy` arrays."""
Codec = Literal["jpeg", "png", "npy"]
Value = np.ndarray | bytes
"""What a source hands on of one field: the stored array, or the bytes of a JPEG as they lie."""

_ENDINGS: Final[dict[Codec, str]] = {"jpeg": "jpg", "png": "png", "npy": "npy"}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Resizing(NamedTuple):
    """Which compiled loop gives what a field's `resize` gives, to the bit.

    loop: one of `fields/resize.py`; None where there is none: `resize` is called.
    larger_is_nearer: of the median of depth codes. unknown: of the others, the value that means it.
    """

    loop: Literal["area", "known_area", "median", "majority"] | None
    larger_is_nearer: bool = False
    unknown: int = 0


@dataclass(frozen=True)
class Field(ABC):
    """One named field of all samples of a dataset. FieldError for a declaration that cannot be.

    name: what follows the key in the names of members. optional: whether a sample may lack it.
    """

    kind: ClassVar[str]
    """The word of `--field` and of the manifest."""
    channels: ClassVar[int] = 1
    """Of the stored array: 1 -> [h, w]; 3 -> [h, w, 3]."""
    options: ClassVar[Mapping[str, Callable[[str], Any]]] = {}
    """What may be declared: each option's name (of the attribute, too) and what reads its text."""

    name: str
    optional: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not isinstance(self.optional, bool):
            raise FieldError(
                f"field {self.name}: optional is {shown(self.optional)}; it is yes or no"
            )

    # ------------------------------------------------------------------ what is stored

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """Of the stored array: uint8 or uint16."""

    @property
    @abstractmethod
    def blank(self) -> int:
        """The stored value of pixels that are not there (padding): unknown, where the kind has it;
        see `padded`."""

    def padded(self) -> Self:
        """This field where pictures are padded, so that `blank` means unknown."""
        return self

    def cleared(self, array: np.ndarray) -> np.ndarray:
        """A stored array of the field as it was before `padded`: no value in it means unknown that
        was not meant so."""
        return array

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the stored array."""
        return (height, width) if self.channels == 1 else (height, width, self.channels)

    def codec(self, encoding: Encoding) -> Codec:
        """How its members are written in a dataset of this encoding."""
        return "npy" if encoding == "raw" else "png"

    def member(self, encoding: Encoding) -> str:
        """What follows `KEY.` in the names of its members: "depth.png"."""
        return f"{self.name}.{_ENDINGS[self.codec(encoding)]}"

    def check(self, array: np.ndarray) -> None:
        """FieldError unless this is an array of this field, of any size, as it may be packed."""
        self.check_form(array)

    def check_form(self, array: np.ndarray) -> None:
        """FieldError for an array of another type or number of axes."""
        wanted = self.shape(*array.shape[:2]) if array.ndim >= 2 else None
        if array.shape != wanted or array.dtype != self.dtype:
            sides = "h, w" if self.channels == 1 else f"h, w, {self.channels}"
            raise FieldError(
                f"{self.name}: {array.dtype} {list(array.shape)}; {self.dtype} [{sides}] is needed"
            )

    def encode(
        self, array: np.ndarray, encoding: Encoding, *, stored: bool = False, quality: int = 90
    ) -> bytes:
        """The bytes of a member. stored: PNGs inside zstd (`encode_png`). quality: of JPEGs."""
        if self.codec(encoding) == "npy":
            return npy.encode_npy(array)
        return encode_stored_png(array) if stored else encode_png(array)

    def stored_shape(self, data: bytes | memoryview, encoding: Encoding) -> Size:
        """(height, width) of a member, from its header: nothing is decoded or made room for."""
        if self.codec(encoding) == "png":
            return png_shape(data, name=self.name)
        header = npy.read_npy_header(data)
        if header is None or len(header[0]) < 2:
            raise FieldError(f"{self.name} is not a readable .npy array of pixels")
        return header[0][0], header[0][1]

    def decode_member(
        self, data: bytes | memoryview, encoding: Encoding, *, size: Size | None = None
    ) -> np.ndarray:
        """The stored array of a member's bytes, brought to `size` where one is given. A view of
        `data` where these are raw and keep their size."""
        if self.codec(encoding) == "npy":
            array = npy.decode_npy(data, name=self.name)
            self.check_form(array)
        else:
            array = decode_png(data, name=self.name, dtype=self.dtype, channels=self.channels)
        return array if size is None else self.resize(array, size)

    # ------------------------------------------------------------------ size

    @property
    def resizing(self) -> Resizing:
        """The compiled loop that resizes as `resize` does."""
        return Resizing(None)

    @abstractmethod
    def resize(self, array: np.ndarray, size: Size) -> np.ndarray:
        """The stored array at `size` (height, width) by the kind's rule, edge on edge."""

    def size_of(self, value: Value) -> Size:
        """(height, width) of what a source handed on, as it is shown (an EXIF turn done)."""
        assert isinstance(value, np.ndarray), f"{self.kind} fields are handed on as arrays"
        return value.shape[0], value.shape[1]

    def pixels_of(self, value: Value, size: Size | None = None) -> tuple[np.ndarray, Size | None]:
        """The stored array of what a source handed on, and None; or, of a JPEG that is to become
        smaller than it is (`size`), the picture decoded at a fraction, and how many eighths of its
        pixels that is high and wide (see `decode_jpeg_scaled`)."""
        assert isinstance(value, np.ndarray), f"{self.kind} fields are handed on as arrays"
        return value, None

    def reusable_bytes(self, value: Value, size: Size) -> bytes | None:
        """The bytes of a member, where those of a person's file may be stored as they are."""
        return None

    # ------------------------------------------------------------------ a person's files

    def read(self, data: bytes, *, file: str) -> np.ndarray:
        """The stored array of a person's file, of the file's own size, turned as viewers show it
        and converted as declared. FieldError, which names `file`, for what cannot be used; where it
        could mean several things, with the declarations that would settle it."""
        if npy.is_npy(data):
            return self.from_array(npy.read_npy(data, file=file), file=file)
        return self.from_picture(data, file=file)

    @property
    def is_open(self) -> bool:
        """Whether there is something that only several files together tell: see `judge`."""
        return False

    def judge(self, contents: Sequence[tuple[bytes | np.ndarray, str]]) -> None:  # noqa: B027
        """AmbiguousError where some files, with their names, could together mean several things,
        though each alone would be read. What one of them has and the others have not asks
        nothing."""

    @abstractmethod
    def from_array(self, array: np.ndarray, *, file: str) -> np.ndarray:
        """The same of an array of numbers: of a `.npy` or `.npz` file, or of a table's cell."""

    @abstractmethod
    def from_picture(self, data: bytes, *, file: str) -> np.ndarray:
        """The same of the bytes of a picture, of any format."""

    def load(self, data: bytes, *, file: str) -> Value:
        """What a source hands on of a person's file: as `read`, or the bytes where they may be
        stored as they are."""
        return self.read(data, file=file)

    def missing(self, height: int, width: int) -> np.ndarray | None:
        """What stands for a file that is not there; None: the sample is rejected."""
        if not self.optional:
            return None
        return np.full(self.shape(height, width), self.blank, self.dtype)

    @abstractmethod
    def decode(self, array: np.ndarray) -> np.ndarray:
        """What a person means by a stored array: metres, class ids, alpha, colours."""

    def preview(self, array: np.ndarray) -> np.ndarray:
        """uint8 [h, w, 3] RGB of a stored array, for a person's eye: values in grey, or three
        channels as colours."""
        values = array if array.dtype == np.uint8 else (array >> 8).astype(np.uint8)
        return values if array.ndim == 3 else np.repeat(values[..., None], 3, 2)

    # ------------------------------------------------------------------ the declaration

    def as_dict(self) -> dict[str, Any]:
        """JSON of the declaration, without the name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["name"]
        return {"kind": self.kind, **{key: _plain(value) for key, value in values.items()}}

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> Self:
        """The field that `as_dict` described. FieldError, which names the key, for all else."""
        if not isinstance(values, Mapping):
            raise FieldError(f"field {name} is declared as {shown(values)}; an object is needed")
        rest = dict(values)
        if (kind := rest.pop("kind", None)) != cls.kind:
            raise FieldError(f"field {name}: its kind is {shown(kind)}; {cls.kind!r} is needed")
        known = {f.name for f in dataclasses.fields(cls)} - {"name"}
        for key in rest:
            if key not in known:
                raise FieldError(
                    f"field {name}: {shown(key)} is nothing that a field of kind {cls.kind} has; "
                    f"it may have {', '.join(sorted(known))}"
                )
        return cls(name, **{key: _frozen(value) for key, value in rest.items()})

    @classmethod
    def declared(cls, name: str, options: Mapping[str, str]) -> Self:
        """The field of `--field NAME=KIND:PATTERN,option=value...`. FieldError, which names the
        option, for one that there is not or a value that it cannot have."""
        return cls(name, **cls.read_options(name, options))

    def typed(self) -> dict[str, str]:
        """The options as a person types them behind `--field NAME=KIND:PATTERN`, those left out
        that are as they are by themselves: `declared` reads them to this field."""
        usual = {one.name: one.default for one in dataclasses.fields(self)}
        found = {}
        for option in ("optional", *self.options):
            value = getattr(self, option, None)
            if option in usual and value != usual[option]:
                found[option] = option_text(value)
        return found

    @classmethod
    def read_options(cls, name: str, options: Mapping[str, str]) -> dict[str, Any]:
        """The values of declared options, each read from its text."""
        readers = {"optional": flag, **cls.options}
        found = {}
        for option, text in options.items():
            if option not in readers:
                raise FieldError(
                    f"field {name}: {shown(option)} is no option of {cls.kind}; there are "
                    f"{', '.join(readers)}"
                )
            try:
                found[option] = readers[option](text)
            except ValueError as error:
                raise FieldError(f"field {name}: {option}={text}: {error}") from error
        return found


def check_name(name: object) -> None:
    """FieldError for what no field can be named."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "json":
        raise FieldError(
            f"a field is named {shown(name)}; names are up to 64 letters, digits, - and _, and not "
            "json, which is the sample's own"
        )


def plane(array: np.ndarray, *, file: str) -> np.ndarray:
    """[h, w] of an array of one number a pixel, an axis of 1 left out. FieldError for others."""
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise FieldError(
            f"{file} is an array of {array.dtype} {list(array.shape)}; one number a pixel, [h, w], "
            "is needed"
        )
    check_pixels(*array.shape, name=file)
    return array


def flag(text: str) -> bool:
    """An option that is yes or no; alone, yes."""
    if text.lower() in ("", "true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise ValueError("it is yes or no")


def option_text(value: Any) -> str:
    """A value as an option's text has it."""
    if isinstance(value, tuple):
        return "|".join(map(option_text, value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return "" if value is True else str(value)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.as_dict() if hasattr(value, "as_dict") else value


def _frozen(value: Any) -> Any:
    """A value of JSON as attributes have it: lists, and those in them, are tuples."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(item) if isinstance(item, list) else item for item in value)
