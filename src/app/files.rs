//! How many connections the process can afford: they share its open files with the store and with peers.

/// Of `wanted` connections as many as three quarters of the open files that the process may have: whoever opens connections
/// is not to keep the store from its files, nor sinks from their peers.
pub(super) fn connections(wanted: usize) -> usize {
    // Where it cannot be told, or is "unlimited", it limits nothing.
    let files = std::fs::read_to_string("/proc/self/limits").ok().and_then(|limits| open_files(&limits));
    let connections = wanted.min(files.map_or(usize::MAX, |files| (files / 4 * 3).max(1)));
    if connections < wanted {
        tracing::info!(
            "{connections} connections are let in at one time, not the {wanted} of server.connections_max: the process may \
             open {} files; start it with more (`ulimit -n`, LimitNOFILE=)",
            files.unwrap_or_default()
        );
    }
    connections
}

/// The soft limit in proc_pid_limits(5).
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let line = |soft| {
            format!("Limit  Soft Limit  Hard Limit  Units\nMax open files            {soft}    524288    files\n")
        };
        assert_eq!(open_files(&line("1024")), Some(1024));
        assert_eq!(open_files(&line("unlimited")), None);
        assert_eq!(open_files(""), None);
        assert_eq!(connections(1), 1);
    }
}
