//! A store in a PostgreSQL: what a 2xx means with it, and who shares it.

use super::{Failure, Findings};
use crate::admin::judgement::Judge;
use crate::app;
use crate::cli::print;
use crate::cli::reach::password;
use crate::config::{Config, Environment};
use crate::store::postgres;

/// Whether there is more to be looked at.
pub(super) async fn look(
    config: &Config,
    env: &Environment,
    judge: &Judge<'_>,
    findings: &mut Findings,
) -> Result<bool, Failure> {
    let address = app::address(config, password(config, env)?.as_ref())?;
    let place = address.place();
    match postgres::look(address, config.store.may_lose.into()).await {
        Ok(seen) => {
            findings.ok("store", format!("{place} answers, and a 2xx means: {}", seen.means));
            for one in &seen.replicas {
                let about = format!("replicas.{}", one.place);
                let (since, seen) = (print::age(one.since, judge.now), print::age(Some(one.seen_at), judge.now));
                let what = format!("{} at {} (callbackd {})", one.name, one.address, one.version);
                match judge.gone(one) {
                    None => findings.ok(about, format!("{what} is there for {since}, heard of {seen} ago")),
                    Some(found) => findings.judged(found),
                }
            }
        }
        Err(e) => {
            findings.wrong("store", format!("{place}: {e}"), "do as it says, or mend the database, or store.url");
            return Ok(false);
        }
    }
    Ok(true)
}
