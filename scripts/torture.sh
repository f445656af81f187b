#!/bin/sh
# Breaks a sweep in every way we know of and checks that nothing of it is lost, done twice or left over: kill -9 at random
# moments, a full disk, a read-only folder, clocks that disagree, two suites in one folder, damaged records and checkpoints.
# Prints figures; ends with 1 where anything did not hold. Takes some five minutes on two cores.
#
#   scripts/torture.sh [--kills N] [--seed S] [--binary PATH] [--keep]
set -eu
cd "$(dirname "$0")/.."
case " $* " in
*" --binary"*) ;;
*) cargo build --release --locked --quiet ;;
esac
exec python3 scripts/torture.py "$@"
