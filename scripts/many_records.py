#!/usr/bin/env python3
"""Fills a results folder with as many records as asked for, to see how `status`, `table` and `plot` bear it.

    many_records.py OUT N [--from RESULTS]      RESULTS: a folder with at least one finished trial of two tests and its record
                                                [default: results/quick]

Each is a copy of the record that RESULTS has of its first method that learns, under other labels, datasets, shots and seeds, with
other numbers of right answers, and a checksum of its own. `scripts/many_records.py /tmp/many 100000 && time promptbed status /tmp/many`.
"""

import argparse
import copy
import hashlib
import json
import random
from pathlib import Path

METHODS = [f"method-{i}" for i in range(20)]
DATASETS = [f"dataset-{i}" for i in range(11)]
SHOTS = [1, 2, 4, 8, 16]


def sealed(record):
    body = json.dumps(record, indent=2, ensure_ascii=False)[:-2]
    return f'{body},\n  "checksum": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}'


def main():
    about = argparse.ArgumentParser()
    about.add_argument("out", type=Path)
    about.add_argument("n", type=int)
    about.add_argument("--from", dest="source", type=Path, default=Path("results/quick"))
    told = about.parse_args()
    found = (json.loads(p.read_text()) for p in sorted((told.source / "trials").glob("*.json")))
    fits = (r for r in found if r["shots"] > 0 and len(r["tests"]) == 2 and r["outcome"]["status"] == "finished")
    pattern = next(fits, None)
    if pattern is None:
        about.error(f"{told.source}/trials has no finished trial of two tests; `promptbed run suites/quick.toml` makes some")
    pattern.pop("checksum", None)
    pattern["schema"] = 3
    chance = random.Random(1)
    trials = told.out / "trials"
    trials.mkdir(parents=True)
    planned = []
    each = len(METHODS) * len(DATASETS) * len(SHOTS)
    for i in range(told.n):
        seed, rest = divmod(i, each)
        rest, shots = divmod(rest, len(SHOTS))
        method, dataset = divmod(rest, len(DATASETS))
        record = copy.deepcopy(pattern)
        record.update(method=METHODS[method], dataset=DATASETS[dataset], shots=SHOTS[shots], seed=seed + 1)
        record["key"] = f"{record['method']}-{record['dataset']}-{record['shots']}shot-seed{record['seed']}-{i:010x}"
        for test in record["tests"]:
            test["dataset"] = record["dataset"]
            for one in test["classes"]:
                one["correct"] = chance.randint(one["total"] // 2, one["total"])
            test["correct"] = sum(one["correct"] for one in test["classes"])
        (trials / f"{record['key']}.json").write_text(sealed(record))
        planned.append({k: record[k] for k in ["key", "protocol", "method", "algorithm", "dataset", "shots", "seed"]})
    suite = told.out / "suites" / "many"
    suite.mkdir(parents=True)
    (suite / "plan.json").write_text(json.dumps(planned))


if __name__ == "__main__":
    main()
