"""Nothing that is printed can end or stall a run, whatever happens to its terminal or pipe."""

from __future__ import annotations

import errno
import io
import os
import pty
import subprocess
import sys
import threading
import time

import pytest

from tests.record.test_console import Clock, progress, run_story
from wdtrain.record import outlet
from wdtrain.record.console import Console, make_console
from wdtrain.record.outlet import QUEUE_BYTES, Outlet


class Refusing(io.StringIO):
    """A stream that cannot be written."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.writes = number, 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise OSError(self.number, os.strerror(self.number))


class Closed(io.StringIO):
    """A stream that somebody closes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


def tell(console: Console) -> None:
    clock = Clock()
    run_story(console, clock, steps=30)
    console.close()


@pytest.mark.parametrize("kind", ["plain", "live"])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_stream_that_fails_makes_the_console_silent(kind, number):
    stream = Refusing(number)
    tell(make_console(kind, stream))
    assert stream.writes == 1, "a silent console does not try again"


@pytest.mark.parametrize("kind", ["plain", "live"])
def test_a_stream_that_was_closed_makes_the_console_silent(kind):
    stream = Closed()
    console = make_console(kind, stream)
    stream.close()
    stream.writes = 0
    tell(console)  # an error of the stream would come out of here
    assert stream.writes == 1, "a silent console does not try again"


@pytest.mark.parametrize("kind", ["plain", "live"])
@pytest.mark.parametrize("opened", [os.pipe, pty.openpty])
def test_a_pipe_or_terminal_whose_other_end_went_makes_the_console_silent(
    kind, opened, monkeypatch
):
    monkeypatch.setenv("TERM", "xterm")
    written: list[bool] = []

    def write_all(descriptor: int, data: bytes) -> bool:
        written.append(real(descriptor, data))
        return written[-1]

    real = outlet._write_all
    monkeypatch.setattr(outlet, "_write_all", write_all)
    outer, inner = opened()
    with os.fdopen(inner, "w") as stream:
        console = make_console(kind, stream)
        console.event("before")
        os.close(outer)
        tell(console)  # an error of the stream would come out of here
        assert written.count(False) == 1, "a silent console does not try again"
        assert not written[-1]


@pytest.mark.parametrize("kind", ["plain", "live"])
def test_a_pipe_that_nobody_reads_stalls_nothing(kind):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        console = make_console(kind, stream, clock=(clock := Clock()))
        since = time.monotonic()
        run_story(console, clock)
        for step in range(11, 2000):  # a pipe holds 64 KiB
            clock.now += 10.0
            console.step(progress(step))
            console.event("x" * 1000)
        console.close()
        assert time.monotonic() - since < 30
        os.close(reading)


def test_what_is_read_comes_whole_and_in_order():
    reading, writing = os.pipe()
    got = []

    def read() -> None:
        with os.fdopen(reading) as stream:
            for line in stream:
                got.append(line)
                if len(got) % 100 == 0:
                    time.sleep(0.01)  # slower than the writer

    reader = threading.Thread(target=read)
    reader.start()
    lines = [f"{number} é {'x' * 100}\n" for number in range(3000)]
    with os.fdopen(writing, "w") as stream:
        outlet = Outlet(stream)
        for line in lines:
            outlet.write(line)
        outlet.drain()
    reader.join()
    assert got == lines


def test_the_queue_is_bounded_and_flows_again_when_somebody_reads():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        outlet = Outlet(stream)
        for _ in range(4 * QUEUE_BYTES // 1000):
            outlet.write("x" * 999 + "\n")
        with os.fdopen(reading, "rb") as reader:
            first = reader.read(QUEUE_BYTES // 2)
            outlet.write("again\n")
            seen = b""
            while not seen.endswith(b"again\n"):
                seen += os.read(reading, 1 << 16)
        assert QUEUE_BYTES // 2 < len(first + seen) < 2 * QUEUE_BYTES


def test_a_process_without_output_is_silent():
    outlet = Outlet(None)
    assert not outlet.isatty()
    assert outlet.write("gone") == 4
    outlet.drain()


def test_what_cannot_be_encoded_is_replaced(tmp_path):
    with (tmp_path / "out.txt").open("w", encoding="ascii") as stream:
        Outlet(stream).write("1 × 2")
    assert (tmp_path / "out.txt").read_text() == "1 ? 2"


PRINTS = """
import sys, warnings
from wdtrain.record.outlet import speak_without_waiting
speak_without_waiting()
print("o" * int(sys.argv[2]))
print("error: " + "e" * int(sys.argv[2]), file=sys.stderr)
warnings.warn("w" * int(sys.argv[2]))
open(sys.argv[1], "w").write("went on")
raise SystemExit(7)
"""


@pytest.mark.parametrize("size", [100, 300_000])
@pytest.mark.parametrize("reader", ["stuck", "gone", "none", "there"])
def test_prints_errors_and_warnings_neither_end_nor_stall_a_process(tmp_path, size, reader):
    mark = tmp_path / "mark"
    command = [sys.executable, "-c", PRINTS, str(mark), str(size)]
    if reader == "none":
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if reader == "gone":
            process.stdout.close()
            process.stderr.close()
        elif reader == "there":
            output, errors = process.communicate(timeout=60)
            assert output == b"o" * size + b"\n"
            assert errors.count(b"e" * size) == errors.count(b"w" * size) == 1
        assert process.wait(timeout=60) == 7
    assert mark.read_text() == "went on"
