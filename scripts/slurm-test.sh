#!/usr/bin/env bash
# Sweeps on a real Slurm: starts munged, slurmctld and four slurmd on free ports of this machine, all in a temporary
# folder, and runs a drawn suite through `promptbed submit` while workers are killed, a node is drained, a limit is hit,
# tasks are requeued and everything is cancelled and submitted again. The tables must then be those of a local run.
#
#     scripts/slurm-test.sh            about four minutes on two cores; the program is target/release/promptbed or $PROMPTBED
#
# Needs Slurm and MUNGE (Debian: slurm-wlm, munge). Where they cannot be had it says SKIPPED and succeeds. No daemon, file
# or job is left behind. Slurm's own settings on this machine are neither read nor changed.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    printf 'SKIPPED slurm-test (1 of 1): %s\n' "$*"
    exit 0
}

program=$(realpath "${PROMPTBED:-${CARGO_TARGET_DIR:-target}/release/promptbed}")
PATH=$PATH:/usr/sbin:/sbin
for needed in munged mungekey slurmctld slurmd sbatch squeue scontrol scancel; do
    command -v "$needed" > /dev/null || skip "$needed is not installed (Debian: apt-get install slurm-wlm munge)"
done

# slurmd does not start without control groups in sight, even where it is told not to use any. Slurm 22.05 takes the
# first version's tree as it is; for anything else it gets an empty folder there, in a mount namespace of this test's own.
# (A variable tells the second start from the first.)
if [ ! -d /sys/fs/cgroup/systemd ] && [ -z "${SLURM_TEST_EMPTY_CGROUP:-}" ]; then
    unshare --mount true 2> /dev/null || skip "no control groups for slurmd, and no right to a mount namespace"
    export SLURM_TEST_EMPTY_CGROUP=1
    exec unshare --mount "$PWD/scripts/slurm-test.sh" "$@"
fi

work=$(mktemp -d)
chmod 755 "$work"
nodes=4
results=$work/results
local=$work/local
mkdir "$work"/{run,log,state,spool}
begun=$SECONDS

# Every process this test starts has its id in a file of $work/run.
ended() {
    local code=$? pid file
    trap - EXIT
    if [ -s "$work/run/slurmctld.pid" ]; then
        scancel --user="$(id -un)" 2> /dev/null || true
        sleep 1
    fi
    for file in "$work"/run/{local,slurmd-*,slurmctld,munged}.pid; do
        [ -s "$file" ] || continue
        pid=$(< "$file")
        kill "$pid" 2> /dev/null || continue
        for _ in $(seq 50); do
            kill -0 "$pid" 2> /dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2> /dev/null || true
    done
    if [ "$code" -ne 0 ]; then
        printf '\nFAILED after %s s (line %s). What the daemons and jobs said last:\n' "$((SECONDS - begun))" "${failed_at:-?}"
        tail -n 15 "$work"/log/slurm* "$results"/jobs/*/*.log 2> /dev/null || true
    fi
    rm -rf "$work"
    exit "$code"
}
trap 'failed_at=$LINENO' ERR
trap ended EXIT
trap 'exit 130' INT TERM

say() {
    printf '%4s s  %s\n' "$((SECONDS - begun))" "$*"
}

fail() {
    say "WRONG: $*"
    exit 1
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || fail "waited in vain for: $what"
        sleep 0.3
    done
}

# comes_up SECONDS WHAT COMMAND...: as wait_for; but a Slurm that does not run here says nothing of our program.
comes_up() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || skip "$what: does not come up: $(tail -qn 1 "$work"/log/slurm* 2> /dev/null | tail -n 1)"
        sleep 0.3
    done
}

free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        [[ " ${taken:-} " != *" $port "* ]] || continue
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break
    done
    taken="${taken:-} $port"
    picked=$port
}

# --- A cluster: one machine, four nodes of one core each.

[ -z "${SLURM_TEST_EMPTY_CGROUP:-}" ] || mount -t tmpfs none /sys/fs/cgroup
free_port
export SLURM_CONF=$work/slurm.conf
host=$(hostname -s)
cat > "$SLURM_CONF" << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$picked
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# A requeued task waits until its old credential has expired: two minutes if nothing is said.
AuthInfo=socket=$work/run/munge.socket,cred_expire=5
# Nothing that needs control groups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# No accounting, as on many clusters.
AccountingStorageType=accounting_storage/none
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool/%n
SlurmctldPidFile=$work/run/slurmctld.pid
SlurmdPidFile=$work/run/slurmd-%n.pid
SlurmctldLogFile=$work/log/slurmctld
SlurmdLogFile=$work/log/slurmd-%n
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
# So that a handful of tasks is more than one array may have.
MaxArraySize=4
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
CONF
for n in $(seq "$nodes"); do
    free_port
    echo "NodeName=n$n NodeHostname=$host NodeAddr=127.0.0.1 Port=$picked CPUs=1 State=UNKNOWN" >> "$SLURM_CONF"
done
[ -z "${SLURM_TEST_EMPTY_CGROUP:-}" ] || echo 'CgroupPlugin=cgroup/v1' > "$work/cgroup.conf"

mungekey --create --keyfile="$work/run/munge.key"
munged --force --socket="$work/run/munge.socket" --key-file="$work/run/munge.key" --pid-file="$work/run/munged.pid" \
    --log-file="$work/log/munged" --seed-file="$work/run/munge.seed" 2> "$work/log/munged-start" \
    || skip "munged does not start: $(tail -n 1 "$work/log/munged-start")"
slurmctld 2> "$work/log/slurmctld-start" || skip "slurmctld does not start: $(tail -n 1 "$work/log/slurmctld-start")"
comes_up 10 slurmctld scontrol ping
scontrol show config | grep '^MULTIPLE_SLURMD *= Yes' > /dev/null || skip 'this Slurm is built for one slurmd a machine'
for n in $(seq "$nodes"); do
    slurmd -N "n$n" 2> "$work/log/slurmd-start" || skip "slurmd does not start: $(tail -n 1 "$work/log/slurmd-start")"
done
idle() {
    [ "$(sinfo -h -N -t idle -o %N | wc -l)" -eq "$nodes" ]
}
comes_up 30 'four idle nodes' idle
say "$(sbatch --version): one machine, $nodes nodes (slurmd -N), $(nproc) cores, no accounting"

# --- A suite of short trials and two long ones, and what a local run makes of it.

# suite PROTOCOLS SEEDS EPOCHS: a suite with CoOp for so many epochs.
suite() {
    cat << SUITE
version  = 1
protocol = [$1]
backbone = "drawn"
datasets = ["drawn-textures"]
shots    = [16]
seeds    = [$2]
views    = { cached = 4 }

[[method]]
name      = "coop"
label     = "coop-long"
protocols = ["few-shot"]
epochs    = $3
lr        = 0.01
SUITE
}

# Long is what takes 50 seconds of one core, whatever the processor.
suite '"few-shot"' 1 200 > "$work/probe.toml"
TIMEFORMAT=%U
took=$({ time "$program" run "$work/probe.toml" --out "$work/probe" --jobs 1 > "$work/log/probe" 2>&1; } 2>&1) \
    || fail "the first run: $(tail -n 3 "$work/log/probe")"
epochs=$(awk -v took="$took" 'BEGIN { printf "%d", 200 * 50 / (took > 0.5 ? took : 0.5) }')

suite=$work/drawn.toml
suite '"base-to-novel", "few-shot"' '1, 2' "$epochs" > "$suite"
short=(zero-shot coop cocoop vpt maple kgcoop promptsrc mma 2sfs)
for method in "${short[@]}"; do
    printf '\n[[method]]\nname = "%s"\nprotocols = ["base-to-novel"]\n' "$method"
    [ "$method" = zero-shot ] || printf 'epochs = 8\n'
done >> "$suite"

"$program" run "$suite" --out "$local" --jobs 2 > "$work/log/local" 2>&1 || fail "the local run: $(tail -n 3 "$work/log/local")"
all=$(find "$local/trials" -name '*.json' | wc -l)
say "a local run of $all trials, two of them long ($epochs epochs)"

# --- What the helpers below look at.

submit() {
    "$program" submit "$suite" --engine slurm --out "$results" "$@" 2>> "$work/log/submit"
}

# state ARRAY_TASK: as squeue has it, nothing where it is gone.
state() {
    squeue -h -r -o '%i %T' | awk -v task="$1" '$1 == task { print $2 }'
}

is() {
    [[ " $2 " == *" $(state "$1") "* ]]
}

is_gone() {
    [ -z "$(state "$1")" ]
}

node_of() {
    squeue -h -r -o '%i %N' | awk -v task="$1" '$1 == task { print $2 }'
}

is_node() {
    [ "$(sinfo -h -N -n "$1" -o %T)" = "$2" ]
}

queue_is_empty() {
    [ -z "$(squeue -h)" ]
}

# worker INDEX: process ids of the worker on that list of trials.
worker() {
    local found
    for found in /proc/[0-9]*/cmdline; do
        if tr '\0' ' ' 2> /dev/null < "$found" | grep "^$results/bin/promptbed-.* worker .* --index $1 \$" > /dev/null; then
            found=${found%/cmdline}
            echo "${found#/proc/}"
        fi
    done
}

has_worker() {
    [ -n "$(worker "$1")" ]
}

finished() {
    find "$results/trials" -name '*.json' 2> /dev/null | wc -l
}

says() {
    grep -q "$2" "$results"/jobs/1/"$1".log
}

# --- Refused by Slurm: nothing is left of it, and its own words arrive.

said=$(submit --partition nowhere 2>&1 && echo taken) || true
grep -q 'invalid partition' <<< "$(tail -n 3 "$work/log/submit")" || fail "sbatch's own words do not arrive: $said"
[ ! -e "$results/jobs/1" ] || fail 'a refused job leaves a folder'
say 'sbatch refuses an unknown partition, in its own words'

# --- An array of six tasks, where four is the most: two chunks.

mapfile -t ids < <(submit --array-size 6 --time 30s --cpus 1)
[ "${#ids[@]}" -eq 2 ] || fail "six tasks, four at most: two arrays, not ${ids[*]}"
first=${ids[0]} second=${ids[1]}
wait_for 30 'the first task' is "${first}_0" RUNNING
say "submitted as arrays $first and $second; the queue: $(squeue -h -r -o '%i=%T' | tr '\n' ' ')"
"$program" status "$results" > "$work/log/status" 2>&1 || fail "status: $(cat "$work/log/status")"
grep '^tasks in the queue: ' "$work/log/status" > /dev/null || fail "status does not know the queue: $(cat "$work/log/status")"
say "status: $(grep '^tasks in the queue: ' "$work/log/status")"

# A worker that is killed: its task fails, and what it leaves is for a later submission.
wait_for 30 'a worker on the third list' has_worker 2
kill -9 $(worker 2)
wait_for 30 'the end of the killed task' is_gone "${first}_2"
say "kill -9 of the worker of ${first}_2: the task is gone from the queue"

# A node that is drained finishes its task and gets no other.
wait_for 30 'a worker on the first list' has_worker 0
node=$(node_of "${first}_0")
scontrol update NodeName="$node" State=DRAIN Reason=test
wait_for 10 'a draining node' is_node "$node" draining
say "node $node is draining under ${first}_0"

# A task that is requeued by hand: its worker saves what it has, and goes on elsewhere.
wait_for 30 'a worker on the second list' has_worker 1
sleep 4
scontrol requeue "${first}_1"
wait_for 60 'the second start of the requeued task' is "${first}_1" RUNNING
say "${first}_1 was requeued by hand and runs again on $(node_of "${first}_1")"

# The limit: the task is warned, the worker saves what it has, the script requeues itself.
wait_for 120 'a requeue at the limit' says "${first}_0" 'goes on after a requeue'
wait_for 30 'an empty node' is_node "$node" drained
say "${first}_0 was warned before its limit and has requeued itself; $node is drained"
scontrol update NodeName="$node" State=RESUME
wait_for 60 'the second start at the limit' is "${first}_0" RUNNING
[ "$(finished)" -lt "$all" ] || fail 'everything is done already: nothing to cancel'

# --- Cancelled, and submitted again.

"$program" cancel "$results" > "$work/log/cancel" 2>&1 || fail "cancel: $(cat "$work/log/cancel")"
wait_for 60 'an empty queue' queue_is_empty
[ -z "$(worker '[0-9]*')" ] || fail 'a worker lives on after cancel'
before=$(finished)
saved=$(find "$results/checkpoints" -name '*.safetensors' | wc -l)
[ "$saved" -ge 1 ] || fail 'no checkpoint of the trials that ran'
say "cancelled; the queue is empty, no worker is left, $before of $all trials are done, $saved have a checkpoint"

mapfile -t ids < <(submit --array-size 4 --time 10m --cpus 1)
[ "${#ids[@]}" -eq 1 ] || fail "one array, not ${ids[*]}"
left=$(grep -c '^    "' "$results/jobs/2/tasks.json")
[ "$left" -eq $((all - before)) ] || fail "submitted $left trials of the $((all - before)) that are left"
say "submitted the $left that are left, as array ${ids[0]}"
wait_for 600 'the end of everything' queue_is_empty
[ "$(finished)" -eq "$all" ] || fail "$(finished) of $all trials"
grep -q 'nothing is left' <<< "$(submit 2>&1; tail -n 1 "$work/log/submit")" || fail 'a submission where nothing is left'

# --- The same as the local run's, byte for byte, and nothing beside it.

for folder in tables predictions prompts picks; do
    diff -r "$local/$folder" "$results/$folder" || fail "$folder differ from the local run's"
done
over=$(find "$results" -name '*.tmp' -o -path '*/claims/*' -o -path '*/workers/*' -o -path '*/checkpoints/*')
[ -z "$over" ] || fail "left over: $over"
starts=$(cat "$results"/jobs/*/*.log | grep -c 'goes on after a requeue')
say "tables, predictions and prompts of $all trials are those of the local run; $starts requeues at limits"
printf 'PASSED in %s s\n' "$((SECONDS - begun))"
