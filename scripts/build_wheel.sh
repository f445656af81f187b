#!/usr/bin/env bash
# Builds the Python wheel that carries the program and tries it in a fresh virtual environment.
#
#     scripts/build_wheel.sh [FOLDER]     the wheel goes to FOLDER, else to target/wheels
#
# Needs Python with venv, and what the program itself needs. maturin comes from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(realpath -m "${1:-target/wheels}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/build"
"$work/build/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9,<2'
"$work/build/bin/maturin" build --release --out "$work/wheel"
wheel=$(echo "$work"/wheel/promptbed-*.whl)

# Away from the checkout, and without an index: the wheel needs nothing else.
python3 -m venv "$work/try"
"$work/try/bin/pip" install --quiet --disable-pip-version-check --no-index "$wheel"
(
    cd "$work"
    "$work/try/bin/promptbed" --version
    "$work/try/bin/promptbed" run --help > help.txt
    grep --quiet -- '--dry-run' help.txt
    "$work/try/bin/promptbed" methods > methods.txt
    grep --quiet coop methods.txt
)

mkdir -p "$out"
mv "$wheel" "$out"
stat --format '%n: %s bytes, installs and runs' "$out/$(basename "$wheel")"
