"""Laws of files that survive a kill."""

from __future__ import annotations

import os

import pytest

from wdtrain.disk.durable import rename_synced, sync_tree, write_parts, write_whole


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "status.json"
    write_whole(path, b"first")
    write_parts(path, [b"sec", b"ond"])
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_bytes(tmp_path, monkeypatch, operation):
    path = tmp_path / "status.json"
    write_whole(path, b"first")

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, operation, fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"


def test_bytes_are_synced_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    events = []
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}
    for name, operation in real.items():
        monkeypatch.setattr(os, name, lambda *a, n=name, o=operation: (events.append(n), o(*a))[1])
    write_whole(tmp_path / "a", b"x")
    assert events == ["fsync", "replace", "fsync"]
    events.clear()
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_bytes(b"y")
    sync_tree(tmp_path / "folder")
    assert events == ["fsync"] * 3
    rename_synced(tmp_path / "folder", tmp_path / "named")
    assert events == ["fsync"] * 3 + ["rename", "fsync"]
