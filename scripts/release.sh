#!/usr/bin/env bash
# Build what a release consists of, in dist/: source archive, wheel, and a bill of materials in CycloneDX format.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TOOLS=.venv-extras/release
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' xsam/version.py)
readonly bom=dist/xsam-$version.cdx.json

rm -rf dist
echo "[release] source archive and wheel"
.venv/bin/uv build --quiet --no-build-isolation --python .venv/bin/python --out-dir dist

if [[ ! -f $TOOLS/.installed || $TOOLS/.installed -ot requirements/release.lock ]]; then
    .venv/bin/python -m venv --clear "$TOOLS"
    "$TOOLS/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps \
        --require-hashes --requirement requirements/release.lock
    touch "$TOOLS/.installed"
fi
echo "[release] bill of materials"
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
.venv/bin/python scripts/dependencies.py pins >"$pins"
# The dependencies of the project itself, about which it warns, are added in the last step.
PYTHONWARNINGS=ignore "$TOOLS/bin/cyclonedx-py" requirements "$pins" --pyproject pyproject.toml --mc-type library \
    --output-reproducible --output-file "$bom"
.venv/bin/python scripts/dependencies.py complete "$bom"

(cd dist && sha256sum ./*.whl ./*.tar.gz ./*.json | tee SHA256SUMS)
