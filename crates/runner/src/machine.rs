//! Facts about the machine and this process.

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// Peak resident memory of this process in bytes; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    status("VmHWM:")
}

/// Resident memory of this process now, in bytes; 0 where the system does not tell.
pub fn resident() -> u64 {
    status("VmRSS:")
}

/// Whether this process was told to ignore a signal, by its number; false where the system does not tell.
pub fn ignores(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let ignored = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Cores that this process is to use: what `RAYON_NUM_THREADS` says, else what Slurm has given this task, else all that
/// the system lets it.
pub fn cores() -> usize {
    let told = |name| std::env::var(name).ok()?.parse().ok().filter(|n| *n > 0);
    told("RAYON_NUM_THREADS")
        .or_else(|| told("SLURM_CPUS_PER_TASK"))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Name of the processor, where the system tells.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|l| l.strip_prefix("model name"));
    line.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |l| l.trim_start_matches([' ', '\t', ':']).to_owned(),
    )
}
