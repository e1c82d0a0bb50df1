//! What all views have in common: the frame, filters, buttons, and facts in a list.

use super::html::{Html, Url};
use crate::server::respond::Problem;

/// Where one is: the entries of the navigation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Executions,
    Deliveries,
    Dead,
    Sinks,
    Receipts,
    Quarantined,
}

/// The entries, and where they lead.
fn tabs() -> [(Tab, &'static str, Url); 7] {
    [
        (Tab::Overview, "Overview", Url::home()),
        (Tab::Executions, "Executions", Url::to(&["executions"])),
        (Tab::Deliveries, "Deliveries", Url::to(&["deliveries"])),
        (Tab::Dead, "Dead letters", dead()),
        (Tab::Sinks, "Sinks", Url::to(&["sinks"])),
        (Tab::Receipts, "Receipts", Url::to(&["receipts"])),
        (Tab::Quarantined, "Quarantined", quarantined()),
    ]
}

/// The list of dead letters.
pub(super) fn dead() -> Url {
    Url::to(&["deliveries"]).with("status", "dead")
}

/// The list of what was not understood.
pub(super) fn quarantined() -> Url {
    Url::to(&["receipts"]).with("status", "quarantined")
}

/// A whole page: `main` stands in its frame, and is what the script renews.
pub(super) fn page(title: &str, tab: Option<Tab>, said: Option<&str>, main: impl FnOnce(&mut Html)) -> String {
    let mut h = Html::document();
    h.el("html", &[("lang", "en")], |h| {
        h.el("head", &[], |h| {
            h.void("meta", &[("charset", "utf-8")]);
            h.void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            h.void("meta", &[("name", "color-scheme"), ("content", "light dark")]);
            h.leaf("title", &[], &format!("{title} · callbackd"));
            h.void("link", &[("rel", "icon"), ("href", "/icon.svg"), ("type", "image/svg+xml")]);
            h.void("link", &[("rel", "stylesheet"), ("href", "/style.css")]);
            h.el("script", &[("src", "/page.js"), ("defer", "")], |_| {});
        });
        h.el("body", &[], |h| {
            h.leaf("a", &[("class", "skip"), ("href", "#main")], "Skip to the content");
            h.el("header", &[], |h| {
                h.leaf("a", &[("class", "brand"), ("href", "/")], "callbackd");
                h.el("nav", &[("aria-label", "Views")], |h| {
                    for (each, name, url) in tabs() {
                        let current = [("href", url.as_str()), ("aria-current", "page")];
                        h.leaf("a", if tab == Some(each) { &current[..] } else { &current[..1] }, name);
                    }
                });
                h.leaf("span", &[("id", "live"), ("class", "live"), ("hidden", "")], "live");
            });
            h.el("main", &[("id", "main"), ("tabindex", "-1")], |h| {
                if let Some(said) = said {
                    h.leaf("p", &[("class", "notice"), ("role", "status")], said);
                }
                h.el("div", &[("id", "renewed")], main);
            });
        });
    });
    h.finish()
}

/// A problem, for a person; with the command that says more.
pub(super) fn problem(problem: &Problem, command: Option<&str>) -> String {
    page(problem.title, None, None, |h| {
        h.leaf("h1", &[], problem.title);
        h.leaf("p", &[("class", "lead")], &problem.detail);
        if let Some(command) = command {
            h.el("p", &[], |h| h.leaf("code", &[], command));
        }
        h.el("p", &[], |h| h.link(&Url::home(), "Back to the overview"));
    })
}

/// A section under a heading; its id is where links within the page lead.
pub(super) fn section(h: &mut Html, id: &str, title: &str, inner: impl FnOnce(&mut Html)) {
    let heading = format!("{id}-title");
    h.el("section", &[("id", id), ("aria-labelledby", &heading)], |h| {
        h.leaf("h2", &[("id", &heading)], title);
        inner(h);
    });
}

/// A table that may be wider than the screen: it is then moved by itself, by the keyboard, too.
pub(super) fn table(h: &mut Html, name: &str, head: &[&str], rows: impl FnOnce(&mut Html)) {
    h.el("div", &[("class", "wide"), ("tabindex", "0"), ("role", "region"), ("aria-label", name)], |h| {
        h.el("table", &[], |h| {
            h.el("thead", &[], |h| {
                h.el("tr", &[], |h| head.iter().for_each(|title| h.leaf("th", &[("scope", "col")], title)));
            });
            h.el("tbody", &[], rows);
        });
    });
}

/// A name, and what writes what is known under it.
pub(super) type Fact<'f> = (&'f str, &'f dyn Fn(&mut Html));

/// Names and what is known under them.
pub(super) fn facts(h: &mut Html, facts: &[Fact<'_>]) {
    h.el("dl", &[("class", "facts")], |h| {
        for (name, fact) in facts {
            h.el("div", &[], |h| {
                h.leaf("dt", &[], name);
                h.el("dd", &[], fact);
            });
        }
    });
}

/// A button that changes something, and leads back to where it stands.
pub(super) fn button(h: &mut Html, action: &Url, label: &str, about: &str, back: &Url) {
    h.el("form", &[("method", "post"), ("action", action.as_str())], |h| {
        h.void("input", &[("type", "hidden"), ("name", "back"), ("value", back.as_str())]);
        h.leaf("button", &[("aria-label", &format!("{label} {about}"))], label);
    });
}

/// The same for what cannot be undone: it opens first, so that nobody slips.
pub(super) fn careful(h: &mut Html, action: &Url, label: &str, about: &str, back: &Url) {
    h.el("details", &[("class", "careful")], |h| {
        h.leaf("summary", &[("aria-label", &format!("{label} {about} …"))], &format!("{label} …"));
        h.el("form", &[("method", "post"), ("action", action.as_str())], |h| {
            h.void("input", &[("type", "hidden"), ("name", "back"), ("value", back.as_str())]);
            h.leaf("button", &[("class", "danger")], &format!("{label} for good"));
        });
    });
}

/// A field of a form, under its label.
pub(super) fn field(h: &mut Html, name: &'static str, label: &str, value: &str, hint: &str) {
    h.el("label", &[], |h| {
        h.text(label);
        h.void("input", &[("name", name), ("value", value), ("placeholder", hint), ("autocomplete", "off")]);
    });
}

/// A choice of a form; what was chosen by other means stays one.
pub(super) fn choice(h: &mut Html, name: &'static str, label: &str, chosen: &str, of: &[&str]) {
    h.el("label", &[], |h| {
        h.text(label);
        h.el("select", &[("name", name)], |h| {
            let foreign = Some(chosen).filter(|chosen| !chosen.is_empty() && !of.contains(chosen));
            h.leaf("option", &[("value", "")], "any");
            for option in of.iter().copied().chain(foreign) {
                let attributes = [("value", option), ("selected", "")];
                h.leaf("option", if option == chosen { &attributes[..] } else { &attributes[..1] }, option);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::respond::unavailable;

    #[test]
    fn a_problem_of_ours_comes_with_the_command_that_says_more() {
        let away = unavailable("the database cannot be reached".to_owned());
        let page = problem(&away, Some("callbackd doctor --config /srv/a&b.toml"));
        assert!(page.contains("<code>callbackd doctor --config /srv/a&amp;b.toml</code>"), "{page}");
        assert!(page.contains("the database cannot be reached") && !problem(&away, None).contains("<code>"));
    }
}
