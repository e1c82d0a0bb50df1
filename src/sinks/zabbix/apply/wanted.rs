//! What the configuration asks to be there, read and judged.

use super::super::action::words::{self, SEVERITY, Word};
use super::super::action::{Action, Described, check, default_action};
use crate::options::Faults;
use crate::secret::Resolver;

/// What is to be there.
pub(in crate::sinks::zabbix) struct Wanted {
    pub(super) group: String,
    pub(super) host: String,
    pub(super) key: String,
    /// The trigger's priority.
    pub(super) severity: i64,
    /// Who may send values, as Zabbix's item has it; `None` leaves that alone.
    pub(super) allowed_hosts: Option<String>,
    pub(super) actions: Vec<Action>,
}

/// What is written of it.
pub(in crate::sinks::zabbix) struct Written<'a> {
    pub(in crate::sinks::zabbix) host: &'a str,
    pub(in crate::sinks::zabbix) key: &'a str,
    pub(in crate::sinks::zabbix) host_group: &'a str,
    pub(in crate::sinks::zabbix) severity: &'a Word,
    pub(in crate::sinks::zabbix) allowed_hosts: Option<&'a str>,
    pub(in crate::sinks::zabbix) action: Option<&'a Described>,
}

impl Wanted {
    /// Reads it; what is wrong is kept in `faults`.
    pub(in crate::sinks::zabbix) fn read(
        written: &Written<'_>,
        secrets: &Resolver<'_>,
        faults: &mut Faults<'_>,
    ) -> Option<Wanted> {
        let group = written.host_group.to_owned();
        if group.trim().is_empty() || group.chars().count() > 255 {
            faults.add("host_group", "write 1 to 255 characters");
        }
        let severity = faults.keep("severity", words::number(SEVERITY, written.severity));
        let mut actions = match written.action {
            None => vec![default_action(written.host)],
            Some(described) => faults.keep("action", described.actions())?,
        };
        // What is wrong with a default is said of what it is made from.
        let is_written = written.action.is_some();
        let many = actions.len() > 1;
        for (position, action) in actions.iter_mut().enumerate().filter(|_| is_written) {
            let place = if many { format!("action[{position}]") } else { "action".to_owned() };
            for (key, text) in check(action, secrets) {
                faults.add(&format!("{place}.{key}"), text);
            }
        }
        let names: Vec<&str> = actions.iter().map(Action::name).collect();
        for (position, name) in names.iter().enumerate().filter(|(position, name)| names[..*position].contains(name)) {
            faults.add(&format!("action[{position}].name"), format!("another action is called {name:?} too"));
        }
        let (host, key) = (written.host.to_owned(), written.key.to_owned());
        let allowed_hosts = written.allowed_hosts.map(str::to_owned);
        Some(Wanted { group, host, key, severity: severity?, allowed_hosts, actions })
    }
}
