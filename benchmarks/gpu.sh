#!/usr/bin/env bash
# What only a GPU can show, in under 8 minutes on one: plans under a budget, real recoveries, curves that are equal,
# flat memory, two processes on one GPU, and our step beside the bare loop. Without a GPU it is run dry, small, on the CPU.
#   benchmarks/gpu.sh [FOLDER]      writes FOLDER/gpu.md and FOLDER/gpu.json (default: runs/gpu)
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
exec "$PYTHON" benchmarks/gpu.py "${1:-runs/gpu}"
