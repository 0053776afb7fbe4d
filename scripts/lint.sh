#!/usr/bin/env bash
# Format, lint, types and import rules. All run even if one fails; the exit code tells whether any did.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()
run() { # name, command…
    local name=$1 started=$SECONDS
    shift
    echo "[lint] $name"
    "$@" || failed+=("$name")
    ((SECONDS - started < 5)) || echo "[lint] $name took $((SECONDS - started)) s"
}

# Imports are looked up in the source folders, whatever else is on the path of this shell.
export PYTHONPATH=.
run "format" .venv/bin/ruff format --check --output-format concise .
run "ruff" .venv/bin/ruff check --output-format concise .
# ROS 2 Humble has Python 3.10; ruff rejects newer syntax, vermin newer names of the standard library.
run "names of Python 3.10" .venv/bin/vermin --quiet --no-tips --violations --eval-annotations --target=3.10- \
    xsam xsam_ros xsam_agent_tools xsam_server support examples benchmarks
echo "[lint] types take about a minute the first time"
run "types" .venv/bin/mypy
run "import rules" .venv/bin/lint-imports --no-logo

if ((${#failed[@]})); then
    printf '[lint] FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "[lint] all passed"
