//! Configurations, loaded and judged whole.

use callbackd::app;
use callbackd::config::{Config, Environment};

use super::{NEEDLE, text};

/// What is appended: a sink with secrets, on lines of their own.
const LAST: &str = "\n[sinks.the_last]\nkind = \"webhook\"\nurl = \"https://example.com/\"\n\
                    secret = \"hunter2-secret\"\nheaders = { authorization = \"hunter2-header\" }\n";

pub(super) fn config(bytes: &[u8]) {
    let written = text(bytes);
    // Files are looked at as they are named: not those that never end.
    let names_a_device = ["/dev", "/proc", "/sys", "\\", ".."].iter().any(|part| written.contains(part));
    for text in [written.to_owned(), [written, LAST].concat()] {
        let (said, config) = said(&text);
        assert_eq!(said, self::said(&text).0, "said twice alike");
        let Some(config) = config.filter(|_| !names_a_device) else { continue };
        let built = config.adapters(&Environment::default());
        if let Err(faults) = &built {
            fit(&faults.to_string(), &text);
            assert!(!faults.faults.is_empty(), "a fault that is not said");
        }
        let rules = app::rules(&config).expect("what is loaded has rules");
        assert_eq!((rules.routes.len(), rules.links.len()), (config.routes.len(), config.links.len()));
    }
}

fn said(text: &str) -> (String, Option<Config>) {
    match Config::from_toml(text, &Environment::default()) {
        Ok(config) => {
            fit(&config.warnings.join("\n"), text);
            (String::new(), Some(config))
        }
        Err(faults) => {
            let said = faults.to_string();
            fit(&said, text);
            assert!(!faults.faults.is_empty(), "refused without a word");
            let lines = text.lines().count().max(1);
            for fault in &faults.faults {
                assert!(
                    fault.line.is_none_or(|line| (1..=lines + 1).contains(&line)),
                    "a line of another file: {said}"
                );
            }
            (said, None)
        }
    }
}

/// The secrets of [`LAST`] stand in it alone, unless the input holds them.
fn fit(said: &str, text: &str) {
    let secrets = text.matches(NEEDLE).count();
    assert!(secrets > 2 || !text.ends_with(LAST) || !said.contains(NEEDLE), "a secret is said: {said}\n{text}");
    let room = 4096 + 64 * text.len();
    assert!(said.len() <= room, "{} bytes are said of {}", said.len(), text.len());
}
