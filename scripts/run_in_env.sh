#!/usr/bin/env bash
# Run a command in the environment of this checkout: .venv, the ROS wheels and the built ROS package.
#
#     scripts/run_in_env.sh python -m pytest tests/ros
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

export VIRTUAL_ENV=$root/.venv PATH=$root/.venv/bin:$PATH
# Bytecode is kept, in .venv and not beside the sources: without it every process compiles PyTorch's sources again.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=${PYTHONPYCACHEPREFIX:-$root/.venv/pycache}
# shellcheck source=/dev/null
source "$root/scripts/ros/env.sh"

exec "$@"
