//! The daemon as a process: signals, systemd, the log.

use std::path::Path;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, Running};
use crate::clock;
use crate::config::{self, Config, Environment, Otlp, Report};
use crate::telemetry::{self, Telemetry};

/// Runs the daemon until SIGTERM or SIGINT; SIGHUP makes it read its configuration again. Tells systemd, where there
/// is one, when it is ready, when it reloads, when it stops, and that it lives.
pub async fn serve(file: &Path, env: &Environment) -> Result<(), Error> {
    let Report { config, adapters } = config::check(Some(file), env).map_err(Error::Config)?;
    let telemetry = log_as(&config, env)?;
    // Heard before anything runs: a signal that comes while the daemon starts would otherwise just kill it.
    let signal = |kind| signal(kind).map_err(|e| Error::Process(format!("signals cannot be received: {e}")));
    let (mut hangup, mut terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = Running::start(&config, adapters).await?;
    tell_systemd(&[NotifyState::Ready]);
    let alive = tokio::spawn(feed_watchdog());
    let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            Some(()) = hangup.recv() => {
                let since = NotifyState::monotonic_usec_now().ok();
                tell_systemd(&[Some(NotifyState::Reloading), since].into_iter().flatten().collect::<Vec<_>>());
                match reload(&running, &telemetry, file, env).await {
                    Ok(new) => {
                        tracing::info!("the configuration was read again and holds from now on");
                        for key in kept_until_restart(&config, &new) {
                            tracing::warn!("{key} was changed, which holds from the next restart on");
                        }
                    }
                    Err(e) => {
                        running.measures.is_refused(&e.to_string(), clock::now());
                        tracing::error!(error = %e, "the configuration was read again, is wrong, and the one before it still holds");
                    }
                }
                tell_systemd(&[NotifyState::Ready]);
            }
            _ = terminate.recv() => break,
            _ = look.tick() => {
                if running.store().is_closed() {
                    tell_systemd(&[NotifyState::Stopping]);
                    running.stop().await;
                    return Err(Error::Process("the store's writer stopped; only a new start helps".to_owned()));
                }
            }
            _ = interrupt.recv() => break,
        }
    }
    tell_systemd(&[NotifyState::Stopping]);
    tracing::info!("stopping: nothing more is taken in, what was begun is finished");
    running.stop().await;
    alive.abort();
    Ok(())
}

async fn reload(running: &Running, telemetry: &Telemetry, file: &Path, env: &Environment) -> Result<Config, Error> {
    let Report { config, adapters } = config::check(Some(file), env).map_err(Error::Config)?;
    let level = telemetry::level(&config.log.level).map_err(Error::Process)?;
    running.reload(&config, adapters).await?;
    telemetry.set_level(level);
    Ok(config)
}

/// The changed keys that a running daemon does not take over.
fn kept_until_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("server.listen", old.server.listen != new.server.listen),
        ("server.tls", old.server.tls.is_some() != new.server.tls.is_some()),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.token", old.admin.token != new.admin.token),
        ("store.url", old.store.url != new.store.url),
        ("store.password", old.store.password != new.store.password),
        ("store.ca_file", old.store.ca_file != new.store.ca_file),
        ("store.connections", old.store.connections != new.store.connections),
        ("store.may_lose", old.store.may_lose != new.store.may_lose),
        ("store.queue_max", old.store.queue_max != new.store.queue_max),
        ("store.log_bytes", old.store.log_bytes != new.store.log_bytes),
        ("store.readers", old.store.readers != new.store.readers),
        ("otlp.endpoint", otlp(old, |otlp| &otlp.endpoint) != otlp(new, |otlp| &otlp.endpoint)),
        ("otlp.headers", otlp(old, |otlp| &otlp.headers) != otlp(new, |otlp| &otlp.headers)),
        ("otlp.ca_file", otlp(old, |otlp| &otlp.ca_file) != otlp(new, |otlp| &otlp.ca_file)),
        ("log.format", old.log.format != new.log.format),
    ];
    changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

/// A key of `[otlp]`, where there is one.
fn otlp<T: ?Sized>(config: &Config, key: impl Fn(&Otlp) -> &T) -> Option<&T> {
    config.otlp.as_ref().map(key)
}

fn log_as(config: &Config, env: &Environment) -> Result<Telemetry, Error> {
    let level = telemetry::level(&config.log.level).map_err(Error::Process)?;
    let format = config.log.format.parse().map_err(Error::Process)?;
    telemetry::init(level, format, env.get("JOURNAL_STREAM").as_deref()).map_err(Error::Process)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_cannot_change_is_named() {
        let config = |text: &str| Config::from_toml(text, &Environment::default()).expect("a configuration");
        let old = config("[admin]\ntoken = \"one\"");
        let new = config(
            "[server]\nlisten = \"systemd\"\nbody_timeout = \"9s\"\n[admin]\ntoken = \"two\"\n[store]\nkeep = \"1d\"",
        );
        assert_eq!(kept_until_restart(&old, &new), ["server.listen", "admin.token"]);
        assert!(kept_until_restart(&old, &old).is_empty());
    }

    /// What a reload hands on, of the sections that are not built anew whole (as sources, sinks, routes and links are).
    fn taken_over(config: &Config) -> String {
        let Config { server, admin: _, store: _, outbound, log, .. } = config;
        let limits = crate::app::parts::limits(config);
        // The certificate's files, as long as there is TLS before and after.
        let files = server.tls.as_ref().map(|tls| (&tls.cert, &tls.key));
        let built = (&server.instance, outbound);
        format!("{limits:?} {:?} {files:?} {built:?} {}", crate::app::keep(config), log.level)
    }

    /// Every key of the manual is either taken over by a reload, or named as one that waits for a restart.
    #[test]
    fn no_key_is_lost_between_a_reload_and_a_restart() {
        let manual = include_str!("../../config/callbackd.toml");
        let on = |line: &str| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with([' ', ':']) => key.to_owned(),
            _ => line.to_owned(),
        };
        let whole: String = manual.lines().map(|line| on(line) + "\n").collect();
        let whole: toml::Table = whole.parse().expect("TOML");
        let section = |name: &str| whole[name].as_table().expect("a table").clone();
        let load = |name: &str, table: &toml::Table| {
            let text = toml::Table::from_iter([(name.to_owned(), toml::Value::Table(table.clone()))]).to_string();
            Config::from_toml(&text, &Environment::default()).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
        };
        let mut walked = 0;
        for name in ["server", "admin", "store", "outbound", "log", "otlp"] {
            let table = section(name);
            let old = load(name, &table);
            for (key, value) in &table {
                let value = match value {
                    // Twice as much is too much for it.
                    toml::Value::Integer(n) if key == "log_bytes" => vec![(n / 2).into()],
                    toml::Value::Integer(n) => vec![(n * 2 + 1).into()],
                    toml::Value::String(text) if text.ends_with('%') => vec!["7%".into()],
                    toml::Value::String(text) if crate::options::Span::parse(text).is_ok() => vec!["1234567ms".into()],
                    toml::Value::Array(_) => vec![vec!["192.0.2.0/24"].into()],
                    _ => match (name, key.as_str()) {
                        ("server", "tls") => {
                            let other: toml::Table = "cert = \"a.pem\"\nkey = \"b.pem\"".parse().expect("TOML");
                            vec![other.into(), toml::Value::Boolean(false)]
                        }
                        ("server", "listen") => vec!["systemd".into()],
                        ("admin", "listen") => vec!["127.0.0.1:1".into()],
                        ("store", "url") => vec!["sqlite:other.db".into()],
                        ("store", "may_lose") => vec![toml::Value::Boolean(true)],
                        ("outbound", "proxy") => {
                            let other: toml::Table = "file = \"/run/proxy\"".parse().expect("TOML");
                            vec![other.into()]
                        }
                        ("otlp", "headers") => {
                            let other: toml::Table = "authorization = \"other\"".parse().expect("TOML");
                            vec![other.into(), toml::Value::Boolean(false)]
                        }
                        ("otlp", "ca_file") => vec!["other.pem".into(), toml::Value::Boolean(false)],
                        ("log", "level") => vec!["debug".into()],
                        ("log", "format") => vec!["json".into()],
                        _ => vec!["other".into()],
                    },
                };
                for value in value {
                    walked += 1;
                    let mut changed = table.clone();
                    match value {
                        // That it is left out.
                        toml::Value::Boolean(false) => drop(changed.remove(key)),
                        value => drop(changed.insert(key.clone(), value)),
                    }
                    // A body has to fit.
                    if key == "body_bytes_max" {
                        changed.insert("bodies_bytes_max".to_owned(), table["bodies_bytes_max"].clone());
                    }
                    let new = load(name, &changed);
                    let named = kept_until_restart(&old, &new);
                    let is_named = named.iter().any(|said| *said == format!("{name}.{key}"));
                    let is_taken = taken_over(&old) != taken_over(&new);
                    assert!(is_named || is_taken, "{name}.{key} is neither taken over nor named");
                    assert!(named.len() <= 1, "{name}.{key}: {named:?}");
                }
            }
        }
        assert!(walked >= 25, "{walked}");
    }
}
