"""Reads event files back with the tensorboard package and holds them against the records of the same run.

    promptbed run SUITE --out DIR --tensorboard EVENTS
    pip install tensorboard && python scripts/check_tensorboard.py DIR EVENTS

Every trained trial of DIR must have its curves in EVENTS: a loss and a learning rate for each step and epoch, epoch
values and accuracies equal to the record's (event files hold single precision), and the epoch's loss the mean of its
steps'. Leaves with 1 where anything differs.
"""

import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# A float32 of each number; the mean of float32 losses adds no more.
RELATIVE = 1e-6


def close(a, b):
    return abs(a - b) <= RELATIVE * max(abs(a), abs(b), 1e-3)


def check(record, folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]

    def series(tag):
        return [(e.step, e.value) for e in events.Scalars(tag)] if tag in tags else []

    wrong = []
    steps, epochs = record["cost"]["steps"], len(record["losses"])
    for tag, count in (("step/loss", steps), ("step/learning_rate", steps), ("epoch/loss", epochs), ("epoch/learning_rate", epochs)):
        found = [s for s, _ in series(tag)]
        if found != list(range(1, count + 1)):
            wrong.append(f"{tag}: steps {found[:3]}..{found[-1:]}, not 1..{count}")
    for tag, values in (("epoch/loss", record["losses"]), ("epoch/learning_rate", record["learning_rates"])):
        for (step, seen), kept in zip(series(tag), values):
            if not close(seen, kept):
                wrong.append(f"{tag} {step}: {seen}, the record has {kept}")
    if epochs and not wrong:
        each = steps // epochs
        losses = [v for _, v in series("step/loss")]
        rates = [v for _, v in series("step/learning_rate")]
        for i, kept in enumerate(record["losses"]):
            mean = sum(losses[i * each:(i + 1) * each]) / each
            if not close(mean, kept):
                wrong.append(f"steps of epoch {i + 1} have a mean loss of {mean}, the record {kept}")
            if any(not close(r, record["learning_rates"][i]) for r in rates[i * each:(i + 1) * each]):
                wrong.append(f"a step of epoch {i + 1} has another learning rate than the record")
    for test in record["tests"]:
        tag = f"accuracy/{test['dataset']}/{test['class_set']}"
        accuracy = 100 * test["correct"] / test["total"]
        seen = series(tag)
        if len(seen) != 1 or seen[0][0] != steps or not close(seen[0][1], accuracy):
            wrong.append(f"{tag}: {seen}, the record has {accuracy} after {steps} steps")
    return wrong, steps, epochs, len(record["tests"])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    results, events = map(pathlib.Path, sys.argv[1:])
    files = sorted((results / "trials").glob("*.json"))
    wrong, counts = [], [0, 0, 0, 0]
    for file in files:
        record = json.loads(file.read_text())
        if record["outcome"]["status"] != "finished":
            continue
        told, *found = check(record, events / record["key"])
        counts = [a + b for a, b in zip(counts, [1, *found])]
        wrong += [f"{record['key']}: {line}" for line in told]
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    print("{} trials, {} steps, {} epochs, {} tests; {} differences".format(*counts, len(wrong)))
    sys.exit(1 if wrong or not counts[0] else 0)


main()
