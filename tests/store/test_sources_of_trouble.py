"""Folders that look whole and are not, and JPEGs that readers would see differently."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wdtrain.store.errors import StoreError
from wdtrain.store.folder import UNFINISHED, FolderSource
from wdtrain.triple import encode_overlay, is_plain


def test_a_folder_whose_making_was_interrupted_is_refused(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).write_text("{}")
    with pytest.raises(StoreError, match="run the same make-triples command again"):
        FolderSource(tmp_path)


def test_only_plain_colour_jpegs_pass_through() -> None:
    ramp = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    plain = encode_overlay(ramp)
    assert is_plain(plain)
    grey = cv2.imencode(".jpg", ramp[:, :, 0])[1].tobytes()
    assert not is_plain(grey)
    turned = plain[:2] + b"\xff\xe1\x00\x0eExif\0\0MM\0*\0\0" + plain[2:]
    assert not is_plain(turned)
