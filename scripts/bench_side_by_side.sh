#!/usr/bin/env bash
# Times promptbed and PyTorch in turns on this machine, and writes the medians and their ratios.
#
#   scripts/bench_side_by_side.sh [ROUNDS=3] [OUT=results/bench]
#
# In every round each method runs three times, one after the other, each in a process of its own: ours, the published
# step in PyTorch, and the best that a PyTorch user could easily do (see scripts/bench_torch.py). A slow minute of the
# machine so falls on all three. ViT-B/16, 50 classes, drawn weights, float32, all cores. A round takes about 9 minutes
# on two cores; leave the machine alone meanwhile. Ours multiplies as PROMPTBED_ARITHMETIC says (auto: as this machine does
# fastest; docs/speed.md); the table names it, and what torch found.
#
# Needs: cargo build --release; PYTHON with torch numpy safetensors open_clip_torch [default: python3].
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3}
out=${2:-results/bench}
python=${PYTHON:-python3}
ours=${PROMPTBED:-${CARGO_TARGET_DIR:-target}/release/promptbed}
steps=${STEPS:-2}
mkdir -p "$out"
log="$out/side-by-side.jsonl"
: > "$log"
{
    echo "date: $(date -u +%Y-%m-%d)"
    grep -m1 'model name' /proc/cpuinfo || true
    echo "cores: $(nproc)"
    echo "vectors: $(grep -o -w -E 'avx512f|avx512_bf16|amx_tile|amx_bf16' /proc/cpuinfo | sort -u | tr '\n' ' ')"
    echo "memory: $(awk '/MemTotal/ {printf "%.0f GB", $2 / 1e6}' /proc/meminfo)"
    echo "rounds: $rounds, steps a round: $steps after a warm-up"
    echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"
    "$python" -c 'import torch; print("torch:", torch.__version__)'
    echo "asked for: ${PROMPTBED_ARITHMETIC:-portable}"
} > "$out/machine.txt"

methods="encode coop cocoop cocoop-eval maple promptsrc tpt"
# An extra row where the processor can: the same pictures with products in bfloat16, on both sides.
if grep -q -w -E 'avx512_bf16|amx_bf16' /proc/cpuinfo; then methods="$methods encode-bf16"; fi

for round in $(seq "$rounds"); do
    for method in ${METHODS:-$methods}; do
        echo "round $round: $method" >&2
        "$ours" bench --backbone vit-b16 --classes 50 --steps "$steps" --json --method "$method" >> "$log"
        if [ "$method" = coop ]; then
            "$ours" bench --backbone vit-b16 --classes 50 --steps 7 --json --method coop --views cached >> "$log"
        fi
        "$python" scripts/bench_torch.py "$method" --steps "$steps" >> "$log"
        "$python" scripts/bench_torch.py "$method" --steps "$steps" --best >> "$log"
    done
done
echo "load after: $(cut -d' ' -f1-3 /proc/loadavg)" >> "$out/machine.txt"
"$python" scripts/bench_summary.py "$log" | tee "$out/side-by-side.md"
