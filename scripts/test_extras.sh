#!/usr/bin/env bash
# Run the tests of optional packages that do not fit into .venv, each set in an environment of its own.
#
#     scripts/test_extras.sh                 all sets
#     scripts/test_extras.sh rosa providers  some of them
#
# The newest versions are taken, so a failure may come from a new release of theirs. The tests of launch files need
# a ROS installation instead: colcon test, or python3 -m pytest tests/ros.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TEST_TOOLS=(hypothesis "pytest>=8.4" pytest-asyncio pytest-timeout langchain-tests)
torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/all.lock)

declare -A PACKAGES=(
    [rosa]="jpl-rosa --requirement requirements/ros.in" # its tools import rclpy
    [rai]="rai-core"
    [adapters]="langchain langchain-mcp-adapters" # a client of version 1 of the MCP package
    [providers]="langchain langchain-openai langchain-anthropic langchain-google-genai langchain-ollama
        langchain-mistralai langchain-aws"
    [torchao]="torchao $torch"
    [label_studio]="label-studio-sdk"
    [rerun]="rerun-sdk"
)
declare -A EXTRA=([rosa]=agent [rai]=agent [adapters]=agent [providers]=agent [torchao]=model,agent [label_studio]=server [rerun]=media)
declare -A TESTS=(
    [rosa]=tests/agent/test_rosa.py
    [rai]=tests/agent/test_rai.py
    [adapters]=tests/agent/mcp/test_adapters.py
    [providers]=tests/agent/test_providers.py
    [torchao]=tests/unit/inference/test_acceleration.py
    [label_studio]=tests/server/test_outlines.py
    [rerun]=tests/unit/media/test_rerun_sink.py
)

run_set() {
    local name=$1 venv=.venv-extras/$1
    local installed=$venv/.installed
    if [[ ! -f $installed || $installed -ot pyproject.toml ]]; then
        echo "[test-extras] $name: installing ${PACKAGES[$name]} into $venv"
        .venv/bin/python -m venv --clear "$venv" || return 1
        # shellcheck disable=SC2086
        "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-compile \
            "${TEST_TOOLS[@]}" ${PACKAGES[$name]} --editable ".[${EXTRA[$name]}]" || return 1
        touch "$installed"
    fi
    echo "[test-extras] $name: ${TESTS[$name]}"
    # A skipped test has not run: that is a failure here.
    (
        export VIRTUAL_ENV=$PWD/$venv PATH=$PWD/$venv/bin:$PATH
        # shellcheck source=/dev/null
        source scripts/ros/env.sh
        exec python -m pytest -q -rs "${TESTS[$name]}"
    ) | tee "$venv/output.txt"
    [[ ${PIPESTATUS[0]} == 0 ]] && ! grep -q '^SKIPPED.*could not import' "$venv/output.txt"
}

sets=("$@")
((${#sets[@]})) || sets=(rosa rai adapters providers torchao label_studio rerun)
failed=()
for name in "${sets[@]}"; do
    [[ -n ${PACKAGES[$name]:-} ]] || { echo "[test-extras] no set $name; there are: ${!PACKAGES[*]}" >&2; exit 2; }
    run_set "$name" || failed+=("$name")
done
if ((${#failed[@]})); then
    echo "[test-extras] FAILED: ${failed[*]}"
    exit 1
fi
echo "[test-extras] all passed: ${sets[*]}"
