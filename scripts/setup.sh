#!/usr/bin/env bash
# Make the development environment: .venv with the locked packages, then the ROS package in it.
# A step whose inputs have not changed is skipped, so running this again costs a second.
# PYTHON=python3.12 chooses the interpreter; otherwise the first of 3.11, 3.12, 3.10 is taken.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMPS=$VENV/.stamps

say() { printf '[setup] %s\n' "$*"; }

fail() {
    printf '[setup] ERROR: %s\n' "$@" >&2
    exit 1
}

# An interpreter may be on the PATH and still not start (version managers leave such stubs).
supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

find_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        supported "$PYTHON" || fail "PYTHON=$PYTHON does not start or is not Python 3.10, 3.11 or 3.12"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.10 python3; do
        if supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.10, 3.11 or 3.12 found; install one, or name it: make setup PYTHON=/path/to/python3.11"
}

check_machine() {
    local python=$1 version missing=()
    version=$(version_of "$python")
    [[ "$(uname -s)" == Linux ]] || fail "the ROS wheels exist for Linux only"
    case ":${AMENT_PREFIX_PATH:-}:" in
        *:/opt/ros/*) fail "a ROS installation is sourced in this shell; use a shell without it" ;;
    esac
    command -v git >/dev/null || missing+=(git)
    command -v make >/dev/null || missing+=(make)
    { command -v cc && command -v c++; } >/dev/null || missing+=(build-essential)
    cmake_is_new_enough || missing+=("cmake (3.19 or newer)")
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python$version-venv")
    "$python" - <<'PY' || missing+=("python$version-dev")
import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())
PY
    if ((${#missing[@]})); then
        fail "missing on this machine (names of Debian and Ubuntu packages):" "${missing[@]/#/    }"
    fi
}

cmake_is_new_enough() {
    local found
    found=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*//p') || return 1
    [[ -n "$found" && "$(printf '3.19\n%s\n' "$found" | sort -V | head -n 1)" == 3.19 ]]
}

# step NAME ESTIMATE FINGERPRINT COMMAND…: run the command unless it succeeded with this fingerprint.
step() {
    local name=$1 estimate=$2 fingerprint=$3 stamp started=$SECONDS
    shift 3
    stamp="$STAMPS/${name// /-}"
    if [[ -f "$stamp" && "$(<"$stamp")" == "$fingerprint" ]]; then
        say "$name: up to date"
        return
    fi
    say "$name ($estimate)"
    rm -f "$stamp"
    "$@"
    mkdir -p "$STAMPS"
    printf '%s\n' "$fingerprint" >"$stamp"
    say "$name: done in $((SECONDS - started)) s"
}

fingerprint() {
    sha256sum "$@" | sha256sum | cut -c1-16
}

make_venv() {
    "$1" -m venv --clear "$VENV"
}

# Every file is checked against the hashes in the lock file. --no-deps: the lock names all dependencies.
pip_install() {
    # Without --no-compile most of the time goes into bytecode of modules that are never imported.
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --progress-bar off \
        --no-compile --no-deps "$@"
}

install_packages() {
    install_torch
    pip_install --require-hashes --requirement requirements/all.lock
    if needs_cuda; then
        pip_install --require-hashes --requirement requirements/cuda.lock
    fi
    "$VENV/bin/python" -m pip check --disable-pip-version-check >/dev/null ||
        fail "the lock file misses a dependency; see $VENV/bin/python -m pip check"
}

needs_cuda() {
    "$VENV/bin/python" - <<'PY'
import importlib.metadata, sys
required = importlib.metadata.requires("torch") or []
sys.exit(not any(item.startswith(("cuda-", "nvidia-", "triton")) for item in required))
PY
}

# With hashes pip prefers the build of the package index, which has CUDA and takes several GB, to a local file
# whose hash it cannot know before reading it. So the preferred build is fetched first, then checked.
install_torch() {
    local folder pin
    folder=$(mktemp -d)
    pin=$(sed -n '/^torch==/,/[^\\]$/p' requirements/all.lock)
    if "$VENV/bin/python" -m pip download --disable-pip-version-check --no-input --quiet --progress-bar off \
        --no-deps --dest "$folder" "${pin%% *}"; then
        echo "$folder"/torch-*.whl $(grep -o -- '--hash=[^ ]*' <<<"$pin") >"$folder/torch.txt"
        pip_install --require-hashes --requirement "$folder/torch.txt" ||
            say "the lock file does not know this build of torch; taking that of the package index"
    fi
    rm -rf "$folder"
}

install_project() {
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --quiet \
        --no-deps --no-build-isolation --editable .
}

main() {
    local python version
    [[ -z "${PYTHON:-}" ]] || python=$(find_python)
    if supported "$VENV/bin/python" && "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        version=$(version_of "$VENV/bin/python")
        if [[ -n "${PYTHON:-}" && "$(version_of "$python")" != "$version" ]]; then
            fail "$VENV is made with Python $version; remove it first: make distclean"
        fi
        check_machine "$VENV/bin/python"
        say "using $VENV with Python $version"
    else
        python=$(find_python)
        version=$(version_of "$python")
        check_machine "$python"
        step "virtual environment" "Python $version, about 5 s" "$version" make_venv "$python"
    fi

    step "packages" "about 3 min, 1.6 GB on disk; several GB more where PyTorch comes with CUDA" \
        "$version $(fingerprint requirements/all.lock requirements/cuda.lock)" install_packages
    step "project" "about 5 s" "$(fingerprint pyproject.toml setup.py xsam/version.py)" install_project
    # The build script knows itself whether its inputs have changed. It takes the active virtual
    # environment if there is one, and that may be another project's.
    env -u VIRTUAL_ENV scripts/ros/build.sh
    say "ready after $SECONDS s"
}

main
