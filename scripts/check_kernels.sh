#!/usr/bin/env bash
# Compiles the GPU kernels for real, in each precision, to machine code of several cards; no GPU is needed.
#
#   scripts/check_kernels.sh [FOLDER]
#
# Prints registers, spills and fixed shared memory of each kernel, and fails on an error, a warning or a spill. Machine
# code and not only PTX: it is ptxas that refuses too much shared memory. Then the same through NVRTC, which is what
# compiles them on a user's machine, without any header.
#
# nvcc comes from CUDA_HOME or PATH; else from PyPI's packages (0.5 GB), installed into FOLDER and found there the next
# time, or into a temporary folder. Where neither can be had it says so and exits with 0. NVRTC is tried where
# the packages are.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=$(realpath -m "${1:-$work/cuda}")
packages="$folder/nvidia/cu13"

if [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ]; then
    nvcc="$CUDA_HOME/bin/nvcc"
elif command -v nvcc > /dev/null; then
    nvcc=$(command -v nvcc)
else
    if [ ! -e "$packages/bin/nvcc" ]; then
        # 13.0 fits drivers from 580 on. Only what compiles: no cuBLAS (0.5 GB more).
        { python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
            --target "$folder" 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
            'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-nvrtc==13.0.*'; } >&2 || {
            echo "SKIPPED: no nvcc here, and PyPI's packages cannot be installed: the kernels were NOT compiled" >&2
            exit 0
        }
    fi
    chmod +x "$packages"/bin/* "$packages"/nvvm/bin/* 2> /dev/null || true
    ln -sfn lib "$packages/lib64"          # where nvcc looks
    nvcc="$packages/bin/nvcc"
fi
"$nvcc" --version | tail -n 2 | head -n 1

cat crates/gpu/src/{kernels,attention,pictures}.cu > "$work/kernels.cu"
failed=0
known=$("$nvcc" --list-gpu-code)
for card in sm_80 sm_86 sm_90 sm_100; do
    if ! grep -qx "$card" <<< "$known"; then
        echo "$card: this nvcc does not know it"
        continue
    fi
    for precision in float tf32 half; do
        case $precision in float) define= ;; tf32) define=-DTF32 ;; half) define=-DHALF ;; esac
        # shellcheck disable=SC2086
        if ! "$nvcc" -cubin -arch="$card" -std=c++17 $define -Xptxas -v -o "$work/kernels.cubin" "$work/kernels.cu" 2> "$work/log"; then
            cat "$work/log"
            echo "$card $precision: REFUSED"
            failed=1
            continue
        fi
        grep -iE "warning" "$work/log" && failed=1
        awk -v where="$card $precision" '
            /Compiling entry function/ { split($0, part, "\x27"); name = part[2] }
            /bytes stack frame/ {
                for (i = 1; i <= NF; i++) {
                    if ($(i + 2) == "stack") stack = $i
                    if ($(i + 2) == "spill" && $(i + 3) ~ /stores/) spills = $i
                }
            }
            /Used [0-9]+ registers/ {
                shared = 0
                for (i = 1; i <= NF; i++) {
                    if ($(i + 1) ~ /^registers/) registers = $i
                    if ($(i + 2) ~ /^smem/) shared = $i
                }
                printf "%-12s %-18s %3d registers, %d bytes spilled, %d of stack, %d of fixed shared memory\n", where, name, registers, spills, stack, shared
                kernels++
                if (spills > 0) bad = 1
            }
            END { if (kernels == 0) print where ": no kernel was compiled"; exit bad || kernels == 0 }' "$work/log" || failed=1
    done
done

if [ -e "$packages/lib/libnvrtc.so.13" ]; then
    python3 - "$packages/lib/libnvrtc.so.13" "$work/kernels.cu" << 'PYTHON' || failed=1
import ctypes, glob, os, sys, time
# NVRTC looks for its builtins on the library path only, unless they are there already.
for builtins in glob.glob(os.path.join(os.path.dirname(sys.argv[1]), "libnvrtc-builtins.so.*")):
    ctypes.CDLL(builtins)
nvrtc = ctypes.CDLL(sys.argv[1])
source = open(sys.argv[2], "rb").read()
for architecture in (b"compute_80", b"sm_90"):
    for define in ([], [b"-DTF32"], [b"-DHALF"]):
        options = [b"--gpu-architecture=" + architecture, *define]
        program, size, start = ctypes.c_void_p(), ctypes.c_size_t(), time.time()
        assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None) == 0
        result = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        what = b" ".join([b"NVRTC", *options]).decode()
        if result != 0 or log.value.strip():
            sys.exit(f"{what}: {result}\n{log.value.decode()}")
        print(f"{what}: compiled in {time.time() - start:.1f} s")
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
PYTHON
else
    echo "NVRTC was not tried: no $packages/lib/libnvrtc.so.13"
fi
[ $failed = 0 ] && echo "all kernels compiled" || { echo "FAILED" >&2; exit 1; }
