//! The request signature of Tencent Cloud's object storage and of all that stands on it: `q-sign-algorithm=sha1`, as
//! the page "Request Signature" of its API documentation has it. Pure: a function of the request and of the time for
//! which it holds.

use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};

use super::hex;

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// `GET`.
    pub method: &'a str,
    /// As the server sees it: not percent-encoded.
    pub path: &'a str,
    /// Every parameter of the query, not percent-encoded, in any order.
    pub parameters: &'a [(&'a str, &'a str)],
    /// The headers that are vouched for. One that a proxy or the client changes later breaks the signature.
    pub headers: &'a [(&'a str, &'a str)],
}

/// The value of `Authorization`; it holds from the first of `seconds` since the epoch to the second.
pub fn authorization(secret_id: &str, secret_key: &str, seconds: (i64, i64), signed: &Signed<'_>) -> String {
    let time = format!("{};{}", seconds.0, seconds.1);
    let (parameters, parameter_names) = listed(signed.parameters);
    let (headers, header_names) = listed(signed.headers);
    let (method, path) = (signed.method.to_ascii_lowercase(), signed.path);
    let digest = hex(&Sha1::digest(format!("{method}\n{path}\n{parameters}\n{headers}\n")));
    // The key of the second step is the text of the first one's digest, not its bytes.
    let key = hmac_sha1(secret_key, &time);
    let signature = hmac_sha1(&key, &format!("sha1\n{time}\n{digest}\n"));
    format!(
        "q-sign-algorithm=sha1&q-ak={secret_id}&q-sign-time={time}&q-key-time={time}&q-header-list={header_names}\
         &q-url-param-list={parameter_names}&q-signature={signature}"
    )
}

/// `name=value` of each, joined by `&`, and the names alone, joined by `;`: encoded, the names in lower case and sorted.
fn listed(pairs: &[(&str, &str)]) -> (String, String) {
    let mut pairs: Vec<_> =
        pairs.iter().map(|(name, value)| (encoded(name).to_ascii_lowercase(), encoded(value))).collect();
    pairs.sort();
    let names: Vec<_> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    (pairs.join("&"), names)
}

/// Percent-encodes all but RFC 3986's unreserved characters; so a query has to be encoded on the wire, too.
pub fn encoded(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

fn hmac_sha1(key: &str, text: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    hex(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AKIDexampleExampleExampleExample0000";
    const KEY: &str = "exampleSecretKeyForTestVectors00";
    const SECONDS: (i64, i64) = (1_700_000_000, 1_700_003_600);
    const HOST: (&str, &str) = ("Host", "examplebucket-1250000000.ci.ap-chongqing.myqcloud.com");
    const XML: (&str, &str) = ("Content-Type", "application/xml");
    const EMPTY: (&str, &str) = ("Content-Length", "0");
    const WORKFLOW: (&str, &str) = ("workflowId", "web6ac56c1ef54dbfa44d7f4103203be9");
    const OBJECT: (&str, &str) = ("object", "wk-test/游戏 1.mp4");

    type Pairs<'a> = &'a [(&'a str, &'a str)];
    /// Those of the headers, those of the parameters.
    type Names = (&'static str, &'static str);

    #[test]
    fn it_signs_as_tencents_own_clients_do() {
        let one = "/workflowexecution/i166ee19017b011eda8a5525400c540df";
        let (list, trigger) = ("/workflowexecution", "/triggerworkflow");
        let listed: Pairs<'_> = &[WORKFLOW, ("states", "Failed,Cancel"), ("size", "50")];
        let of_list = ("host", "size;states;workflowid");
        let triggered: Pairs<'_> = &[WORKFLOW, OBJECT];
        let of_trigger = "object;workflowid";
        let cases: [(&str, Pairs<'_>, Pairs<'_>, Names, &str); 6] = [
            (one, &[], &[HOST], ("host", ""), "4e1d94e381b6e379d27f8fb10df4604823fe8844"),
            (one, &[], &[HOST, XML], ("content-type;host", ""), "6376e3e87654127ec9c71517aaded9bdb9417d38"),
            (list, listed, &[HOST], of_list, "9c16b9877208256c56aebbc713d118c771fc9603"),
            (
                trigger,
                triggered,
                &[HOST, XML, EMPTY],
                ("content-length;content-type;host", of_trigger),
                "ada3a86fa8df839861a83a284932e50cc857b496",
            ),
            (
                trigger,
                triggered,
                &[EMPTY, HOST],
                ("content-length;host", of_trigger),
                "98cb73ad7f0c9b779b3db66dcafb0dc9addc03e2",
            ),
            (trigger, triggered, &[HOST], ("host", of_trigger), "e5f4dae038525906d1db98c3348f6b79be98e52c"),
        ];
        for (path, parameters, headers, (header_names, parameter_names), signature) in cases {
            let method = if path == trigger { "POST" } else { "GET" };
            let signed = Signed { method, path, parameters, headers };
            let time = "1700000000;1700003600";
            assert_eq!(
                authorization(ID, KEY, SECONDS, &signed),
                format!(
                    "q-sign-algorithm=sha1&q-ak={ID}&q-sign-time={time}&q-key-time={time}&q-header-list={header_names}\
                     &q-url-param-list={parameter_names}&q-signature={signature}"
                ),
                "{signed:?}"
            );
        }
    }

    #[test]
    fn each_step_is_as_documented() {
        assert_eq!(hmac_sha1(KEY, "1700000000;1700003600"), "828d9af81d2abfdf7f293d4aaf444fd50c6063ba");
        let (parameters, names) = listed(&[WORKFLOW, OBJECT]);
        assert_eq!(
            parameters,
            "object=wk-test%2F%E6%B8%B8%E6%88%8F%201.mp4&workflowid=web6ac56c1ef54dbfa44d7f4103203be9"
        );
        assert_eq!(names, "object;workflowid");
        for (headers, digest) in [
            (&[HOST][..], "73fb02d8b7eefdfd7fbbe124832a76033058953d"),
            (&[HOST, XML, EMPTY], "b6c487b62ba4028d48ab17901447fb663912085a"),
        ] {
            let text = format!("post\n/triggerworkflow\n{parameters}\n{}\n", listed(headers).0);
            assert_eq!(hex(&Sha1::digest(text)), digest);
        }
        assert_eq!(listed(&[("ci-process", ""), ("A b", "!'()*~")]).0, "a%20b=%21%27%28%29%2A~&ci-process=");
    }
}
