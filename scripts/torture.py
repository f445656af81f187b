"""What scripts/torture.sh runs; needs only Python's own library and, for some parts, root on Linux."""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SUITE = """
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures", "drawn-satellite", "drawn-food"]
shots    = [1, 2]
seeds    = [1, 2]
views    = { cached = 2 }

[[method]]
name   = "maple"
epochs = 2

[[method]]
name   = "coop"
epochs = 3

[[method]]
name   = "promptsrc"
epochs = 2

[[method]]
name   = "tpt"
config = { views = 4, keep = 0.5 }

[[method]]
name   = "zero-shot"
"""
# Shares its zero-shot trials with SUITE, so that both want the same ones.
OTHER = """
version  = 1
protocol = "base-to-novel"
datasets = ["drawn-textures", "drawn-satellite"]
shots    = [1]
seeds    = [1, 2]

[[method]]
name   = "coop"
epochs = 2

[[method]]
name   = "zero-shot"
"""
WORKERS = 4
AT_WORK = ["--jobs", "1", "--threads", "1", "--checkpoint-every", "0.5"]


class Broken(Exception):
    """Something did not hold."""


def holds(is_so, what):
    if not is_so:
        raise Broken(what)


class Bed:
    """A temporary folder, and the program run in it."""

    def __init__(self, binary, folder, chance):
        self.binary, self.folder, self.chance = str(binary), folder, chance
        (folder / "suite.toml").write_text(SUITE)
        (folder / "other.toml").write_text(OTHER)

    def command(self, *arguments):
        return [self.binary, *map(str, arguments)]

    def run(self, *arguments, code=0, wrap=()):
        command = [*wrap, *self.command(*arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=600)
        told = f"{' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}"
        holds(done.returncode == code, told)
        return done

    def start(self, *arguments, wrap=()):
        command = [*wrap, *self.command(*arguments)]
        null = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=self.folder, stdout=null, stderr=null)

    def tables(self, results):
        return {p.name: p.read_bytes() for p in (self.folder / results / "tables").iterdir()}

    def records(self, results):
        found = {}
        for path in (self.folder / results / "trials").iterdir():
            record = json.loads(path.read_text())
            for field in ["cost", "checksum", "provenance", "suite", "suite_hash"]:
                record.pop(field)
            for test in record["tests"]:
                test.pop("seconds")
            found[path.name] = record
        return found

    def holders(self, results):
        """Processes that hold claims now."""
        pids = []
        for path in (self.folder / results).glob("claims/*.json"):
            try:
                pids.append(json.loads(path.read_text())["process"]["pid"])
            except (FileNotFoundError, ValueError):
                pass
        return pids

    def left_over(self, results):
        root = self.folder / results
        odd = [p for p in root.rglob("*") if p.is_file() and p.name.startswith(".")]
        for name in ["claims", "workers", "checkpoints", "damaged"]:
            if (root / name).is_dir():
                odd += list((root / name).iterdir())
        return [str(p.relative_to(root)) for p in odd]

    def same(self, results, whole="whole"):
        """As the undisturbed run left it, and nothing else."""
        ours, theirs = self.records(results), self.records(whole)
        holds(ours.keys() == theirs.keys(), f"{results}: {len(ours)} records, not {len(theirs)}")
        other = [name for name in ours if ours[name] != theirs[name]]
        holds(not other, f"{results}: other results in {other}")
        holds(self.tables(results) == self.tables(whole), f"{results}: other tables")
        holds(not self.left_over(results), f"{results}: left over: {self.left_over(results)}")


class Log:
    """What workers say of trials, and what is done to workers, in one order."""

    def __init__(self, path):
        self.path = path

    def add(self, what, pid):
        with open(self.path, "a") as file:
            file.write(json.dumps({"what": what, "pid": pid, "key": ""}) + "\n")

    def count(self):
        """Begun, ended, begun while another living worker was at it, begun after it was ended."""
        at, ended, killed = {}, set(), set()
        begun = both = again = 0
        for line in self.path.read_text().splitlines():
            told = json.loads(line)
            what, pid, key = told["what"], told["pid"], told["key"]
            if what == "kill":
                killed.add(pid)
            elif what == "begin":
                begun += 1
                both += any(other not in killed for other in at.get(key, set()) - {pid})
                again += key in ended
                at.setdefault(key, set()).add(pid)
            else:
                at[key].discard(pid)
                if what == "end":
                    ended.add(key)
        return begun, len(ended), both, again


def damage(bed, path):
    """Cuts a file anywhere or flips some of its bits."""
    data = bytearray(path.read_bytes())
    if bed.chance.random() < 0.5:
        data = data[: bed.chance.randrange(len(data))]
    else:
        for _ in range(bed.chance.choice([1, 1, 2, 8])):
            data[bed.chance.randrange(len(data))] ^= 1 << bed.chance.randrange(8)
    path.write_bytes(data)


def kill(bed, kills):
    """kill -9 at random moments over four workers; now and then a polite SIGTERM, which may leave checkpoints."""
    done = rounds = terms = hurt = begun = 0
    while done < kills:
        rounds += 1
        name = f"killed-{rounds}"
        log = Log(bed.folder / f"{name}.log")
        first = ["run", "suite.toml", "--out", name, *AT_WORK, "--log", log.path]
        more = ["worker", name, *AT_WORK, "--log", log.path]
        crew = [bed.start(*first)]
        plan = bed.folder / name / "suites" / "suite" / "plan.json"
        while True:
            time.sleep(bed.chance.choice([0.01, 0.05, 0.2, 0.5]))
            if plan.exists() and len(crew) < WORKERS:
                crew.append(bed.start(*more))
            if crew[0].poll() == 0:
                break
            for i, worker in enumerate(crew):
                code = worker.poll()
                holds(code in (None, 0, -9, -15, 75, 130, 143), f"a worker ended with {code}")
                if code is not None:
                    crew[i] = bed.start(*(more if i else first))
            victim = crew[bed.chance.randrange(len(crew))]
            if bed.chance.random() < 0.8:
                # Most of them at work, the others while they start or end.
                at = [w for w in crew if w.pid in bed.holders(name)]
                victim = bed.chance.choice(at) if at else victim
                if not at and bed.chance.random() < 0.9:
                    continue
            if done >= kills or victim.poll() is not None:
                continue
            if bed.chance.random() < 0.15:
                victim.send_signal(signal.SIGTERM)
                terms += 1
                continue
            log.add("kill", victim.pid)
            victim.kill()
            victim.wait()
            done += 1
            stored = list((bed.folder / name).glob("checkpoints/*"))
            if stored and bed.chance.random() < 0.5:
                try:
                    damage(bed, bed.chance.choice(stored))
                    hurt += 1
                except (FileNotFoundError, ValueError):
                    pass
        for worker in crew[1:]:
            worker.wait()
        bed.run("run", "suite.toml", "--out", name)
        bed.same(name)
        count = log.count()
        holds(count[2] == 0, f"{name}: {count[2]} trials were begun while a living worker was at them")
        holds(count[3] == 0, f"{name}: {count[3]} trials were begun after they were ended")
        begun += count[0]
        shutil.rmtree(bed.folder / name)
    trials = rounds * len(bed.records("whole"))
    return (
        f"{done} kills and {terms} SIGTERM in {rounds} sweeps of {WORKERS} workers: {begun} begins for {trials} trials, "
        f"{hurt} checkpoints damaged; none twice by two living workers, none after its end"
    )


def mounted(bed, name, size):
    """A small disk in memory at `name`, or None where that may not be made."""
    folder = bed.folder / name
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return folder if subprocess.run(command, capture_output=True).returncode == 0 else None


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def one_error(done):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    holds(len(lines) == 1, f"{len(lines)} errors: {done.stderr}")


def full_disk(bed):
    sizes = ["32k", "100k", "200k", "400k"]
    for size in sizes:
        name = f"full-{size}"
        folder = mounted(bed, name, size)
        if folder is None:
            return "SKIPPED: no small disk may be mounted here (root on Linux can)"
        try:
            done = bed.run("run", "other.toml", "--out", f"{name}/out", code=2)
            one_error(done)
            holds("No space left" in done.stderr, done.stderr)
            remount(folder, "size=64m")
            bed.run("run", "other.toml", "--out", f"{name}/out")
            bed.same(f"{name}/out", "other")
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    return f"{len(sizes)} disks that filled up ({', '.join(sizes)}): one error each, whole once there was room"


def read_only(bed):
    folder = mounted(bed, "read-only", "64m")
    if folder is None:
        if os.geteuid() == 0:
            return "SKIPPED: root writes everywhere, and no disk may be mounted here"
        folder = bed.folder / "read-only"
    out = folder / "out"
    shutil.copytree(bed.folder / "other", out)
    gone = sorted((out / "trials").iterdir())[0]
    gone.unlink()
    is_disk = os.path.ismount(folder)
    try:
        if is_disk:
            remount(folder, "ro")
        else:
            subprocess.run(["chmod", "-R", "a-w", str(out)], check=True)
        for command in [["run", "other.toml", "--out", "read-only/out"], ["worker", "read-only/out"]]:
            one_error(bed.run(*command, code=2))
        told = json.loads(bed.run("status", "read-only/out", "--json").stdout)
        holds(told["left"] == 1, told)
        if is_disk:
            remount(folder, "rw")
        else:
            subprocess.run(["chmod", "-R", "u+w", str(out)], check=True)
        bed.run("worker", "read-only/out")
        bed.same("read-only/out", "other")
    finally:
        if is_disk:
            subprocess.run(["umount", str(folder)], check=True)
    return "run and worker end with one error, status reads, nothing is lost"


def clocks(bed):
    """A worker whose clocks are 100 days ahead is another machine to the others; files get times of 1970 and 2100."""
    days = 8_640_000
    wrap = ["unshare", "--time", "--monotonic", str(days), "--boottime", str(days), "--fork", "--kill-child"]
    if subprocess.run([*wrap, "true"], capture_output=True).returncode != 0:
        return "SKIPPED: clocks of a process may not be moved here (root on Linux can)"
    log = Log(bed.folder / "clocks.log")
    own = [*AT_WORK, "--silence", "3", "--log", log.path]
    crew = [bed.start("run", "suite.toml", "--out", "clocks", *own)]
    plan = bed.folder / "clocks/suites/suite/plan.json"
    while not plan.exists():
        time.sleep(0.01)
    crew += [bed.start("worker", "clocks", *own, wrap=wrap) for _ in range(2)]
    killed = False
    while crew[0].poll() is None:
        time.sleep(0.05)
        for path in [*bed.folder.glob("clocks/claims/*"), *bed.folder.glob("clocks/workers/*")]:
            try:
                os.utime(path, [(0, 0), (4_102_444_800, 4_102_444_800)][bed.chance.randrange(2)])
            except FileNotFoundError:
                pass
        if not killed and len(list(bed.folder.glob("clocks/workers/*.json"))) == 3:
            children = subprocess.run(["pgrep", "-P", str(crew[1].pid)], capture_output=True, text=True)
            for pid in map(int, children.stdout.split()):
                log.add("kill", pid)
                os.kill(pid, signal.SIGKILL)
            killed = True
    holds(killed, "the sweep was over before its workers were there")
    for worker in crew[1:]:
        worker.wait()
    holds(crew[0].returncode == 0, f"run ended with {crew[0].returncode}")
    count = log.count()
    holds(count[2] == count[3] == 0, f"{count[2]} begun twice at once, {count[3]} after their end")
    # What the killed one left is another machine's, and goes once it was silent for long enough.
    start = time.monotonic()
    while bed.left_over("clocks") and time.monotonic() - start < 60:
        bed.run("worker", "clocks", "--silence", "3")
        time.sleep(1)
    return f"three workers, two of them {days // 86_400} days ahead, one of those killed; times of files at 1970 and 2100"


def two_suites(bed):
    crew = [bed.start("run", s, "--out", "both", *AT_WORK) for s in ["suite.toml", "other.toml"] * 2]
    for worker in crew:
        worker.wait()
        holds(worker.returncode == 0, f"run ended with {worker.returncode}")
    expected = {**bed.records("whole"), **bed.records("other")}
    holds(bed.records("both") == expected, "other records than of both suites")
    for suite, text in [("suite", SUITE), ("other", OTHER)]:
        holds((bed.folder / f"both/suites/{suite}/suite.toml").read_text() == text, f"{suite} is lost")
    holds(not bed.left_over("both"), f"left over: {bed.left_over('both')}")
    told = json.loads(bed.run("status", "both", "--json").stdout)
    holds(told["finished"] == told["trials"] == len(expected), told)
    return f"four processes, two suites: {len(expected)} trials of both, each suite's text and plan kept"


def damaged(bed):
    """Records cut at every length and with bits flipped: none is believed, all run again."""
    shutil.copytree(bed.folder / "other", bed.folder / "hurt")
    paths = sorted((bed.folder / "hurt/trials").iterdir(), key=lambda p: p.stat().st_size)
    whole = {path: path.read_bytes() for path in paths}
    longest = max(map(len, whole.values()))

    def refused(change):
        for path, data in whole.items():
            path.write_bytes(change(bytearray(data)))
        told = json.loads(bed.run("status", "hurt", "--json").stdout)
        holds(len(told["damaged"]) == len(paths), f"{len(told['damaged'])} of {len(paths)} are taken for damaged")

    # Every length of every record up to the shortest, and on to the longest.
    lengths = list(range(longest))
    for length in lengths[:: max(1, longest // 400)]:
        refused(lambda data, length=length: data[: min(length, len(data) - 1)])
    flips = 0

    def flip(data):
        nonlocal flips
        for _ in range(bed.chance.choice([1, 1, 1, 2, 8])):
            data[bed.chance.randrange(len(data))] ^= 1 << bed.chance.randrange(8)
        flips += 1
        return data

    for _ in range(100):
        # Two flips of the same bit are none.
        refused(lambda data: next(d for d in iter(lambda: flip(bytearray(data)), None) if d != data))
    done = bed.run("run", "other.toml", "--out", "hurt")
    holds(f"{len(paths)} damaged records were set aside" in done.stderr, done.stderr)
    kept = list((bed.folder / "hurt/damaged").iterdir())
    holds(len(kept) == len(paths), f"{len(kept)} kept")
    shutil.rmtree(bed.folder / "hurt/damaged")
    bed.same("hurt", "other")
    return f"{len(lengths[:: max(1, longest // 400)]) * len(paths)} cuts and {flips} flips refused, {len(paths)} trials repeated"


def main():
    about = argparse.ArgumentParser()
    about.add_argument("--kills", type=int, default=300)
    about.add_argument("--seed", type=int, default=1)
    about.add_argument("--binary", type=pathlib.Path, default=pathlib.Path("target/release/promptbed"))
    about.add_argument("--keep", action="store_true", help="keep the temporary folder")
    about.add_argument("--only", action="append", help="this part only")
    told = about.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="torture-"))
    bed = Bed(told.binary.resolve(), folder, random.Random(told.seed))
    failed = False
    try:
        start = time.monotonic()
        bed.run("run", "suite.toml", "--out", "whole")
        bed.run("run", "other.toml", "--out", "other")
        print(f"undisturbed: {len(bed.records('whole'))} trials in {time.monotonic() - start:.0f} s", flush=True)
        parts = {
            "kill -9": lambda: kill(bed, told.kills),
            "full disk": lambda: full_disk(bed),
            "read-only folder": lambda: read_only(bed),
            "clocks": lambda: clocks(bed),
            "two suites": lambda: two_suites(bed),
            "damaged records": lambda: damaged(bed),
        }
        for name, part in parts.items():
            if told.only and name not in told.only:
                continue
            start = time.monotonic()
            try:
                said = part()
            except Broken as broken:
                failed, said = True, f"FAILED: {broken}"
            print(f"{name}: {said} ({time.monotonic() - start:.0f} s)", flush=True)
    finally:
        if not told.keep and not failed:
            shutil.rmtree(folder)
        else:
            print(f"kept: {folder}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
