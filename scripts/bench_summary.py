#!/usr/bin/env python3
"""Prints the table of scripts/bench_side_by_side.sh from the lines it wrote.

    bench_summary.py LINES.jsonl
"""

import json
import statistics
import sys

# Goals: published seconds / ours, by portable arithmetic and on the matrix unit; of encoding, against torch's
# inference_mode. The last row: both round what goes into products to bfloat16, ours as a setting, torch by autocast; its
# share is of the machine's products of float32's grade.
ROWS = [
    ("CoOp step, batch 32, fresh views", "coop", "fresh", 2.3, 4),
    ("CoOp step, batch 32, cached views", "coop", "cached", 40, 60),
    ("CoCoOp step, batch 1", "cocoop", "fresh", 12, 16),
    ("CoCoOp evaluation, 4 images", "cocoop-eval", "fresh", 12, 15),
    ("MaPLe step, batch 4", "maple", "fresh", 4.5, 7),
    ("PromptSRC step, batch 4", "promptsrc", "fresh", 3.5, 6),
    ("TPT, one image, 64 views", "tpt", "fresh", 2.2, 3.5),
    ("Image encoding, 16 images", "encode", "fresh", 1.8, 2.7),
    ("Extra: image encoding in bfloat16, 16 images", "encode-bf16", "fresh", None, 1.3),
]


def told(lines, field, otherwise):
    """What all lines that have it say of `field`: one value, or several with "and" between."""
    return " and ".join(sorted({one[field] for one in lines if field in one})) or otherwise


def main():
    groups, lines = {}, [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
    for one in lines:
        groups.setdefault((one["method"], one.get("mode") or one["views"]), []).append(one)

    def median(method, mode, field):
        found = groups.get((method, mode))
        return statistics.median(one[field] for one in found) if found else float("nan")

    ours = [one for one in lines if "mode" not in one]
    theirs = [one for one in lines if "mode" in one]
    # Older programs knew the portable arithmetic alone.
    arithmetic = told(ours, "arithmetic", "portable")
    rate = statistics.median(one["machine_gflops"] for one in ours)
    processor = told(ours, "processor", "a processor it does not name")
    print(f"Ours on {processor}: {arithmetic} arithmetic, products at {rate:.0f} GFLOP/s (median).", end=" ")
    print(f"PyTorch {told(theirs, 'torch', '')}: {told(theirs, 'isa', 'vectors not told')}.\n")
    print("| ViT-B/16, 50 classes, float32 | ours, s | published, s | best of torch, s | published / ours | goal |", end="")
    print(" best / ours | ours, MB | published, MB | memory ratio | share of the machine's products |")
    print("|---|" + "--:|" * 10)
    for title, method, views, portable, unit in ROWS:
        if (method, views) not in groups:
            continue
        ours, theirs, best = (median(method, mode, "seconds_per_step") for mode in (views, "published", "best"))
        memory, their_memory = (median(method, mode, "peak_rss_mb") for mode in (views, "published"))
        share = median(method, views, "share")
        goal = unit if arithmetic == "amx" else portable
        print(
            f"| {title} | {ours:.3f} | {theirs:.2f} | {best:.2f} | {theirs / ours:.2f} | {goal or '-'} | {best / ours:.2f} "
            f"| {memory:.0f} | {their_memory:.0f} | {memory / their_memory:.2f} | {100 * share:.0f} % |"
        )


if __name__ == "__main__":
    main()
