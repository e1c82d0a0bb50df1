//! Secrets: where they are found, and a type that cannot be printed by accident.

use std::cell::RefCell;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

/// A credential. `Debug` and `Display` never show it; [`Secret::expose`] is the only way to its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for a signature or a request header; never for a log, an error, the store or the page.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where one secret is found, as the configuration says it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "SpecForm")]
pub enum SecretSpec {
    /// `{ file = "/path" }`: the file's content, less one trailing newline.
    File(PathBuf),
    /// `{ env = "NAME" }`: an environment variable.
    Env(String),
    /// `{ credential = "name" }`: a systemd credential (`LoadCredential=`).
    Credential(String),
    /// The secret itself, in the configuration: discouraged.
    Plain(Secret),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected { file = \"…\" }, { env = \"…\" }, { credential = \"…\" } or a string")]
enum SpecForm {
    Place(Place),
    Plain(String),
}

/// A table with one of these keys. (A struct could also be read from a list, and a secret in it taken for a path.)
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    File(PathBuf),
    Env(String),
    Credential(String),
}

impl From<SpecForm> for SecretSpec {
    fn from(form: SpecForm) -> SecretSpec {
        match form {
            SpecForm::Place(Place::File(path)) => SecretSpec::File(path),
            SpecForm::Place(Place::Env(name)) => SecretSpec::Env(name),
            SpecForm::Place(Place::Credential(name)) => SecretSpec::Credential(name),
            SpecForm::Plain(text) => SecretSpec::Plain(Secret::new(text)),
        }
    }
}

impl fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSpec::File(path) => write!(f, "{{ file = {path:?} }}"),
            SecretSpec::Env(name) => write!(f, "{{ env = {name:?} }}"),
            SecretSpec::Credential(name) => write!(f, "{{ credential = {name:?} }}"),
            SecretSpec::Plain(_) => f.write_str("[secret]"),
        }
    }
}

/// One secret or a list of them, newest first: two at once let a secret be rotated without downtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretSpecs(pub Vec<SecretSpec>);

impl<'de> Deserialize<'de> for SecretSpecs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SecretSpecs, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a secret or a list of secrets: { file = \"…\" }, { env = \"…\" } …")]
        enum OneOrMany {
            One(SecretSpec),
            Many(Vec<SecretSpec>),
        }
        Ok(match OneOrMany::deserialize(d)? {
            OneOrMany::One(one) => SecretSpecs(vec![one]),
            OneOrMany::Many(many) => SecretSpecs(many),
        })
    }
}

/// Finds secrets. Holds what the process was given, so that nothing but `config` reads the environment.
pub struct Resolver<'a> {
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// What was found doubtful on the way, for the operator: a file that others can read.
    pub warnings: RefCell<Vec<String>>,
}

impl Resolver<'_> {
    /// The secret that `spec` names, or what is wrong with it and what to do. Never empty.
    pub fn resolve(&self, spec: &SecretSpec) -> Result<Secret, String> {
        let unnamed = match spec {
            SecretSpec::File(path) if path.as_os_str().is_empty() => Some("file; write its path"),
            SecretSpec::Env(name) if name.is_empty() => Some("variable; write its name"),
            SecretSpec::Credential(name) if name.is_empty() => {
                Some("credential; write its name, as in LoadCredential=")
            }
            _ => None,
        };
        if let Some(what) = unnamed {
            return Err(format!("{spec:?} names no {what}"));
        }
        let text = match spec {
            SecretSpec::Plain(secret) => secret.0.clone(),
            SecretSpec::Env(name) => {
                (self.env)(name).ok_or_else(|| format!("the environment variable {name} is not set"))?
            }
            SecretSpec::File(path) => self.read(path)?,
            SecretSpec::Credential(name) => {
                let folder = (self.env)("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    format!(
                        "credential {name:?}: no CREDENTIALS_DIRECTORY, which systemd sets for a unit with \
                         LoadCredential=; by hand, run this with `systemd-run --pipe --wait -p LoadCredential=…`"
                    )
                })?;
                self.read(&Path::new(&folder).join(name))?
            }
        };
        if text.is_empty() {
            return Err(match spec {
                SecretSpec::Plain(_) => {
                    "is empty; write { file = \"…\" }, { env = \"…\" } or { credential = \"…\" }".to_owned()
                }
                place => format!("{place:?} is empty"),
            });
        }
        Ok(Secret(text))
    }

    /// All of them, in order, or the first fault.
    pub fn resolve_all(&self, specs: &SecretSpecs) -> Result<Vec<Secret>, String> {
        specs.0.iter().map(|spec| self.resolve(spec)).collect()
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let mut text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        if let Ok(meta) = std::fs::metadata(path)
            && meta.permissions().mode() & 0o004 != 0
        {
            // One file may be written in several ways.
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let hint = format!("everybody on this machine can read this secret; chmod o-r {}", path.display());
            let mut warnings = self.warnings.borrow_mut();
            if !warnings.contains(&hint) {
                warnings.push(hint);
            }
        }
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "[secret] [secret]");
        assert_eq!(format!("{:?}", SecretSpec::Plain(secret)), "[secret]");
    }

    #[test]
    fn a_list_of_one_secret_is_a_list_and_no_table() {
        let read = |json: &str| serde_json::from_str::<SecretSpecs>(json).map_err(|e| e.to_string());
        let plain = |text: &str| SecretSpec::Plain(Secret::new(text));
        assert_eq!(read(r#"["hunter2"]"#), Ok(SecretSpecs(vec![plain("hunter2")])));
        assert_eq!(read(r#"["file", "env"]"#), Ok(SecretSpecs(vec![plain("file"), plain("env")])));
        assert_eq!(read(r#"[{"file": "/x"}]"#), read(r#"{"file": "/x"}"#));
        for bad in [r#"[["hunter2"]]"#, r#"{"file": "/x", "env": "X"}"#, r#"{"fiel": "hunter2"}"#, "{}", "7"] {
            let said = read(bad).expect_err(bad);
            assert!(said.contains("{ file =") && !said.contains("hunter2"), "{said}");
        }
        serde_json::from_str::<SecretSpec>(r#"["hunter2"]"#).expect_err("one secret is no list");
    }

    #[test]
    fn is_found_where_the_configuration_says() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("token"), "from-file\n").expect("written");
        let path = folder.path().to_str().expect("UTF-8").to_owned();
        let env = move |name: &str| match name {
            "TOKEN" => Some("from-env".to_owned()),
            "EMPTY" => Some(String::new()),
            "CREDENTIALS_DIRECTORY" => Some(path.clone()),
            _ => None,
        };
        let resolver = Resolver { env: &env, warnings: RefCell::default() };
        let specs: SecretSpecs =
            serde_json::from_str(r#"[{"env": "TOKEN"}, {"credential": "token"}, "plain"]"#).expect("specs");
        let found = resolver.resolve_all(&specs).expect("found");
        assert_eq!(found.iter().map(Secret::expose).collect::<Vec<_>>(), ["from-env", "from-file", "plain"]);
        let again = folder.path().join("./again");
        std::os::unix::fs::symlink("token", &again).expect("linked");
        assert_eq!(resolver.resolve(&SecretSpec::File(again)).expect("found").expose(), "from-file");
        let warned = resolver.warnings.take();
        assert!(warned.len() == 1 && warned[0].starts_with("everybody") && warned[0].ends_with("/token"), "{warned:?}");
        for bad in [r#"{"env": "NONE"}"#, r#"{"env": "EMPTY"}"#, r#"{"file": "/nonexistent"}"#] {
            let spec: SecretSpec = serde_json::from_str(bad).expect("a spec");
            resolver.resolve(&spec).expect_err(bad);
        }
    }
}
