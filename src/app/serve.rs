//! The daemon as a process: signals, systemd, the log.

use std::path::Path;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, Running};
use crate::config::{self, Config, Environment};
use crate::telemetry::{self, Telemetry};

/// Runs the daemon until SIGTERM or SIGINT; SIGHUP makes it read its configuration again. Tells systemd, where there
/// is one, when it is ready, when it reloads, when it stops, and that it lives.
pub async fn serve(file: &Path, env: &Environment) -> Result<(), Error> {
    let config = config::check(Some(file), env).map_err(Error::Config)?.config;
    let telemetry = log_as(&config, env)?;
    // Heard before anything runs: a signal that comes while the daemon starts would otherwise just kill it.
    let signal = |kind| signal(kind).map_err(|e| Error::Process(format!("signals cannot be received: {e}")));
    let (mut hangup, mut terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = Running::start(&config, env).await?;
    tell_systemd(&[NotifyState::Ready]);
    let alive = tokio::spawn(feed_watchdog());
    loop {
        tokio::select! {
            Some(()) = hangup.recv() => {
                let since = NotifyState::monotonic_usec_now().ok();
                tell_systemd(&[Some(NotifyState::Reloading), since].into_iter().flatten().collect::<Vec<_>>());
                match reload(&running, &telemetry, file, env).await {
                    Ok(()) => tracing::info!("the configuration was read again and holds from now on"),
                    Err(e) => tracing::error!(error = %e, "the configuration was read again, is wrong, and the one before it still holds"),
                }
                tell_systemd(&[NotifyState::Ready]);
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tell_systemd(&[NotifyState::Stopping]);
    tracing::info!("stopping: nothing more is taken in, what was begun is finished");
    running.stop().await;
    alive.abort();
    Ok(())
}

async fn reload(running: &Running, telemetry: &Telemetry, file: &Path, env: &Environment) -> Result<(), Error> {
    let config = config::check(Some(file), env).map_err(Error::Config)?.config;
    running.reload(&config, env).await?;
    telemetry.set_level(telemetry::level(&config.log.level).map_err(Error::Process)?);
    Ok(())
}

fn log_as(config: &Config, env: &Environment) -> Result<Telemetry, Error> {
    let level = telemetry::level(&config.log.level).map_err(Error::Process)?;
    let format = config.log.format.parse().map_err(Error::Process)?;
    telemetry::init(level, format, env.get("JOURNAL_STREAM").is_some()).map_err(Error::Process)
}

/// Without systemd there is nobody to tell, which is no fault.
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::debug!(error = %e, "systemd was not told");
    }
}

/// Says that this process lives, twice as often as systemd wants to hear it.
async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        tell_systemd(&[NotifyState::Watchdog]);
    }
}
