"""A declaration says what it says: written, read and declared strictly, to the same field."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain import fields
from wdtrain.fields import (
    KINDS,
    ClassesField,
    DepthField,
    DepthFormat,
    Field,
    FieldError,
    ImageField,
    MaskField,
)
from wdtrain.fields.errors import AmbiguousError

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True).filter(lambda name: name != "json")
COLOURS = st.integers(0, 0xFFFFFF).map(lambda code: f"#{code:06x}")
LABELS = st.integers(-9, 65535)


@st.composite
def masks(draw: st.DrawFn) -> MaskField:
    labels = draw(st.lists(draw(st.sampled_from([COLOURS, LABELS])), max_size=6, unique=True))
    cuts = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    foreground, rest, unknown = labels[: cuts[0]], labels[cuts[0] : cuts[1]], labels[cuts[1] :]
    return MaskField(
        draw(NAMES),
        optional=draw(st.booleans()),
        foreground=tuple(foreground),
        background=tuple(rest) if foreground else (),
        unknown=tuple(unknown),
        partly=draw(st.booleans()),
    )


@st.composite
def classes(draw: st.DrawFn) -> ClassesField:
    count = draw(st.integers(1, 255))
    ids = st.sampled_from([*range(min(count, 40)), 255])
    starts = draw(st.lists(st.integers(-20, 600), max_size=5, unique=True))
    spans = [(start, start, draw(ids)) for start in starts]
    other = [(None, None, draw(ids))] if draw(st.booleans()) else []
    colours = draw(st.dictionaries(COLOURS, ids, max_size=4)) if not spans and not other else {}
    is_named = draw(st.booleans())
    return ClassesField(
        draw(NAMES),
        optional=draw(st.booleans()),
        classes=count,
        names=tuple(f"class {at}" for at in range(count)) if is_named else (),
        ignore=255,
        map=tuple(spans + other),
        colours=tuple(colours.items()),
        bits=draw(st.sampled_from([0, 8, 16])),
    )


@st.composite
def depths(draw: st.DrawFn) -> DepthField:
    kind: Any = draw(st.sampled_from(["metric", "geometric", "inverse", "relative"]))
    near = draw(st.floats(0.01, 10))
    bits = draw(st.sampled_from([8, 16]))
    stored = DepthFormat(kind=kind, near_m=near, far_m=near * draw(st.floats(1.1, 1e4)), bits=bits)
    units = ["m", "inverse", "codes"] if stored.is_logarithmic else [kind, "codes"]
    unit: Any = draw(st.sampled_from(units))
    scales = st.none() if unit == "codes" else st.none() | st.floats(0.001, 1e4)
    return DepthField(
        draw(NAMES),
        optional=draw(st.booleans()),
        format=stored,
        unit=unit,
        scale=draw(scales),
        shift=draw(st.integers(0, 15)),
    )


IMAGES = st.builds(ImageField, NAMES, lossless=st.booleans(), over=st.none() | COLOURS)


@given(st.one_of(IMAGES, masks(), classes(), depths()))
def test_a_field_is_read_back_as_it_was_written(field: Field) -> None:
    values = json.loads(json.dumps(field.as_dict(), allow_nan=False))
    assert fields.from_dict(field.name, values) == field
    assert pickle.loads(pickle.dumps(field)) == field


@given(st.one_of(IMAGES, masks(), classes(), depths()))
def test_a_field_is_typed_as_it_is_declared(field: Field) -> None:
    if isinstance(field, MaskField):
        field = replace(field, partly=False)  # of what was padded: nobody declares it
    if isinstance(field, DepthField) and not field.format.is_logarithmic:
        field = replace(field, format=DepthFormat(kind=field.format.kind, bits=field.format.bits))
        assert not {"near", "far"} & set(field.typed()), "limits in metres mean nothing here"
    if isinstance(field, ClassesField):
        spans = [each for each in field.map if each[1] is None or each[1] >= 0]
        field = replace(field, map=tuple(spans))
    assert fields.declared(field.name, field.kind, field.typed()) == field


@pytest.mark.parametrize("name", ["building, edifice", "wall|floor"])
def test_names_that_an_option_cannot_hold_are_not_typed(name: str) -> None:
    field = ClassesField("labels", names=(name, "sky"), classes=2)
    assert field.typed() == {"classes": "2"}
    named = replace(field, names=("wall", "sky"))
    assert named.typed() == {"classes": "2", "names": "wall|sky"}


def test_what_is_usual_is_not_typed() -> None:
    assert ClassesField("labels", classes=40).typed() == {"classes": "40"}
    assert ClassesField("labels", classes=300).typed() == {"classes": "300"}
    relative = DepthField.declared("depth", {"unit": "relative", "bits": "8"})
    assert relative.typed() == {"unit": "relative", "bits": "8"}
    assert DepthField.declared("depth", {"scale": "256"}).typed() == {
        "scale": "256",
        "near": "0.5",
        "far": "20",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_hostile_declaration_is_refused_in_words(kind: str, data: st.DataObject) -> None:
    field = {
        "image": ImageField("f"),
        "mask": MaskField("f", foreground=(1,), unknown=(255,)),
        "classes": ClassesField("f", classes=4, map=((1, 3, 0),)),
        "depth": DepthField("f", unit="m"),
    }[kind]
    values: Any = field.as_dict()
    key = data.draw(st.sampled_from(sorted(values)))
    inner = values
    if key == "format" and data.draw(st.booleans()):
        inner, key = values["format"], data.draw(st.sampled_from(sorted(values["format"])))
    inner[key] = data.draw(JSON)
    try:
        found = fields.from_dict("f", values)
    except FieldError as error:
        assert len(str(error)) < 600  # noqa: PT017
        return
    assert fields.from_dict("f", json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_however_deep_or_large_a_value_is_it_is_refused_in_a_line(kind: str) -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, "x" * 10**6, [1] * 10**5, 10**5000, {"a": deep}):
        for key in ("optional", "foreground", "map", "unit", "format", "over", "names", "kind"):
            values: dict[str, Any] = {"kind": kind, "classes": 3, key: value}
            if kind != "classes":
                del values["classes"]
            with pytest.raises(FieldError) as raised:
                fields.from_dict("f", values)
            assert len(str(raised.value)) < 400


def test_the_name_in_a_manifest_is_judged_first() -> None:
    with pytest.raises(FieldError, match=r"^a field is named 'a\\x1b\[2J"):
        fields.from_dict("a\x1b[2J", {"kind": "x"})


@pytest.mark.parametrize("values", [None, [], "image", 3, {}, {"kind": 3}, {"kind": ["image"]}])
def test_what_is_no_declaration_is_refused(values: Any) -> None:
    with pytest.raises(FieldError, match="field f"):
        fields.from_dict("f", values)


def test_a_key_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(FieldError, match=r"field f: 'unti' is nothing that .* kind depth has"):
        fields.from_dict("f", {**DepthField("f").as_dict(), "unti": "m"})


@pytest.mark.parametrize("name", ["json", "", "a b", "a.b", "ä", "x" * 65, None, 3])
def test_a_name_that_no_member_can_have_is_refused(name: Any) -> None:
    with pytest.raises(FieldError, match=r"a field is named .*letters, digits"):
        ImageField(name)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("image", {"lossless": "", "over": "#FFFFFF"}, {"lossless": True, "over": "#ffffff"}),
        ("mask", {"foreground": "1|2", "unknown": "9"}, {"foreground": (1, 2), "unknown": (9,)}),
        ("mask", {"foreground": "#Ff0000", "optional": "yes"}, {"foreground": ("#ff0000",)}),
        ("mask", {"foreground": "any", "background": "255"}, {"foreground": ("any",)}),
        ("classes", {"names": "wall|floor"}, {"classes": 2, "bits": 8, "ignore": 255}),
        ("classes", {"classes": "300"}, {"bits": 16, "ignore": 65535}),
        ("classes", {"map": "7:0|8:1"}, {"classes": 2, "map": ((7, 7, 0), (8, 8, 1))}),
        ("classes", {"map": "9:1|*:255"}, {"classes": 2, "map": ((9, 9, 1), (None, None, 255))}),
        ("classes", {"map": "0:255|1-150:0"}, {"classes": 150, "map": ((0, 0, 255), (1, 150, 0))}),
        ("classes", {"colours": "#804080:0|#F423E8:1"}, {"classes": 2}),
        ("classes", {"classes": "151", "ignore": "0"}, {"ignore": 0, "bits": 8}),
        ("depth", {"unit": "mm"}, {"unit": "mm", "format": DepthFormat(bits=16)}),
        ("depth", {"scale": "256", "far": "80"}, {"format": DepthFormat(far_m=80.0, bits=16)}),
        ("depth", {"unit": "inverse", "bits": "8"}, {"format": DepthFormat(kind="inverse")}),
        ("depth", {"unit": "relative"}, {"format": DepthFormat(kind="relative", bits=16)}),
        ("depth", {"format": "geometric"}, {"format": DepthFormat(kind="geometric", bits=16)}),
        ("depth", {"unit": "mm", "shift": "3"}, {"unit": "mm", "shift": 3}),
    ],
)  # fmt: skip
def test_options_declare_what_they_say(
    kind: str, options: Mapping[str, str], expected: dict[str, Any]
) -> None:
    field = fields.declared("f", kind, options)
    assert {name: getattr(field, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("image", {"overr": "#ffffff"}, "'overr' is no option of image; there are optional, lossl"),
        ("image", {"over": "white"}, "over is 'white'; it is a colour #rrggbb"),
        ("image", {"optional": ""}, "an image cannot be optional"),
        ("image", {"lossless": "maybe"}, "lossless=maybe: it is yes or no"),
        ("mask", {"foreground": "one"}, "foreground=one: 'one' is neither a whole number nor a co"),
        ("mask", {"foreground": "1", "unknown": "1"}, "1 is declared as foreground and as unknown"),
        ("mask", {"foreground": "1", "unknown": "#ffffff"}, "values and colours are declared"),
        ("mask", {"background": "0"}, "background is declared, and no foreground"),
        ("mask", {"unknown": "any"}, "unknown is"),
        ("classes", {}, "has 0 classes; it is 1 to 255: declare classes=40, or names="),
        ("classes", {"classes": "x"}, "classes=x: 'x' is no whole number"),
        ("classes", {"classes": "-2"}, "has -2 classes"),
        ("classes", {"classes": "300", "bits": "8"}, "has 300 classes; it is 1 to 255"),
        ("classes", {"classes": "3", "names": "a|b"}, "names is .*there are 3 classes"),
        ("classes", {"names": "a|a"}, "no two classes have the same name"),
        ("classes", {"classes": "3", "map": "1:9"}, "id 9 is declared; ids are 0 to 2, and 255"),
        ("classes", {"classes": "3", "map": "1-5:0"}, "id 4 is declared"),
        ("classes", {"map": "1-5:0|3:1"}, "map is .*a value stands twice"),
        ("classes", {"map": "-5-0:0|0:7"}, "map is .*a value stands twice"),
        ("classes", {"map": "5-1:0"}, "map is"),
        ("classes", {"map": "*:0|*:1"}, r"\* stands twice"),
        ("classes", {"map": "1=0"}, "map=1=0: '1=0' is none of VALUE:ID"),
        ("classes", {"map": "1:0", "colours": "#000000:0"}, "declares map and colours"),
        ("classes", {"colours": "red:0"}, "'red:0' is not #rrggbb:ID"),
        ("classes", {"classes": "3", "ignore": "300"}, "ignore is 300; ids are 0 to 255"),
        ("depth", {"unit": "inch"}, "unit is 'inch'; it is one of m, cm, mm, relative"),
        ("depth", {"unit": "mm", "scale": "5"}, "unit and scale are declared; keep one"),
        ("depth", {"scale": "0"}, "scale is 0.0; it is above 0"),
        ("depth", {"scale": "nan"}, "scale is nan; it is above 0"),
        ("depth", {"scale": "1e999"}, "scale is inf"),
        ("depth", {"scale": "x"}, "scale=x: a number is needed"),
        ("depth", {"near": "5", "far": "2"}, "near must be above 0 and below far"),
        ("depth", {"bits": "12"}, "depth is stored in 8 or 16 bits"),
        ("depth", {"format": "metres"}, "must be metric, geometric, inverse or relative"),
        (
            "depth",
            {"unit": "relative", "format": "metric"},
            "hold relative depth, and its format is",
        ),
        (
            "depth",
            {"unit": "inverse", "format": "relative"},
            "hold inverse depth, and its format is",
        ),
        ("depth", {"unit": "mm", "format": "inverse"}, "hold metres, and its format is inverse"),
        ("depth", {"shift": "16"}, "shift is 16; it is 0 to 15 bits"),
    ],
)
def test_what_cannot_be_declared_is_refused_by_its_option(
    kind: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(FieldError, match=f"field f:? ?.*{said}"):
        fields.declared("f", kind, options)


def test_an_ambiguous_file_tells_each_declaration_as_it_can_be_pasted() -> None:
    error = AmbiguousError("x.png is odd", {"unit=mm": "millimetres"}, name="d", kind="depth")
    assert str(error) == (
        "x.png is odd; declare which it is: --field 'd=depth:PATTERN,unit=mm' (millimetres)"
    )
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.choices) == (str(error), {"unit=mm": "millimetres"})


# ---------------------------------------------------------------------------- kinds of one's own

OWN = """
from typing import ClassVar
import numpy as np
from wdtrain.fields import Field

class Heat(Field):
    kind: ClassVar[str] = "heat"
    dtype = np.dtype(np.uint8)
    blank = 0
    def resize(self, array, size): return array
    def from_array(self, array, *, file): return array
    def from_picture(self, data, *, file): raise NotImplementedError
    def decode(self, array): return array

class Other(Heat):
    pass
not_a_field = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "kind_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "kind_of_mine"
    KINDS.pop("heat", None)
    sys.modules.pop("kind_of_mine", None)


def test_a_kind_of_ones_own_is_known_once_it_is_named(module: str) -> None:
    values = {"kind": "heat", "optional": False}
    with pytest.raises(
        FieldError, match=r"'heat' is not known.*--kind heat=.*data\.kinds: \{heat:"
    ):
        fields.from_dict("f", values)
    assert module not in sys.modules
    fields.register("heat", f"{module}:Heat")
    field = fields.from_dict("f", values)
    assert field.as_dict() == values
    assert fields.register("heat", f"{module}:Heat") is type(field)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("kind_of_mine", "is no import path; say package.module:Class"),
        ("kind_of_mine:Heat.x", "is no import path"),
        ("no_such_module:Heat", "cannot be imported"),
        ("kind_of_mine:Missing", "cannot be imported"),
        ("kind_of_mine:not_a_field", "is no subclass of"),
        ("wdtrain.fields:MaskField", "calls itself 'mask'"),
    ],
)
def test_what_is_no_kind_is_refused(module: str, path: str, said: str) -> None:
    with pytest.raises(FieldError, match=f"kind heat: .*{said}"):
        fields.register("heat", path)


def test_a_kind_is_not_replaced(module: str) -> None:
    fields.register("heat", f"{module}:Heat")
    with pytest.raises(FieldError, match="kind heat is already Heat"):
        fields.register("heat", f"{module}:Other")
