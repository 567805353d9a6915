"""Which source a person means: a folder, tars or a saved dataset, its files declared or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wdtrain.disk.failures import StoreError
from wdtrain.fields.source import Source
from wdtrain.remote.urls import is_url, redacted
from wdtrain.sources.field_options import FieldOption
from wdtrain.sources.folder import FolderSource
from wdtrain.sources.hf_source import HuggingFaceSource
from wdtrain.sources.layouts import LAYOUTS, open_layout
from wdtrain.sources.pattern_source import PatternSource
from wdtrain.sources.tar_source import TarSource, is_tar

TRIPLES, HF = "triples", "hf"
LAYOUT_NAMES: Final = (TRIPLES, *LAYOUTS, HF)


def open_source(
    text: str, declared: Sequence[FieldOption] = (), layout: str | None = None
) -> Source:
    """The source at a path or URL, with these fields, in this layout; a folder of which nothing is
    declared is one of triples. StoreError where its layout is another."""
    if layout is not None and layout not in LAYOUT_NAMES:
        raise StoreError(f"--layout {layout!r} is not known; there are {', '.join(LAYOUT_NAMES)}")
    names = [option.name for option in declared]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StoreError(f"--field declares {twice[0]} twice; keep one, or give another name")
    if is_tar(text) and not Path(text).is_dir():
        return _of_tars(text, declared, layout)
    if is_url(text):
        raise StoreError(
            f"{redacted(text)} is neither a tar nor a folder here; the tars of a WebDataset are "
            "packed as 'https://host/data-{0000..0099}.tar', files behind URLs are to be fetched "
            "first"
        )
    folder = Path(text)
    if layout == HF:
        return _of_saved(folder, declared)
    if layout == TRIPLES and declared:
        raise StoreError(
            "--layout triples is overlay, mask and depth, declared by triples.json, and takes no "
            "--field; leave one of the two out"
        )
    if layout is not None and layout != TRIPLES:
        return open_layout(layout, folder, declared)
    return PatternSource(folder, declared) if declared else FolderSource(folder)


def _of_tars(text: str, declared: Sequence[FieldOption], layout: str | None) -> TarSource:
    if layout is not None:
        raise StoreError(
            f"--layout {layout} is of folders, and {redacted(text)} is a tar; say --field"
        )
    if not declared:
        raise StoreError(
            f"{redacted(text)} is a tar, and nothing says which of its members are packed; declare "
            "them, as --field image=image:jpg --field mask=mask:seg.png"
        )
    return TarSource(text, declared)


def _of_saved(folder: Path, declared: Sequence[FieldOption]) -> HuggingFaceSource:
    if not declared:
        raise StoreError(
            f"{folder}: nothing says which columns are packed; declare them, as --field "
            "image=image:image --field labels=classes:annotation,classes=40"
        )
    return HuggingFaceSource(folder, declared)
