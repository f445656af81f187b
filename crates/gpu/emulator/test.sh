#!/bin/sh
# Builds the kernels' checks against float64 into a folder and runs them: `crates/gpu/emulator/test.sh OUT`. About 25 s on a
# core. Exit code 77: there is no g++.
set -eu
[ $# = 1 ] || { echo "usage: test.sh OUT" >&2; exit 2; }
command -v g++ > /dev/null || { echo "no g++: the kernels cannot be checked" >&2; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
sed -nE 's/^KERNEL ([a-z_0-9]+)\(.*/ENTRY(\1)/p' "$here"/../src/*.cu > "$out/kernels.list"
g++ -O2 -march=native -std=c++17 -fno-strict-aliasing -Wall -Wno-unused-function -Wno-unknown-pragmas -I"$out" "$here/test.cpp" \
    -o "$out/kernels-test"
exec "$out/kernels-test"
