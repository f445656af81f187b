#!/usr/bin/env python3
"""Runs the examples of docs/results.md, and compares its tables of columns with the files.

    check_results_doc.py [RESULTS]      RESULTS: a folder that `promptbed run suites/quick.toml` wrote, in place of
                                        results/quick, which keeps no predictions; without it, examples that read
                                        predictions are counted as left out

Needs: pip install polars duckdb
"""

import re
import sys
from pathlib import Path

import duckdb
import polars as pl

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "results/quick"
TYPES = {pl.String: "text", pl.UInt32: "u32", pl.UInt64: "u64", pl.Float32: "f32", pl.Float64: "f64"}


def columns(section):
    """(name, type) of each row of the section's table, in order; a row may name several columns."""
    rows = re.findall(r"^\| (`.*?) \| (\w+) \|", section, re.MULTILINE)
    return [(name, kind) for names, kind in rows for name in re.findall(r"`(\w+)`", names)]


def newer(section):
    """Names of columns that folders of older versions, as the shipped one, need not have."""
    return set(re.findall(r"^\| `(\w+)` \|.*not in folders of older versions \|$", section, re.MULTILINE))


def compare(told, path, newer=frozenset()):
    found = [(name, TYPES[type(kind)]) for name, kind in pl.read_parquet_schema(path).items()]
    faults = [f"{path}: told but not there: {c}" for c in told if c not in found and c[0] not in newer]
    return faults + [f"{path}: there but not told: {c}" for c in found if c not in told]


def run(language, code):
    if language == "python":
        exec(compile(code, "docs/results.md", "exec"), {})
    else:
        rows = duckdb.sql(code)
        print(rows)
        assert len(rows.fetchall()) > 0, "no row"


def main():
    results = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SHIPPED
    text = (ROOT / "docs/results.md").read_text()
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    trials = sections["`trials.parquet`"]
    faults = compare(columns(trials), results / "trials.parquet", newer(trials))
    predictions = sorted((results / "predictions").glob("*.parquet"))
    if predictions:
        faults += compare(columns(sections["`predictions/<key>.parquet`"]), predictions[0])
    examples = re.findall(r"^```(python|sql)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 4, f"{len(examples)} examples"
    ran = left_out = 0
    for language, code in examples:
        if "predictions" in code and not predictions:
            left_out += 1
            continue
        run(language, code.replace("results/quick", str(results)))
        ran += 1
    print("\n".join(faults) or "the tables of columns are those of the files")
    print(f"{ran} examples ran, {left_out} left out (no predictions in {results})" if left_out else f"{ran} examples ran")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
