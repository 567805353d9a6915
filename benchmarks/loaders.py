"""Our reader beside its peers: the same pictures, one run, each with its best honest settings.

Usage: python benchmarks/loaders.py [--repeat 5] [--size 64] [--only NAME,...] [--quick] [--list]
Every reader is a child process in its own environment; the rounds of all are interleaved and one
child runs at a time. Every child first delivers an epoch that is verified pixel by pixel. A peer
that cannot be installed or fails is a line of the table that says why. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
sys.path.insert(1, str(ROOT))

from findings import Keep, add_options, keeper  # noqa: E402
from peers.bench import Settings, measure  # noqa: E402
from peers.environments import Environments  # noqa: E402
from peers.results import ratio_table, table, verdicts  # noqa: E402
from peers.rows import READ_SIZE, WORKERS, rows_at  # noqa: E402

from wdtrain.scenes.playground import SMALLEST_SIZE  # noqa: E402

QUICK_COUNT, QUICK_SECONDS = 2000, 0.5


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    rows = rows_at(options.size)
    if options.list:
        print("\n".join(f"{row.name:<20}{row.says}" for row in rows))
        return
    wanted = [name for name in options.only.split(",") if name]
    names = {row.name for row in rows}
    unknown = ", ".join(name for name in wanted if name not in names)
    if unknown:
        at = f"--size {options.size}"
        parser.error(f"there is no row {unknown} with {at}; {at} --list prints the names")
    if options.repeat < 0 or options.count < 1:
        parser.error("--repeat must be at least 0 and --count at least 1")
    if options.size < SMALLEST_SIZE:
        parser.error(f"--size must be at least {SMALLEST_SIZE}, the playground's smallest pictures")
    settings = Settings(
        count=QUICK_COUNT if options.quick else options.count,
        size=options.size,
        repeat=min(1, options.repeat) if options.quick else options.repeat,
        seconds=QUICK_SECONDS if options.quick else options.seconds,
        rows=tuple(row for row in rows if not wanted or row.name in wanted),
        workers=(options.workers,) if options.workers else WORKERS,
        cache=options.cache.resolve(),
        environments=Environments(options.envs.resolve(), BENCHMARKS),
    )
    report(settings, keeper(parser, options))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeat", type=int, default=5, help="rounds (default 5); 0: only make and verify")
    add("--count", type=int, default=20_000, help="pictures (default 20,000)")
    add(
        "--size",
        type=int,
        default=READ_SIZE,
        help="pixels a side of the pictures, stored and read (default 64). At another size there "
        "are no rows of 160 px read at 64, and no targets",
    )
    add("--seconds", type=float, default=3.0, help="least length of a reader's turn (default 3)")
    add("--quick", action="store_true", help="2,000 pictures and one short round: does it run?")
    add("--only", default="", metavar="NAME,...", help="these rows alone")
    add("--workers", type=int, choices=WORKERS, help="with so many workers alone")
    add("--list", action="store_true", help="print the names of the rows and stop")
    add("--envs", type=Path, default=ROOT / ".bench-envs", help="where environments are made")
    add("--cache", type=Path, default=ROOT / ".bench-data", help="where data are made")
    add_options(parser)
    return parser


def report(settings: Settings, keep: Keep) -> None:
    """The tables on stdout, and all of it kept."""
    results = measure(settings)
    found = verdicts(results) if settings.size == READ_SIZE else []
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"
    side = f"{settings.size}x{settings.size}"
    print(f"\n{machine}; {settings.count:,} triples of {side}; medians of {settings.repeat}\n")
    print(table(results))
    if found:
        print(f"\n{ratio_table(found)}")
    keep(
        {
            "machine": machine,
            "count": settings.count,
            "size": settings.size,
            "repeat": settings.repeat,
            "seconds": settings.seconds,
            "rows": [result.as_dict() for result in results.values()],
            "ratios": [verdict.as_dict() for verdict in found],
        }
    )


if __name__ == "__main__":
    main()
