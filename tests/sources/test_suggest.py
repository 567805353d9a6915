"""What somebody's folder holds is found by looking, and what is suggested is read as suggested."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.sources.people import (
    COUNT,
    HEIGHT,
    WIDTH,
    classes,
    figure,
    metres,
    photo,
    shard,
    trimap,
    with_palette,
    write,
    write_tar,
)
from wdtrain.fields import FieldError
from wdtrain.sources.asking import ask
from wdtrain.sources.families import families_in
from wdtrain.sources.field_options import parse_field
from wdtrain.sources.named_source import open_source
from wdtrain.sources.suggest import Suggestion, advice, suggested

Make = Callable[[Path, int], None]
FULL = np.uint8(255)


def greys(number: int) -> np.ndarray:
    return (metres(number) * 20).astype(np.uint8)


def triple(mask: Callable[[int], object], depth: Callable[[int], object], ending: str) -> Make:
    """Files named as ours are, with a mask and a depth of another kind; None: without."""

    def make(folder: Path, number: int) -> None:
        write(folder / f"{number}.overlay.jpg", photo(number))
        if (values := mask(number)) is not None:
            write(folder / f"{number}.mask.png", values)  # type: ignore[arg-type]
        if (values := depth(number)) is not None:
            write(folder / f"{number}.depth.{ending}", values)  # type: ignore[arg-type]

    return make


def in_colours(number: int) -> np.ndarray:
    return figure(number)[..., None] * np.array([255, 0, 0], np.uint8)


def nothing(number: int) -> None:
    return None


def files(*written: tuple[str, Callable[[int], object]]) -> Make:
    """Files whose paths hold {n}."""

    def make(folder: Path, number: int) -> None:
        for path, values in written:
            write(folder / path.format(n=f"{number:02d}"), values(number))  # type: ignore[arg-type]

    return make


def alpha(number: int) -> np.ndarray:
    return figure(number) * FULL


def millimetres(number: int) -> np.ndarray:
    return (metres(number) * 1000).astype(np.uint16)


COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
OVERLAY, MASK = "image=image:{key}.overlay.jpg", "mask=mask:{key}.mask.png"
DEPTH = "depth=depth:{key}.depth.png,unit=relative"
CASES: dict[str, tuple[Make, list[str]]] = {
    "palette masks": (
        triple(lambda n: with_palette(figure(n)), greys, "png"),
        [OVERLAY, f"{MASK},foreground=1", DEPTH],
    ),
    "RGB masks": (triple(in_colours, greys, "png"), [OVERLAY, f"{MASK},foreground=#ff0000", DEPTH]),
    "0 / 1 masks": (triple(figure, greys, "png"), [OVERLAY, f"{MASK},foreground=1", DEPTH]),
    "npy depth": (
        triple(alpha, metres, "npy"),
        [OVERLAY, MASK, "depth=depth:{key}.depth.npy,unit=m"],
    ),
    "JPEG depth": (
        triple(alpha, greys, "jpg"),
        [OVERLAY, MASK, "depth=depth:{key}.depth.jpg,unit=relative"],
    ),
    "masks without depth": (triple(alpha, nothing, "png"), [OVERLAY, MASK]),
    "depth without masks": (triple(nothing, greys, "png"), [OVERLAY, DEPTH]),
    "three folders": (
        files(("image/{n}.jpg", photo), ("mask/{n}.png", alpha), ("depth/{n}.png", millimetres)),
        [
            "image=image:image/{key}.jpg",
            "mask=mask:mask/{key}.png",
            "depth=depth:depth/{key}.png,unit=mm",
        ],
    ),
    "three folders of other names": (
        files(
            ("my photos/img_{n}.png", photo),
            ("masks/m{n}.png", lambda n: with_palette(figure(n))),
            ("depths/d-{n}-x.npy", metres),
        ),
        [
            "image=image:my photos/img_{key}.png",
            "mask=mask:masks/m{key}.png,foreground=1",
            "depth=depth:depths/d-{key}-x.npy,unit=m",
        ],
    ),
    "one folder": (
        files(("{n}.jpg", photo), ("{n}_mask.png", figure)),
        ["image=image:{key}.jpg", "mask=mask:{key}_mask.png,foreground=1"],
    ),
    "one folder and one name": (
        files(("{n}.jpg", photo), ("{n}.png", alpha)),
        ["image=image:{key}.jpg", "mask=mask:{key}.png"],
    ),
    "scenes": (
        lambda folder, n: files(
            (f"scene {n % 3}/rgb/{{n}}.png", photo), (f"scene {n % 3}/depth/{{n}}.png", millimetres)
        )(folder, n),
        ["image=image:**/rgb/{key}.png", "depth=depth:**/depth/{key}.png,unit=mm"],
    ),
    "classes": (
        files(("photos/a {n}.jpg", photo), ("labels/a {n}.png", classes)),
        ["image=image:photos/{key}.jpg", "labels=classes:labels/{key}.png,classes=8"],
    ),
    "coloured classes": (
        files(("images/{n}.jpg", photo), ("labels/{n}.png", lambda n: COLOURS[classes(n, 3)])),
        [
            "image=image:images/{key}.jpg",
            "labels=classes:labels/{key}.png,colours=#000000:0|#008000:1|#800000:2",
        ],
    ),
    "a depth in a folder of another word": (
        files(("image_02/{n}.png", photo), ("gt_depth/image_02/{n}.png", millimetres)),
        ["image=image:image_02/{key}.png", "depth=depth:gt_depth/image_02/{key}.png,unit=mm"],
    ),
    "far depth": (
        files(("rgb/{n}.jpg", photo), ("depth/{n}.npy", lambda n: metres(n) * 7)),
        ["image=image:rgb/{key}.jpg", "depth=depth:depth/{key}.npy,unit=m,near=0.5,far=70"],
    ),
    "splits": (
        lambda folder, n: files(
            (f"{'train' if n % 3 else 'val'}/img/{{n}}.jpg", photo),
            (f"{'train' if n % 3 else 'val'}/gt/{{n}}.png", figure),
        )(folder, n),
        [
            "image=image:{split}/img/{key}.jpg",
            "mask=mask:{split}/gt/{key}.png,foreground=1",
        ],
    ),
    "trimaps": (
        files(("images/{n}.jpg", photo), ("masks/{n}.png", trimap)),
        ["image=image:images/{key}.jpg", "mask=mask:masks/{key}.png,unknown=128"],
    ),
    "trimaps among triples": (
        triple(trimap, greys, "png"),
        [OVERLAY, f"{MASK},unknown=128", DEPTH],
    ),
    "trimaps without a word": (
        files(("photo/{n}.jpg", photo), ("gt/{n}.png", trimap)),
        ["image=image:photo/{key}.jpg", "mask=mask:gt/{key}.png,unknown=128"],
    ),
    "palettes of classes among masks": (
        files(
            ("images/{n}.jpg", photo),
            ("masks/{n}.png", lambda n: with_palette(classes(0, 3 + n % 4))),
        ),
        ["image=image:images/{key}.jpg", "labels=classes:masks/{key}.png,classes=6"],
    ),
    "greys of classes among masks": (
        files(("images/{n}.jpg", photo), ("masks/{n}.png", lambda n: classes(n, 4) * 85)),
        [
            "image=image:images/{key}.jpg",
            "labels=classes:masks/{key}.png,classes=4,map=0:0|85:1|170:2|255:3",
        ],
    ),
    "greys of classes": (
        files(("images/{n}.jpg", photo), ("labels/{n}.png", lambda n: classes(n, 4) * 85)),
        [
            "image=image:images/{key}.jpg",
            "labels=classes:labels/{key}.png,map=0:0|85:1|170:2|255:3",
        ],
    ),
    "masks of some": (
        lambda folder, n: files(("images/{n}.jpg", photo), *([("masks/{n}.png", alpha)] * (n % 2)))(
            folder, n
        ),
        ["image=image:images/{key}.jpg", "mask=mask:masks/{key}.png,optional"],
    ),
    "pictures alone": (files(("{n}.jpg", photo)), ["image=image:{key}.jpg"]),
    "seed": (
        files(
            ("fg/fg_bg_{n}.jpg", photo),
            ("mask/mask_fg_bg_{n}.jpg", alpha),
            ("depth/depth_fg_bg_{n}.jpg", greys),
        ),
        ["--layout", "seed"],
    ),
    "yolo-depth": (
        files(("images/train/{n}.jpg", photo), ("depth/train/{n}.npy", metres)),
        ["--layout", "yolo-depth"],
    ),
    "voc": (
        files(("JPEGImages/{n}.jpg", photo), ("SegmentationClass/{n}.png", classes)),
        ["--layout", "voc"],
    ),
}


def lines_of(found: Suggestion) -> list[str]:
    """What is said beside the source; of fields, their lines."""
    if "--layout" in found.arguments:
        return found.arguments
    assert found.arguments[::2] == ["--field"] * (len(found.arguments) // 2)
    return found.arguments[1::2]


@pytest.mark.parametrize("case", CASES)
def test_what_somebody_has_is_found(tmp_path: Path, case: str) -> None:
    make, expected = CASES[case]
    for number in range(COUNT):
        make(tmp_path, number)
    found = suggested(str(tmp_path))
    assert found is not None
    assert found.source == str(tmp_path)
    assert lines_of(found) == expected
    fields = [] if "--layout" in expected else [parse_field(line) for line in expected]
    source = open_source(str(tmp_path), fields, None if fields else expected[1])
    assert len(source) == COUNT
    for index in range(COUNT):
        arrays = source.load(index).arrays
        for field in source.fields:
            if field.name in arrays:
                assert field.size_of(arrays[field.name])[0] == HEIGHT
    assert {line.partition(": ")[0] for line in found.meanings} == {
        line.partition("=")[0]
        for line in expected
        if any(
            word in line for word in ("unit=", "foreground=", "unknown=", "map=", "=classes:masks/")
        )
    }


def test_tars_are_found_in_a_folder_and_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "a-0.tar", shard(range(5)))
    write_tar(tmp_path / "a-1.tar", shard(range(5, 10)))
    expected = ["image=image:jpg", "mask=mask:seg.png"]
    by_name = advice(str(tmp_path / "a-{0..1}.tar"))
    assert by_name is not None
    assert (by_name.source, lines_of(by_name)) == (str(tmp_path / "a-{0..1}.tar"), expected)
    in_folder = suggested(str(tmp_path))
    assert in_folder is not None
    assert (in_folder.source, lines_of(in_folder)) == (str(tmp_path / "*.tar"), expected)


@pytest.mark.filterwarnings("ignore")  # other people's code warns as it likes
def test_a_saved_dataset_is_found(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from tests.sources.test_hf_source import table

    datasets.DatasetDict({"train": table(range(6))}).save_to_disk(str(tmp_path / "saved"))
    found = advice(str(tmp_path / "saved"))
    assert found is not None
    assert found.arguments == [
        *("--layout", "hf", "--field", "image=image:photo"),
        *("--field", "labels=classes:annotation,classes=8"),
        *("--field", "depth=depth:metres,unit=m"),
    ]


def test_a_question_of_a_declared_field_is_answered(tmp_path: Path) -> None:
    for number in range(6):
        files(("i/{n}.jpg", photo), ("d/{n}.png", millimetres))(tmp_path, number)
    declared = [parse_field("rgb=image:i/{key}.jpg"), parse_field("far=depth:d/{key}.png,optional")]
    found = advice(str(tmp_path), declared)
    assert found is not None
    assert lines_of(found) == ["rgb=image:i/{key}.jpg", "far=depth:d/{key}.png,optional,unit=mm"]
    (told,) = found.meanings
    assert told.startswith(
        "far: unit=mm (values are millimetres: 1 to 9.5 m; or it is scale=256: values / 256 are "
        "metres, as KITTI has it: 3.91 to 37.1 m; scale=5000: "
    )


def test_a_declared_trimap_is_asked_about_in_its_own_line(tmp_path: Path) -> None:
    for number in range(6):
        files(("i/{n}.jpg", photo), ("m/{n}.png", trimap))(tmp_path, number)
    declared = [parse_field("rgb=image:i/{key}.jpg"), parse_field("who=mask:m/{key}.png,optional")]
    with pytest.raises(FieldError) as raised:
        ask(open_source(str(tmp_path), declared))
    told = str(raised.value)
    assert told.startswith("who of 00 and others like it have values 0, 128 and 255, which fill")
    for settled in ("who=mask:m/{key}.png,optional,unknown=128",
                    "who=classes:m/{key}.png,optional,classes=3,map=0:0|128:1|255:2",
                    "who=mask:m/{key}.png,optional,alpha"):  # fmt: skip
        assert f"--field '{settled}'" in told
        source = open_source(str(tmp_path), [declared[0], parse_field(settled)])
        ask(source)
        assert source.load(3).arrays["who"] is not None
    found = advice(str(tmp_path), declared)
    assert found is not None
    assert lines_of(found) == ["rgb=image:i/{key}.jpg", "who=mask:m/{key}.png,optional,unknown=128"]


def without_full(number: int, *, by: int = 127, full: int = 255) -> np.ndarray:
    """A trimap; every fourth, and so the first, has nothing but what is between."""
    values = trimap(number)
    sure = by if number % 4 == 0 else full
    return np.where(values == 255, sure, np.where(values == 128, by, 0)).astype(np.uint8)


def half_full(number: int) -> np.ndarray:
    return without_full(number, by=100, full=200)


def four_greys(number: int) -> np.ndarray:
    values = np.array([64, 128, 200, 255], np.uint8)[classes(number, 4)]
    return values if number % 4 else np.full_like(values, 64)


@pytest.mark.parametrize(
    ("mask", "line"),
    [
        (without_full, "mask=mask:m/{key}.png,unknown=127"),
        (half_full, "mask=mask:m/{key}.png,foreground=200,unknown=100"),
        (four_greys, "mask=classes:m/{key}.png,classes=4,map=64:0|128:1|200:2|255:3"),
    ],
)
def test_a_trimap_of_which_the_first_has_no_full_value_is_not_turned_around(
    tmp_path: Path, mask: Callable[[int], np.ndarray], line: str
) -> None:
    for number in range(COUNT):
        files(("images/{n}.jpg", photo), ("m/{n}.png", mask))(tmp_path, number)
    lines = ["image=image:images/{key}.jpg", "mask=mask:m/{key}.png"]
    declared = [parse_field(each) for each in lines]
    with pytest.raises(FieldError) as raised:
        ask(open_source(str(tmp_path), declared))
    assert f"--field '{line}'" in str(raised.value)
    found = advice(str(tmp_path), declared)
    assert found is not None
    assert lines_of(found)[1] == line
    source = open_source(str(tmp_path), [declared[0], parse_field(line)])
    for number in range(COUNT):
        values, got = mask(number), source.load(number).arrays["mask"]
        if "unknown" in line:
            assert (got[values == values.max()] == (255 if number % 4 else 1)).all()
            assert (got[values == 0] == 0).all()


@pytest.mark.parametrize(
    ("values", "line", "other"),
    [
        ([0, 20, 60, 255], "classes=61", "map=0:0|20:1|60:2|255:3"),
        ([17, 40, 90, 255], "classes=91", "map=17:0|40:1|90:2|255:3"),
        ([0, 85, 170, 255], "map=0:0|85:1|170:2|255:3", "classes=171"),
        ([0, 64, 128, 191, 255], "map=0:0|64:1|128:2|191:3|255:4", "classes=192"),
    ],
)
def test_sparse_ids_are_kept_and_greys_are_numbered_and_either_is_said(
    tmp_path: Path, values: list[int], line: str, other: str
) -> None:
    def labelled(number: int) -> np.ndarray:
        return np.array(values, np.uint8)[classes(number, len(values))]

    for number in range(6):
        files(("images/{n}.jpg", photo), ("labels/{n}.png", labelled))(tmp_path, number)
    found = suggested(str(tmp_path))
    assert found is not None
    assert lines_of(found)[1] == f"labels=classes:labels/{{key}}.png,{line}"
    (told,) = found.meanings
    assert told.startswith(f"labels: {line} (values are ")
    assert f"; or it is {other}: values are " in told
    source = open_source(str(tmp_path), [parse_field(each) for each in lines_of(found)])
    got = source.load(1).arrays["labels"]
    kept = {value: at for at, value in enumerate(values)} if line[0] == "m" else {255: 255}
    np.testing.assert_array_equal(got, np.vectorize(lambda each: kept.get(each, each))(labelled(1)))


@pytest.mark.parametrize("trouble", ["truncated", "doubled"])
def test_one_file_in_trouble_does_not_drop_what_was_declared(tmp_path: Path, trouble: str) -> None:
    for number in range(COUNT):
        files(("i/{n}.jpg", photo), ("m/{n}.png", trimap))(tmp_path, number)
    path = tmp_path / "m" / "03.png"
    if trouble == "truncated":
        path.write_bytes(path.read_bytes()[:60])
    else:
        path.with_suffix(".PNG").write_bytes(path.read_bytes())
    declared = [parse_field("rgb=image:i/{key}.jpg"), parse_field("who=mask:m/{key}.png")]
    found = advice(str(tmp_path), declared)
    assert found is not None
    assert found.arguments == [
        *("--field", "rgb=image:i/{key}.jpg"),
        *("--field", "who=mask:m/{key}.png,unknown=128"),
        *("--max-rejects", "0.17"),
    ]
    assert found.left_out == ["samples whose files cannot be decoded (03)"]


def test_tars_that_are_compressed_beside_others_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a-0.tar", shard(range(5)))
    for number in (1, 2):
        plain = write_tar(tmp_path / "b.tar", shard(range(5)))
        (tmp_path / f"a-{number}.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    found = suggested(str(tmp_path))
    assert found is not None
    (said,) = found.left_out
    assert said.startswith("a-1.tar.gz and 1 more (compressed: unpack these first")


def test_one_trimap_among_masks_asks_nothing(tmp_path: Path) -> None:
    for number in range(9):
        mask = trimap if number == 4 else alpha
        files(("images/{n}.jpg", photo), ("masks/{n}.png", mask))(tmp_path, number)
    found = suggested(str(tmp_path))
    assert found is not None
    assert lines_of(found) == ["image=image:images/{key}.jpg", "mask=mask:masks/{key}.png"]
    ask(open_source(str(tmp_path), [parse_field(line) for line in lines_of(found)]))


def test_the_range_of_a_depth_is_that_of_all_files_that_were_looked_at(tmp_path: Path) -> None:
    for number in range(6):
        files(("image/{n}.jpg", photo), ("depth/{n}.png", street))(tmp_path, number)
    found = suggested(str(tmp_path))
    assert found is not None
    assert lines_of(found)[1] == "depth=depth:depth/{key}.png,scale=256,near=0.5,far=80"
    (told,) = found.meanings
    assert "as KITTI has it: 1 to 75 m; or it is unit=mm: values are millimetres: 0.256 to" in told


def street(number: int) -> np.ndarray:
    """A depth as KITTI has it, of a laser; the first file is near alone."""
    far = np.linspace(1, 5 + 14 * number, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    far[:, ::2] = 0
    far[0, 0], far[-1, -1] = 1, 5 + 14 * number
    return np.asarray(far * 256, np.uint16)


def test_what_is_well_is_given_no_advice(tmp_path: Path) -> None:
    for number in range(6):
        triple(alpha, greys, "png")(tmp_path, number)
    assert advice(str(tmp_path)) is None
    (tmp_path / "triples.json").write_text("{")
    assert suggested(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["notes.txt", "movie.mp4", "labels.png"])
def test_where_there_is_no_picture_nothing_is_suggested(tmp_path: Path, name: str) -> None:
    if name.endswith("png"):
        write(tmp_path / name, figure(1))
    else:
        (tmp_path / name).write_text("x")
    assert suggested(str(tmp_path)) is None
    assert suggested(str(tmp_path / "nothing")) is None


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    for number in range(6):
        files(("i/{n}.jpg", photo), ("mask/{n}.png", alpha))(tmp_path, number)
        (tmp_path / "mask" / f"{number:02d}.png").write_bytes(b"no picture")
    found = suggested(str(tmp_path))
    assert found is not None
    assert lines_of(found) == ["image=image:i/{key}.jpg"]
    (left_out,) = found.left_out
    assert left_out.startswith("mask/{key}.png (mask/00.png cannot be decoded")


def test_what_is_of_another_size_or_a_second_picture_is_left_out_and_named(tmp_path: Path) -> None:
    for number in range(6):
        files(("left/{n}.jpg", photo), ("right/{n}.jpg", photo))(tmp_path, number)
        write(tmp_path / "mask" / f"{number:02d}.png", figure(number, 12, 16) * FULL)
    found = suggested(str(tmp_path))
    assert found is not None
    assert lines_of(found) == ["image=image:left/{key}.jpg"]
    assert sorted(found.left_out) == [
        "mask/{key}.png (12 x 16 pixels, its picture 24 x 32)",
        "right/{key}.jpg (another picture)",
    ]


def test_names_that_patterns_cannot_say_are_left_alone(tmp_path: Path) -> None:
    for number in range(6):
        files(("i/{n}.jpg", photo))(tmp_path, number)
        write(tmp_path / "i" / f"a,b{{{number}}}.jpg", photo(number))
    (family,) = families_in(tmp_path)
    assert len(family.paths) == 6


def test_a_few_broken_files_do_not_hide_what_the_others_are(tmp_path: Path) -> None:
    for number in range(12):
        files(("images/{n}.jpg", photo), ("masks/{n}.png", alpha))(tmp_path, number)
    whole = (tmp_path / "images" / "00.jpg").read_bytes()
    (tmp_path / "images" / "00.jpg").write_bytes(b"")
    (tmp_path / "images" / "05.jpg").write_bytes(whole[: len(whole) // 2])
    found = suggested(str(tmp_path))
    assert found is not None
    assert found.arguments == [
        *("--field", "image=image:images/{key}.jpg"),
        *("--field", "mask=mask:masks/{key}.png"),
        *("--max-rejects", "0.34"),
    ]
    (said,) = found.left_out
    assert said == "samples whose files cannot be decoded (images/00.jpg, images/05.jpg)"


def test_folders_that_no_word_tells_apart_are_fields(
    tmp_path: Path,
) -> None:
    for number in range(6):
        files(
            ("cam/{n}.png", photo),
            ("person/{n}.png", alpha),
            ("road/{n}.png", figure),
            ("lidar/{n}.png", millimetres),
        )(tmp_path, number)
    found = suggested(str(tmp_path))
    assert found is not None
    assert sorted(lines_of(found)) == [
        "depth=depth:lidar/{key}.png,unit=mm",
        "image=image:cam/{key}.png",
        "person=mask:person/{key}.png",
        "road=mask:road/{key}.png,foreground=1",
    ]
