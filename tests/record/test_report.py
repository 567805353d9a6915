"""Laws of the report and its curves: made from what is on disk, and again, the same."""

from __future__ import annotations

import json
import re

import cv2
import pytest

from wdtrain.fields import DepthFormat, ImageField, triple_of
from wdtrain.record.curves import collect, draw_curves
from wdtrain.record.report import (
    PICTURES,
    RESULTS_NAME,
    outcome,
    task_facts,
    versions,
    write_report,
)
from wdtrain.record.runlog import RunLog
from wdtrain.targets import target_of

DEPTH = {"rmse_log": 0.2, "absrel": 0.15, "delta1": 0.8}
DEPTH_METRICS = {
    **DEPTH,
    "images": 400.0,
    **{f"foreground/{name}": value for name, value in DEPTH.items()},
    "aligned/absrel": 0.12,
    "aligned/foreground/absrel": 0.11,
}
_, MASK, DEPTH_TARGET = (
    None if isinstance(field, ImageField) else target_of(field)
    for field in triple_of(DepthFormat())
)
RESULTS = {
    "title": "playground-64",
    "lead_split": "val-new-new",
    "run": {"state": "finished", "steps": 60},
    "data": {"difficulty": 0.5},
    "tasks": {
        "mask": {
            "network": "seed-mask",
            "parameters": 114_624,
            **task_facts(MASK, {}),
        },
        "depth": {
            "network": "seed-unet",
            "parameters": 7_763_041,
            **task_facts(DEPTH_TARGET, DEPTH_METRICS),
        },
    },
    "splits": {
        split: {
            "tasks": {
                "mask": {
                    "loss": 0.1,
                    "metrics": {"iou_pooled": iou, "mae": 0.05, "images": 400.0},
                    "baseline": {"iou_pooled": 0.143},
                },
                "depth": {
                    "loss": 0.1,
                    "metrics": DEPTH_METRICS,
                    "baseline": {"rmse_log": 0.4},
                },
            }
        }
        for split, iou in (("val-seen-seen", 0.7), ("val-new-new", 0.5))
    },
    "samples": {
        "mask": {"metric": "iou", "best": [["a|1", 0.9]], "median": [], "worst": [["z", 0.01]]}
    },
    "grids": {"mask": {"mask: best": "report/mask-best.png"}},
    "memory_budget_bytes": 8 << 30,
    "resumed_at": [20],
    "recipe": "train:\n  steps: 60\n",
    "versions": {"torch": "2.13.0"},
}


def write_log(folder) -> None:
    with RunLog(folder) as log:
        for step in range(1, 61):
            seconds = {"seconds/data": 0.1, "seconds/forward_backward": 0.3}
            losses = {"loss/mask": 2.0 ** (-step / 6), "loss/depth": 0.5}
            rest = {"samples": 64, "seconds": 0.5, "samples_per_second": 128.0}
            memory = {"memory_bytes": (1 << 30) + step}
            log.append({"step": step, **losses, **rest, **memory, **seconds})
            if step % 20 == 0:
                at = "validation/val-new-new/mask"
                log.append({"step": step, f"{at}/iou_pooled": step / 100, f"{at}/loss": 0.2,
                            f"{at}/baseline/iou_pooled": 0.143})  # fmt: skip


@pytest.fixture
def report(tmp_path):
    write_log(tmp_path)
    return write_report(tmp_path, RESULTS)


def test_the_report_says_the_numbers_against_the_baselines(report):
    text = report.read_text()
    assert text.startswith(
        "# playground-64\n\nOn val-new-new, difficulty 0.5: mask IoU pooled 0.5000 (+0.3570 on the "
        "colour threshold's 0.1430); "
        "depth RMSE log 0.2000 (0.50 × the mean depth picture's 0.4000).\n"
    )
    for row in (
        "| mask | val-new-new | IoU pooled | **0.5000** | 0.1430 (colour threshold) | +0.3570 |",
        "| depth | val-seen-seen | RMSE log | **0.2000** | 0.4000 (mean depth picture) | 0.50 × |",
        "| difficulty | 0.5000 |",
        "| val-new-new | 400 | 0.5000 | 0.0500 |",
        "| best | `a\\|1` 0.9000 |",
        "| training | 128 samples/s |",
        "| waiting for data | 20.0% of the time |",
        "| memory, at most | 1.0 GiB of 8.0 GiB |",
        "| torch | 2.13.0 |",
        "  steps: 60",
    ):
        assert row in text


def test_regions_stand_under_one_another(report):
    text = report.read_text()
    assert "| all pixels | 400 |" in text or "| all pixels | 0.2000 |" in text
    assert re.search(r"\| foreground \| .*0\.1100", text)


def test_every_picture_that_is_shown_is_there_and_readable(report):
    shown = re.findall(r"!\[.*?\]\((.*?)\)", report.read_text())
    drawn = [path for path in shown if path != "report/mask-best.png"]
    assert {"report/mask-loss.png", "report/mask-iou-pooled.png", "report/memory-gib.png"} <= set(
        drawn
    )
    for path in drawn:
        assert cv2.imread(str(report.parent / path)) is not None


def test_a_report_made_again_from_the_folder_is_the_same(report):
    before = {
        path: path.read_bytes()
        for path in report.parent.rglob("*")
        if path.is_file() and path.name != "metrics.jsonl"
    }
    results = json.loads((report.parent / PICTURES / RESULTS_NAME).read_bytes())
    write_report(report.parent, results)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_without_a_log_or_a_validation_has_a_report_too(tmp_path):
    results = {"tasks": RESULTS["tasks"], "splits": {}}
    text = write_report(tmp_path, results).read_text()
    assert "Nothing was validated yet." in text
    assert "![" not in text
    assert outcome(json.loads(json.dumps(results))) == "Nothing was validated yet."


def test_curves_pass_over_nulls_and_take_the_later_of_two_lines(tmp_path):
    records = [{"step": 2, "a": 1.0}, {"step": 1, "a": None, "b": 3}, {"step": 2, "a": 5.0}]
    series = collect(records)
    assert (series["a"].steps, series["a"].values) == ([2], [5.0])
    assert (series["b"].steps, series["b"].values) == ([1], [3.0])


def test_a_long_run_is_drawn_with_few_points(tmp_path):
    records = ({"step": step, "loss/mask": 1.0 + step % 7} for step in range(1, 20_001))
    drawn = draw_curves(
        collect(records), tmp_path, metrics={"mask": []}, baseline_names={}, resumed_at=[]
    )
    assert list(drawn) == ["mask: loss"]
    assert drawn["mask: loss"].stat().st_size > 5000


def test_versions_name_what_decides_the_numbers():
    assert {"wdtrain", "python", "torch", "kornia", "accelerate"} <= set(versions())
