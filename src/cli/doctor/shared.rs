//! A store in a PostgreSQL: what a 2xx means with it, who shares it, and what is in it that somebody has to see to.

use super::{Failure, Findings, kept};
use crate::admin::SinkStanding;
use crate::admin::judgement::{COUNTED, HELD_MS, Judge};
use crate::app;
use crate::cli::print;
use crate::cli::reach::{password, queries};
use crate::config::{Config, Environment};
use crate::model::ReceiptStatus;
use crate::store::{Filter, Queries, StoreError, postgres};

/// Where it cannot be asked, that is a finding, too.
pub(super) async fn look(
    config: &Config,
    env: &Environment,
    told: &[SinkStanding],
    judge: &Judge<'_>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let address = match password(config, env) {
        Ok(password) => app::address(config, password.as_ref()),
        // That was found with the configuration.
        Err(_) => return Ok(()),
    };
    let address = match address {
        Ok(address) => address,
        Err(e) => {
            findings.wrong("store", e.to_string(), "mend store.url");
            return Ok(());
        }
    };
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
            findings.wrong(
                "store",
                judge.commands.complete(&format!("{place}: {e}")),
                "do as it says, or mend the database, or store.url and store.password",
            );
            return Ok(());
        }
    }
    let queries = queries(config, env)?;
    receipts(&*queries, judge, findings).await?;
    kept::sinks(config, &*queries, told, judge, findings).await
}

/// As the page has it.
async fn receipts(queries: &dyn Queries, judge: &Judge<'_>, findings: &mut Findings) -> Result<(), StoreError> {
    let some = |status: ReceiptStatus| Filter {
        status: vec![status.as_str().to_owned()],
        limit: Some(COUNTED as u64 + 1),
        ..Filter::default()
    };
    let quarantined = queries.receipts(some(ReceiptStatus::Quarantined)).await?;
    let newest = quarantined.first().map(|newest| newest.received_at);
    judge.quarantined(quarantined.len(), newest).into_iter().for_each(|found| findings.judged(found));
    // An id is a time: what came before it.
    let long_ago = Some(judge.now.micros().saturating_sub_unsigned(HELD_MS * 1000));
    let held = queries.receipts(Filter { before: long_ago, ..some(ReceiptStatus::Held) }).await?;
    judge.held(held.len()).into_iter().for_each(|found| findings.judged(found));
    Ok(())
}
