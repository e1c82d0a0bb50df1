//! Huawei Cloud's signature of a request, `SDK-HMAC-SHA256` ("API Request Signing Guide"); pure.
//!
//! The gateway takes the request apart, writes it in a canonical form, and compares the key's HMAC over that. What is
//! signed is what goes out: the bytes of the body, the `Host` with its port. The path alone differs: in the canonical
//! form it ends in a slash, whether the request's does or not.

use crate::model::Time;
use crate::signature::{hex, hmac_sha256, sha256};

const ALGORITHM: &str = "SDK-HMAC-SHA256";
/// The header that the date stands in.
pub(super) const DATE: &str = "x-sdk-date";

/// What of a request is signed.
pub(super) struct Signing<'a> {
    pub(super) method: &'a str,
    /// As it stands in the request line, or not encoded at all: both come to the same.
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, String)],
    /// Lower-case names, without [`DATE`]; in any order.
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// [`date`] of this very try: one that is 15 minutes away from the gateway's clock is refused.
    pub(super) date: &'a str,
    pub(super) body: &'a [u8],
}

impl Signing<'_> {
    /// The `Authorization` header.
    pub(super) fn authorization(&self, access_key: &str, secret_key: &str) -> String {
        let digest = hex(&sha256(self.canonical().as_bytes()));
        let to_sign = [ALGORITHM, "\n", self.date, "\n", &digest].map(str::as_bytes);
        let signature = hex(&hmac_sha256(secret_key.as_bytes(), &to_sign));
        let names = self.header_names();
        format!("{ALGORITHM} Access={access_key}, SignedHeaders={names}, Signature={signature}")
    }

    /// The request in its canonical form.
    pub(super) fn canonical(&self) -> String {
        let mut path = encoded_path(self.path);
        if !path.ends_with('/') {
            path.push('/');
        }
        let mut query: Vec<_> = self.query.iter().map(|(key, value)| (*key, value.as_str())).collect();
        query.sort_unstable();
        let headers: String =
            self.sorted_headers().iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let digest = hex(&sha256(self.body));
        [self.method, &path, &encoded_query(query.into_iter()), &headers, &self.header_names(), &digest].join("\n")
    }

    fn header_names(&self) -> String {
        self.sorted_headers().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
    }

    fn sorted_headers(&self) -> Vec<(&str, &str)> {
        let mut headers = [self.headers, &[(DATE, self.date)]].concat();
        headers.sort_unstable();
        headers
    }
}

/// The date of a signature: `20240102T030405Z`.
pub(super) fn date(now: Time) -> String {
    Time::from_seconds(now.seconds()).to_string().replace(['-', ':'], "")
}

/// `a=b&c=d`, in the given order.
pub(super) fn encoded_query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    pairs.map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect::<Vec<_>>().join("&")
}

/// Decoded once and encoded anew, segment by segment.
fn encoded_path(path: &str) -> String {
    let segment =
        |segment: &str| urlencoding::encode_binary(&urlencoding::decode_binary(segment.as_bytes())).into_owned();
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Percent-encoded, but for what RFC 3986 calls unreserved.
pub(super) fn encoded(text: &str) -> String {
    urlencoding::encode(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AK: &str = "AKEXAMPLE0000000TEST";
    const SK: &str = "SKEXAMPLE000000000000000000000000000TEST";
    const PROJECT: &str = "0123456789abcdef0123456789abcdef";
    const HOST: &str = "secmaster.cn-north-4.myhuaweicloud.com";
    const WORKFLOWS: &str =
        "/v1/0123456789abcdef0123456789abcdef/workspaces/11111111-2222-3333-4444-555555555555/soc/workflows";
    const WORKFLOW: &str = "66666666-7777-8888-9999-aaaaaaaaaaaa";
    const BODY: &str = "{\"command_type\":\"ActionInstanceRunCommand\",\"action_type\":\"workflow\",\
        \"action_id\":\"66666666-7777-8888-9999-aaaaaaaaaaaa\",\"action_instance_id\":\
        \"ie4d9187d35dc11eb9cec525400860000\",\"playbook_context\":{\"data_object\":{\"dataclass\":{\"name\":\"Alert\"},\
        \"content\":{\"run_id\":\"ie4d9187d35dc11eb9cec525400860000\",\"state\":\"Failed\"}}}}";
    const JSON: (&str, &str) = ("content-type", "application/json");

    fn path() -> String {
        format!("{WORKFLOWS}/{WORKFLOW}/instances")
    }

    fn signed(method: &str, path: &str, query: &[(&str, String)], headers: &[(&str, &str)], body: &str) -> String {
        let date = date(Time::parse("2024-01-02T03:04:05.999Z").expect("a time"));
        let signing = Signing { method, path, query, headers, date: &date, body: body.as_bytes() };
        signing.authorization(AK, SK)
    }

    /// What Huawei's own SDK (`huaweicloudsdkcore` 3.1.219) signs, V1 to V10.
    #[test]
    fn every_vector_is_signed_as_huaweis_sdk_signs_it() {
        let (host, project) = (("host", HOST), ("x-project-id", PROJECT));
        let all = "content-type;host;x-project-id;x-sdk-date";
        let few = "host;x-project-id;x-sdk-date";
        let utf8 = "{\"command_type\":\"ActionInstanceRunCommand\",\"action_type\":\"workflow\",\
            \"playbook_context\":{\"data_object\":{\"content\":{\"name\":\"сбой 失败\"}}}}";
        let instance = format!("{WORKFLOWS}/instances/ie4d9187d35dc11eb9cec525400860000");
        let (list, create) = (format!("{WORKFLOWS}/instances"), path());
        let pairs = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect::<Vec<_>>()
        };
        let of_list = pairs(&[("workflow_id", WORKFLOW), ("status", "FAILED"), ("limit", "10"), ("offset", "0")]);
        let odd = pairs(&[("offset", "0"), ("b", "x y"), ("a", "~*"), ("limit", "10")]);
        type Headers<'a> = Vec<(&'a str, &'a str)>;
        type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, String)], Headers<'a>, &'a str, &'a str, &'a str);
        let cases: [Case<'_>; 10] = [
            (
                "V1",
                "POST",
                &create,
                &[],
                vec![JSON, host, project],
                BODY,
                all,
                "d19cd9fc532319b7a884666367977d0859b1f5879d54d426231e1a74d47d22b6",
            ),
            (
                "V2",
                "POST",
                &create,
                &[],
                vec![("content-type", "application/json;charset=UTF-8"), host, project],
                BODY,
                all,
                "c66646d68d96e125c3525845851a3835cfdfd2ead95d289a64b6df2248a9cdd3",
            ),
            (
                "V3",
                "POST",
                &create,
                &[],
                vec![JSON, host],
                BODY,
                "content-type;host;x-sdk-date",
                "2b2a408935b4885fd7338069e1128a38bd318ee98c1b9648d42a3aa0245a05a5",
            ),
            (
                "V4",
                "POST",
                &create,
                &[],
                vec![JSON, ("host", "127.0.0.1:18080"), project],
                BODY,
                all,
                "5b689831024dfd0e19096988ee57666ee4167a0c65a4f794166a41591810344e",
            ),
            (
                "V5",
                "POST",
                &create,
                &[],
                vec![("x-security-token", "TOKENEXAMPLE"), JSON, host, project],
                BODY,
                "content-type;host;x-project-id;x-sdk-date;x-security-token",
                "6f6c825b4beff4c58a5fa385b418f7f9537b95cfe5a4ba09fed18b38f874c590",
            ),
            (
                "V6",
                "POST",
                &create,
                &[],
                vec![JSON, host, project],
                utf8,
                all,
                "d34de160a9821072b16502555a3216bf2bcad559c04430a3d8866d76bfa4af2f",
            ),
            (
                "V7",
                "PUT",
                &instance,
                &[],
                vec![JSON, host, project],
                "{\"command_type\":\"ActionInstanceTerminateCommand\"}",
                all,
                "3b4faf9c1f2b3719d03eb2caca722c9d2a3a93750d85fe9005c2d4a021114afc",
            ),
            (
                "V8",
                "GET",
                &instance,
                &[],
                vec![host, project],
                "",
                few,
                "c608a7c04839889802d45d6680e34e91dc849703dad6280585109426516ecbc7",
            ),
            (
                "V9",
                "GET",
                &list,
                &of_list,
                vec![host, project],
                "",
                few,
                "91584f87c46b9b4563bc5a504fa7fae82cd5df61177c44b94985f1edf54ab67f",
            ),
            (
                "V10",
                "POST",
                "/v1/a b/й",
                &odd,
                vec![host],
                "",
                "host;x-sdk-date",
                "e1f4700917a7afdb6bebf9e7a633b9afd62e9a993b9cb7c2eb9cd1b70f47abc6",
            ),
        ];
        for (name, method, path, query, headers, body, names, signature) in cases {
            let expected = format!("SDK-HMAC-SHA256 Access={AK}, SignedHeaders={names}, Signature={signature}");
            assert_eq!(signed(method, path, query, &headers, body), expected, "{name}");
        }
    }

    #[test]
    fn the_canonical_form_is_the_published_one() {
        assert_eq!(BODY.len(), 316);
        let (path, date) = (path(), "20240102T030405Z");
        let headers = [("x-project-id", PROJECT), JSON, ("host", HOST)];
        let signing =
            Signing { method: "POST", path: &path, query: &[], headers: &headers, date, body: BODY.as_bytes() };
        let canonical = signing.canonical();
        let lines = [
            "POST",
            &format!("{path}/"),
            "",
            "content-type:application/json",
            &format!("host:{HOST}"),
            &format!("x-project-id:{PROJECT}"),
            "x-sdk-date:20240102T030405Z",
            "",
            "content-type;host;x-project-id;x-sdk-date",
            "711a9ba904cfeb65601a1001e19793df989a7f7a2e8243df4ef3232b89863650",
        ];
        assert_eq!(canonical, lines.join("\n"));
        let digest = "a9c9cad23d35c42e5aa5c6360c5d2d90e5989321334a1625e20d908afbba1982";
        assert_eq!(hex(&sha256(canonical.as_bytes())), digest);

        let query = [("b", "x y".to_owned()), ("a", "~*".to_owned())];
        for path in ["/v1/a b/й", "/v1/a%20b/%d0%b9", "/v1/a%20b/%D0%B9/"] {
            let signing = Signing { method: "GET", path, query: &query, headers: &[], date, body: b"" };
            let canonical = signing.canonical();
            let lines: Vec<_> = canonical.lines().take(3).collect();
            assert_eq!(lines, ["GET", "/v1/a%20b/%D0%B9/", "a=~%2A&b=x%20y"]);
        }
        assert_eq!(encoded_path("/%zz/100%"), "/%25zz/100%25", "what is no code stands for itself");
    }

    /// V11: the one that the signing guide publishes.
    #[test]
    fn the_guides_own_vector_is_signed_as_there() {
        let query = [("limit", "2".to_owned()), ("marker", "13551d6b-755d-4757-b956-536f674975c0".to_owned())];
        let headers = [JSON, ("host", "service.region.example.com")];
        let path = "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs";
        let date = "20191115T033655Z";
        let signing = Signing { method: "GET", path, query: &query, headers: &headers, date, body: b"" };
        let digest = "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a";
        assert_eq!(hex(&sha256(signing.canonical().as_bytes())), digest);
        let authorization = signing.authorization("QTWAOYTTINDUT2QVKYUC", "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc");
        assert_eq!(
            authorization,
            "SDK-HMAC-SHA256 Access=QTWAOYTTINDUT2QVKYUC, SignedHeaders=content-type;host;x-sdk-date, \
             Signature=7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe"
        );
    }
}
