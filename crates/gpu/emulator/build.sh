#!/bin/sh
# Builds the null driver into a folder: one library with every symbol, and the names that programs look for.
#
#   crates/gpu/emulator/build.sh OUT
#   LD_LIBRARY_PATH=OUT promptbed ... --device cuda
#
# The names are empty libraries that need the one with the symbols: looked up through any of them, a symbol is found there,
# and there is one state whichever way they were opened. Exit code 77: there is no g++.
set -eu
[ $# = 1 ] || { echo "usage: build.sh OUT" >&2; exit 2; }
command -v g++ > /dev/null || { echo "no g++: the null driver cannot be built" >&2; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)

# Every kernel of the sources, so that the driver can miss none.
sed -nE 's/^KERNEL ([a-z_0-9]+)\(.*/ENTRY(\1)/p' "$here/../src/kernels.cu" "$here/../src/attention.cu" > "$out/kernels.list"

compile() { g++ -O3 -march=native -std=c++17 -fPIC -fvisibility=hidden -fno-strict-aliasing -Wall -Wno-unused-function -Wno-unknown-pragmas "$@"; }
compile -c "$here/driver.cpp" -I"$out" -o "$out/driver.o" &
driver=$!
compile -c "$here/libraries.cpp" -Wa,-I"$here/../src" -o "$out/libraries.o"
wait $driver
# Written beside and moved: a program that runs on the old one keeps it.
g++ -shared -o "$out/libpromptbed_null.so.new" "$out/driver.o" "$out/libraries.o" -Wl,-soname,libpromptbed_null.so -lm
mv "$out/libpromptbed_null.so.new" "$out/libpromptbed_null.so"
for name in libcuda.so libcuda.so.1 libnvrtc.so libnvrtc.so.12 libnvrtc.so.13 libcublasLt.so libcublasLt.so.12 libcublasLt.so.13; do
    g++ -shared -o "$out/$name" -x c /dev/null -Wl,-soname,$name -Wl,--no-as-needed -L"$out" -lpromptbed_null '-Wl,-rpath,$ORIGIN'
done
rm "$out/driver.o" "$out/libraries.o"
