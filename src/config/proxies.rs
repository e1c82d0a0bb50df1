//! Through which proxies peers are reached: `[outbound]`, else the variables that other programs know.

use crate::options::Fault;
use crate::outbound::{Except, Proxies, Proxy, Settings};
use crate::secret::Resolver;

use super::Outbound;

/// What every client begins with. A fault of the configuration is one; what the environment says and we cannot use is
/// only doubtful, as it may be meant for others.
pub(super) fn settings(outbound: &Outbound, secrets: &Resolver<'_>, faults: &mut Vec<Fault>) -> Settings {
    let [http, https] = match &outbound.proxy {
        Some(spec) => {
            let proxy = secrets.resolve(spec).and_then(|text| Proxy::parse(text.expose().trim()));
            let proxy = proxy.map_err(|text| faults.push(Fault::new("outbound.proxy", text))).ok();
            [proxy.clone(), proxy]
        }
        None => {
            [["http_proxy", "HTTP_PROXY"], ["https_proxy", "HTTPS_PROXY"]].map(|names| of_environment(names, secrets))
        }
    };
    let except = match &outbound.no_proxy {
        Some(listed) => {
            let read = listed.iter().enumerate().map(|(position, text)| {
                Except::parse(text).map_err(|text| Fault::new(format!("outbound.no_proxy[{position}]"), text))
            });
            read.filter_map(|read| read.map_err(|fault| faults.push(fault)).ok()).collect()
        }
        None => {
            let (name, listed) = variable(&["no_proxy", "NO_PROXY"], secrets).unwrap_or_default();
            let words = listed.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.filter_map(|word| doubt(name, Except::parse(word), secrets)).collect()
        }
    };
    Settings { proxies: Proxies::new(http, https, except), ..Settings::default() }
}

fn of_environment(names: [&'static str; 2], secrets: &Resolver<'_>) -> Option<Proxy> {
    let (name, text) = variable(&[names[0], names[1], "all_proxy", "ALL_PROXY"], secrets)?;
    doubt(name, Proxy::parse(text.trim()), secrets)
}

/// The first of these variables that says something.
fn variable(names: &[&'static str], secrets: &Resolver<'_>) -> Option<(&'static str, String)> {
    names.iter().find_map(|name| Some((*name, (secrets.env)(name).filter(|text| !text.trim().is_empty())?)))
}

fn doubt<T>(name: &str, read: Result<T, String>, secrets: &Resolver<'_>) -> Option<T> {
    let doubtful = |text| {
        let text = format!("the environment variable {name} {text}; it is ignored, until [outbound] says otherwise");
        let mut warnings = secrets.warnings.borrow_mut();
        // The same variable may stand for both schemes.
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    };
    read.map_err(doubtful).ok()
}
