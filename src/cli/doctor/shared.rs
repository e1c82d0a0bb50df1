//! A store in a PostgreSQL: what a 2xx means with it, and who shares it.

use super::{Failure, Findings};
use crate::app;
use crate::cli::reach::password;
use crate::config::{Config, Environment};
use crate::store::postgres;

pub(super) async fn look(config: &Config, env: &Environment, findings: &mut Findings) -> Result<(), Failure> {
    let address = app::address(config, password(config, env)?.as_ref())?;
    let place = address.place();
    match postgres::look(address, config.store.may_lose.into()).await {
        Ok(seen) => {
            findings.ok("store", format!("{place} answers, and a 2xx means: {}", seen.means));
            for replica in &seen.replicas {
                let about = format!("replicas.{}", replica.slot);
                let what = format!("{} (callbackd {})", replica.name, replica.version);
                match replica.is_alive {
                    true => findings.ok(about, format!("{what} was heard of {} ms ago", replica.silent_ms)),
                    false => findings.note(
                        about,
                        format!("{what} was not heard of for {} s", replica.silent_ms / 1000),
                        "what it had under way was taken over; start it again, or leave it",
                    ),
                }
            }
        }
        Err(e) => findings.wrong("store", format!("{place}: {e}"), "mend the database, or store.url"),
    }
    Ok(())
}
