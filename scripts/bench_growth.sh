#!/usr/bin/env bash
# Measures how a CoOp training step grows with the number of classes, and an evaluation with the number of pictures.
#
#   scripts/bench_growth.sh [OUT=results/bench]
#
# Steps: ViT-B/16 with drawn weights, 32 cached views, so that nothing but the text tower is timed; once as it comes and
# once with the graph held to 500 MB. Evaluations: the CLIP that ships (ViT-B/16 would take two hours for 50,000
# pictures on two cores), pixels through the image tower and logits out, 64 pictures at a time. Each measurement runs in
# a process of its own, as peak memory is the process's. About five minutes on two cores; leave the machine alone
# meanwhile. Writes growth.jsonl, growth.md, growth.svg and growth.png.
#
# Needs: cargo build --release.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results/bench}
ours=${PROMPTBED:-${CARGO_TARGET_DIR:-target}/release/promptbed}
mkdir -p "$out"
log="$out/growth.jsonl"
: > "$log"
for classes in 10 30 100 300 1000; do
    steps=$((classes > 100 ? 2 : 5))
    for bound in "" "--memory 500MB"; do
        # Below about 100 classes the graph takes less anyway.
        if [ -n "$bound" ] && [ "$classes" -lt 100 ]; then continue; fi
        echo "step with $classes classes $bound" >&2
        # shellcheck disable=SC2086
        "$ours" bench --backbone vit-b16 --method coop --views cached --json --steps "$steps" --classes "$classes" $bound >> "$log"
    done
done
for images in ${IMAGES:-1000 10000 50000}; do
    echo "evaluation of $images pictures" >&2
    "$ours" bench --backbone drawn --method coop-eval --json --steps 1 --classes 50 --images "$images" >> "$log"
done
{
    echo "# A training step against classes, an evaluation against pictures"
    echo
    echo "Measured by \`scripts/bench_growth.sh\`, $(date -u +%Y-%m-%d)."
    echo "Drawn weights for ViT-B/16 and 32 cached views a step; the CLIP that ships for evaluations, 64 pictures at a time."
    echo
    "$ours" bench --growth "$log"
    echo "![Time and memory against classes and pictures](growth.svg)"
} > "$out/growth.md"
cat "$out/growth.md"
