//! Those who share the store: who is there, and who is gone.

use super::html::{Html, NONE};
use super::layout;
use crate::model::Time;
use crate::store::Replica;

const HEAD: [&str; 6] = ["Name", "Takes callbacks at", "Version", "There since", "Last heard of", "State"];

pub(super) fn table(h: &mut Html, replicas: &[Replica], now: Time) {
    layout::table(h, "Who shares the store", &HEAD, |h| {
        for one in replicas {
            h.el("tr", &[], |h| {
                h.el("td", &[], |h| {
                    h.text(&one.name);
                    if one.here {
                        h.text(" ");
                        h.leaf("small", &[], "this one");
                    }
                });
                h.leaf("td", &[], if one.address.is_empty() { NONE } else { &one.address });
                h.leaf("td", &[], &one.version);
                h.el("td", &[], |h| h.at(one.since));
                h.el("td", &[], |h| h.ago(Some(one.seen_at), now));
                h.el("td", &[], |h| h.badge(if one.alive { "active" } else { "gone" }));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_is_marked_and_who_says_it_as_well() {
        let one = |place, alive, here| Replica {
            place,
            name: format!("media-{place}"),
            address: "10.0.0.1:8480".to_owned(),
            version: "0.1.0".to_owned(),
            since: None,
            seen_at: Time::from_seconds(1_700_000_000),
            alive,
            here,
        };
        let mut h = Html::document();
        table(&mut h, &[one(0, true, true), one(1, false, false)], Time::from_seconds(1_700_000_060));
        let text = h.finish();
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
        assert!(place("media-0") < place("this one") && place("this one") < place("active</"), "{text}");
        assert!(place("active</") < place("media-1") && place("media-1") < place("gone</"), "{text}");
    }
}
