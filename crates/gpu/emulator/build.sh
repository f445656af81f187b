#!/bin/sh
# Builds the null driver into a folder: one library with every symbol, and the names that programs look for.
#
#   crates/gpu/emulator/build.sh OUT
#   LD_LIBRARY_PATH=OUT promptbed ... --device cuda
#
# The names are empty libraries that need the one with the symbols: looked up through any of them, a symbol is found there,
# and there is one state whichever way they were opened. About 15 s on a core; nothing is done where nothing changed, and
# two may build into one folder at once. Exit code 77: there is no g++.
set -eu
[ $# = 1 ] || { echo "usage: build.sh OUT" >&2; exit 2; }
command -v g++ > /dev/null || { echo "no g++: the null driver cannot be built" >&2; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
sources=$(cd "$here/../src" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
# The last file written: what is newer than it was changed since.
stamp="$out/libcublasLt.so.13"
[ -e "$stamp" ] && [ -z "$(find "$here" "$sources"/*.cu -newer "$stamp")" ] && exit 0
work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Every kernel of the sources, so that the driver can miss none.
sed -nE 's/^KERNEL ([a-z_0-9]+)\(.*/ENTRY(\1)/p' "$sources"/*.cu > "$work/kernels.list"

compile() {
    g++ -O3 -march=native -std=c++17 -fPIC -fvisibility=hidden -fno-strict-aliasing -Wall -Wno-unused-function \
        -Wno-unknown-pragmas -c "$@"
}
compile "$here/driver.cpp" -I"$work" -o "$work/driver.o" &
driver=$!
compile "$here/libraries.cpp" -Wa,-I"$sources" -o "$work/libraries.o"
wait $driver
g++ -shared -o "$work/libpromptbed_null.so" "$work/driver.o" "$work/libraries.o" -Wl,-soname,libpromptbed_null.so
for name in libcuda.so libcuda.so.1 libnvrtc.so libnvrtc.so.12 libnvrtc.so.13 libcublasLt.so libcublasLt.so.12 \
            libcublasLt.so.13; do
    g++ -shared -o "$work/$name" -x c /dev/null -Wl,-soname,$name -Wl,--no-as-needed -L"$work" -lpromptbed_null \
        '-Wl,-rpath,$ORIGIN'
done
# Moved, not written in place: a program that runs on the old ones keeps them.
mv "$work"/libpromptbed_null.so "$out/"
mv "$work"/libcuda.so* "$work"/libnvrtc.so* "$out/"
mv "$work"/libcublasLt.so "$work"/libcublasLt.so.12 "$out/"
mv "$work"/libcublasLt.so.13 "$out/"
