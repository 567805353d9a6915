"""Laws of what a person sees: true numbers, on any terminal, which is given back."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console as Terminal

from wdtrain.record.console import Console, Progress, RunPlan, Score, TaskPlan, make_console
from wdtrain.record.console_live import LiveConsole
from wdtrain.record.console_plain import PlainConsole
from wdtrain.record.process_memory import ProcessMemory


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plan(**changes) -> RunPlan:
    tasks = tuple(
        TaskPlan(name=name, network=f"seed-{name}", parameters=114_624, micro_batch=32)
        for name in ("mask", "depth")
    )
    facts = {"batch_size": 256, "ranks": 1, "steps": 100, "samples": 4000, "tasks": tasks}
    return RunPlan(title="playground-64", device="cpu", **{**facts, **changes})


SECONDS = {"data": 0.2, "augment": 0.3, "forward_backward": 1.0}


def progress(step: int) -> Progress:
    losses = {"mask": 0.5 / step, "depth": 0.25}
    memory = ProcessMemory(3 << 30, 8 << 30, "RSS")
    return Progress(step=step, losses=losses, samples=256, seconds=SECONDS, memory=memory)


SCORES = [
    Score(task="mask", metric="iou", value=0.612, baseline=0.143, baseline_name="colour threshold"),
    Score(task="depth", metric="rmse_log", value=0.5, baseline=0.4, baseline_name="mean picture"),
]


def run_story(console: Console, clock: Clock, steps: int = 10) -> None:
    """Ten steps of two seconds, a validation of 30 s, an event."""
    console.start(plan())
    for step in range(1, steps + 1):
        clock.now += 2.0
        console.step(progress(step))
    console.phase("validating")
    clock.now += 30.0
    console.validation(steps, SCORES)
    console.phase("")
    console.event("checkpoint saved at step 10 → best")


def plain_lines(interval_seconds: float) -> list[str]:
    clock, stream = Clock(), io.StringIO()
    with PlainConsole(stream, interval_seconds=interval_seconds, clock=clock) as console:
        run_story(console, clock)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "batch 256 = 1 rank × 8 passes × 32"),
        ({"ranks": 8}, "batch 256 = 8 ranks × 1 pass × 32"),
        ({"batch_size": 250}, "batch 250 = 1 rank × at most 8 passes × 32"),
    ],
)
def test_the_plan_line_multiplies_out(changes, line):
    assert plan(**changes).batch_lines() == [line]


def test_tasks_with_their_own_micro_batch_have_their_own_plan_line():
    tasks = tuple(
        TaskPlan(name=name, network="n", parameters=1, micro_batch=micro)
        for name, micro in (("mask", 64), ("depth", 32))
    )
    assert plan(tasks=tasks).batch_lines("x") == [
        "batch 256 = 1 rank x 4 passes x 64  (mask)",
        "batch 256 = 1 rank x 8 passes x 32  (depth)",
    ]


def test_plain_writes_one_line_an_interval_and_one_for_each_event():
    lines = plain_lines(interval_seconds=6.0)
    steps = [line for line in lines if re.match(r"step \d+/100", line)]
    assert [line.split()[1] for line in steps] == ["3/100", "6/100", "9/100", "10/100"]
    assert "step 10  validation  mask IoU 0.6120 (colour threshold 0.1430)" in "\n".join(lines)
    assert "checkpoint saved at step 10 → best" in lines
    assert lines[1] == "batch 256 = 1 rank x 8 passes x 32"


def test_plain_lines_are_true():
    (first, *_) = (line for line in plain_lines(6.0) if line.startswith("step 3/100"))
    mean_loss = (0.5 / 1 + 0.5 / 2 + 0.5 / 3) / 3
    assert f"mask {mean_loss:.4f}  depth 0.2500" in first
    assert "128 samples/s" in first  # 3 x 256 in 6 s
    assert "data 10% forward+backward 50% other 25%" in first
    assert "3:14 left" in first  # 97 steps of 2 s
    assert "3.0 GiB of 8.0 GiB" in first


def test_time_spent_validating_does_not_count_as_training_but_delays_the_end():
    clock, stream = Clock(), io.StringIO()
    with PlainConsole(stream, interval_seconds=1e9, clock=clock) as console:
        run_story(console, clock)
        clock.now += 2.0
        console.step(progress(11))
    last = stream.getvalue().splitlines()[-1]
    assert "128 samples/s" in last
    assert f"{int(89 * 52 / 11 // 60)}:" in last


def test_a_resumed_run_estimates_from_its_own_steps():
    clock, stream = Clock(), io.StringIO()
    with PlainConsole(stream, interval_seconds=1.0, clock=clock) as console:
        console.start(plan(first_step=90))
        clock.now += 3.0
        console.step(progress(91))
    assert "0:27 left" in stream.getvalue()


def test_plain_survives_a_stream_that_is_not_utf8():
    raw = io.BytesIO()
    clock, stream = Clock(), io.TextIOWrapper(raw, encoding="ascii")
    with PlainConsole(stream, clock=clock) as console:
        run_story(console, clock)
    assert b"best" in raw.getvalue()


def draw(width: int, height: int, encoding: str, steps: int = 10) -> list[str]:
    raw, clock = io.BytesIO(), Clock()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    terminal = Terminal(file=stream, width=width, height=height, highlight=False)
    console = LiveConsole(stream, clock=clock, terminal=terminal)
    with console:
        for number in range(5):
            console.event(f"event {number}")
        run_story(console, clock, steps)
        raw.seek(0)
        raw.truncate()
        terminal.print(console)
        lines = raw.getvalue().decode(encoding).splitlines()
    return lines


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (100, 30), (200, 60), (40, 12)])
def test_live_fits_its_terminal(width, height, encoding):
    lines = draw(width, height, encoding)
    assert max(len(line) for line in lines) <= width
    assert len(lines) <= height or (width, height) == (40, 12)
    text = "\n".join(lines)
    assert "step 10 of 100" in text
    assert "mask" in text
    assert "0.0500" in text
    assert text.isascii() or encoding == "utf-8"


def test_live_shows_what_a_person_asks_first():
    text = "\n".join(draw(100, 40, "utf-8"))
    for shown in (
        "batch 256 = 1 rank × 8 passes × 32",
        "step 10 of 100   10%   epoch 0.64",
        "0:50 so far · 7:30 left",
        "0.6120   colour threshold 0.1430   +0.4690   step 10",
        "0.5000   mean picture 0.4000   +0.1000   step 10",
        "128 samples/s",
        "■ data 10%  ■ augment 15%  ■ forward+backward 50%  ■ other 25%",
        "3.0 GiB of 8.0 GiB",
        "checkpoint saved at step 10 → best",
    ):
        assert shown in text
    assert re.search(r"loss +0\.0500 +█.*▁", text)


def test_live_says_when_no_step_comes():
    clock, stream = Clock(), io.StringIO()
    terminal = Terminal(file=stream, width=100, height=30)
    with LiveConsole(stream, clock=clock, terminal=terminal) as console:
        console.start(plan())
        console.step(progress(1))
        clock.now += 95.0
        terminal.print(console)
    assert "no step for 1:35" in stream.getvalue()


def test_a_loss_that_is_not_finite_does_not_end_the_console():
    clock, stream = Clock(), io.StringIO()
    terminal = Terminal(file=stream, width=100, height=30)
    with LiveConsole(stream, clock=clock, terminal=terminal) as console:
        console.start(plan())
        console.step(Progress(step=1, losses={"mask": math.nan, "new": math.inf}, samples=0))
        terminal.print(console)
    assert "nan" in stream.getvalue()


def test_auto_is_live_on_a_terminal_and_plain_elsewhere(monkeypatch):
    class FakeTerminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(make_console("auto", FakeTerminal()), LiveConsole)
    assert isinstance(make_console("auto", io.StringIO()), PlainConsole)
    assert isinstance(make_console("plain", FakeTerminal()), PlainConsole)
    assert isinstance(make_console("live", io.StringIO()), LiveConsole)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_console("auto", FakeTerminal()), PlainConsole)
    with pytest.raises(ValueError, match="must be auto, live or plain"):
        make_console("pretty")  # type: ignore[arg-type]


ENDLESS = """
import itertools, signal, time
from wdtrain.record.console import Progress, RunPlan, TaskPlan, make_console
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
task = TaskPlan(name="mask", network="seed-mask", parameters=1, micro_batch=1)
plan = RunPlan(title="t", device="cpu", batch_size=1, ranks=1, steps=9, samples=1, tasks=(task,))
with make_console("live") as console:
    console.start(plan)
    for step in itertools.count(1):
        console.step(Progress(step=step, losses={}, samples=1))
        time.sleep(0.05)
"""


def read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # the other end of a terminal is closed
            break
        seen += part
    return seen


@pytest.mark.timeout(60)
def test_ctrl_c_gives_the_terminal_back():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=theirs, stderr=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    try:
        assert b"\x1b[?25l" in read_until(ours, b" of 9")  # the cursor is hidden while it draws
        process.send_signal(signal.SIGINT)
        assert b"\x1b[?25h" in read_until(ours, b"\x1b[?25h")  # and shown again
    finally:
        process.kill()
        process.wait()
        os.close(ours)
