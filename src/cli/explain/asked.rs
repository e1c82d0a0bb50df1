//! The request that is asked about: as it came, as far as that is given, and as its sender would have made it.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::model::Time;
use crate::pipeline::ingest::Intake;
use crate::sources::{RawRequest, SenderRequest};

/// What is known of it.
pub(super) struct Asked {
    pub(super) body: Bytes,
    pub(super) headers: Option<HeaderMap>,
    pub(super) target: Option<Target>,
    pub(super) from: Option<IpAddr>,
}

/// Where it came to.
pub(super) struct Target {
    path: String,
    query: Option<String>,
}

impl Target {
    /// Of a URL, or of a request's own words.
    pub(super) fn of(url: &str) -> Target {
        let target = match url.split_once("://") {
            Some((_, rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
            None => url,
        };
        let target = target.split('#').next().unwrap_or_default();
        match target.split_once('?') {
            Some((path, query)) => Target { path: path.to_owned(), query: Some(query.to_owned()) },
            None => Target { path: target.to_owned(), query: None },
        }
    }

    /// What follows a source's own path, as the server tells it.
    fn below<'t>(&'t self, path: &str, intake: &Intake) -> Option<&'t str> {
        let rest = self.path.strip_prefix(path)?;
        match rest.strip_prefix('/') {
            None if rest.is_empty() => Some(""),
            Some(rest) if intake.source.reaches_below() && !rest.contains('/') => Some(rest),
            _ => None,
        }
    }

    /// Leaves the source that has this path; without one, says what may be wrong with the path. What follows a source's path
    /// may be a token, and is not said.
    pub(super) fn only_where_it_leads(
        &self,
        intakes: &mut Vec<(String, Intake)>,
        source: Option<&str>,
    ) -> Result<(), String> {
        if intakes.is_empty() {
            return Ok(());
        }
        let leads = |(path, intake): &(String, Intake)| self.below(path, intake).is_some();
        if let Some(name) = source
            && let Some((path, _)) = intakes.iter().find(|one| leads(one)).filter(|(_, intake)| *intake.name != *name)
        {
            return Err(format!("the URL leads to the source at {path}, which is not {name:?}"));
        }
        if intakes.iter().any(leads) {
            intakes.retain(leads);
            return Ok(());
        }
        let bare = self.path.trim_end_matches('/');
        let meant = intakes.iter().find_map(|(path, _)| {
            let hint = if bare == path {
                "the slash at its end is too much"
            } else if bare.eq_ignore_ascii_case(path) {
                "capital and small letters differ"
            } else if bare.ends_with(path.as_str()) {
                "something stands before it, which a proxy in front may have to take away"
            } else if path.ends_with(bare) && !bare.is_empty() {
                "its beginning is missing: a proxy in front may have taken it away"
            } else if bare.starts_with(&format!("{path}/")) {
                "too much stands behind it"
            } else {
                return None;
            };
            Some(format!("it is not {path}: {hint}"))
        });
        let paths: Vec<_> = intakes.iter().map(|(path, _)| path.as_str()).collect();
        let meant = meant.unwrap_or_else(|| format!("there are: {}", paths.join(", ")));
        Err(format!("would be answered 404: no source has the URL's path; {meant}"))
    }
}

impl Asked {
    /// Whether it is taken as it is, and nothing is made for it.
    pub(super) fn is_exact(&self) -> bool {
        let holds = |headers: &HeaderMap| headers.keys().any(|name| is_credential(name.as_str()));
        self.target.is_some() || self.headers.as_ref().is_some_and(holds)
    }

    pub(super) fn verified_by(&self) -> &'static str {
        match (self.is_exact(), &self.headers) {
            (true, _) => "its own credential",
            (false, Some(_)) => "the given headers, and a credential made now, as its sender would",
            (false, None) => "a credential made now, as its sender would",
        }
    }

    /// Why this address may not call, where it is known.
    pub(super) fn refused_address(&self, intake: &Intake) -> Option<String> {
        let from = self.from?;
        let is_allowed = intake.allow.is_empty() || intake.allow.iter().any(|net| net.contains(&from));
        (!is_allowed).then(|| {
            let allowed: Vec<_> = intake.allow.iter().map(ToString::to_string).collect();
            format!("{from} is not in `allow`, which has {}", allowed.join(", "))
        })
    }

    /// As the server would hand it to its source.
    pub(super) fn request(&self, path: &str, intake: &Intake, now: Time) -> RawRequest {
        if !self.is_exact() {
            return self.as_sender(intake, now);
        }
        let headers = self.headers.clone().unwrap_or_default();
        let Some(target) = &self.target else {
            // With headers alone, a token in the URL is nobody's question.
            let made = intake.source.as_sender(self.body.clone(), HeaderMap::new(), now);
            return as_received(SenderRequest { headers, ..made });
        };
        RawRequest {
            method: Method::POST,
            rest: target.below(path, intake).unwrap_or_default().to_owned(),
            query: target.query.clone(),
            headers,
            body: self.body.clone(),
            peer: self.from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    /// The request that the real sender would make, with the given headers, less what could be a credential, over its own.
    pub(super) fn as_sender(&self, intake: &Intake, now: Time) -> RawRequest {
        let mut given = self.headers.clone().unwrap_or_default();
        let credentials: Vec<_> = given.keys().filter(|name| is_credential(name.as_str())).cloned().collect();
        credentials.into_iter().for_each(|name| drop(given.remove(name)));
        let mut request = intake.source.as_sender(self.body.clone(), given.clone(), now);
        for name in given.keys() {
            request.headers.remove(name);
            for value in given.get_all(name) {
                request.headers.append(name, value.clone());
            }
        }
        as_received(request)
    }
}

/// Whether a header's name says that it may be a credential, or a part of one.
fn is_credential(name: &str) -> bool {
    ["signature", "timestamp", "authorization", "token"].iter().any(|part| name.contains(part))
}

/// The sender's request as the server would hand it to its source.
fn as_received(request: SenderRequest) -> RawRequest {
    let (rest, query) = match request.suffix.split_once('?') {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (request.suffix.as_str(), None),
    };
    RawRequest {
        method: request.method,
        rest: rest.trim_start_matches('/').to_owned(),
        query,
        headers: request.headers,
        body: request.body,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_senders_suffix_is_taken_apart_as_the_server_does() {
        for (suffix, rest, query) in [
            ("", "", None),
            ("/secret", "secret", None),
            ("?token=a/b?c", "", Some("token=a/b?c")),
            ("/secret?x=1", "secret", Some("x=1")),
        ] {
            let request = SenderRequest {
                method: Method::POST,
                suffix: suffix.to_owned(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            let raw = as_received(request);
            assert_eq!((raw.rest.as_str(), raw.query.as_deref()), (rest, query), "{suffix}");
        }
    }

    #[test]
    fn a_url_is_taken_apart_wherever_it_was_copied_from() {
        for (url, path, query) in [
            ("https://a.example/callbacks/media?token=x", "/callbacks/media", Some("token=x")),
            ("/callbacks/media/x#top", "/callbacks/media/x", None),
            ("http://a.example", "/", None),
            ("http://a.example?b=/c", "", Some("b=/c")),
        ] {
            let target = Target::of(url);
            assert_eq!((target.path.as_str(), target.query.as_deref()), (path, query), "{url}");
        }
    }
}
