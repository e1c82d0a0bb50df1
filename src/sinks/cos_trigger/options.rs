//! The options of a `cos_trigger`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::secret::SecretSpec;

/// `[sinks.NAME]` with `kind = "cos_trigger"`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// The id of the workflow, or jq over the change that finds it.
    pub(super) workflow_id: String,
    /// Where the objects lie.
    pub(super) bucket: String,
    /// The region of the bucket.
    pub(super) region: Option<String>,
    /// The credential with which it is started.
    pub(super) secret_id: SecretSpec,
    /// The key that belongs to `secret_id`.
    pub(super) secret_key: SecretSpec,
    /// Of temporary credentials.
    pub(super) security_token: Option<SecretSpec>,
    /// The COS source to which the workflow calls back; default: the only one.
    pub(super) source: Option<String>,
    /// jq over the change: the key of the object to work on.
    pub(super) object: Option<String>,
    /// jq over the change: what begins the name of what is started.
    pub(super) name: Option<String>,
    /// jq over the change: whether it starts something.
    pub(super) when: Option<String>,
    /// Another address than `https://BUCKET.ci.REGION.myqcloud.com`, for a proxy that hands everything on.
    pub(super) url: Option<String>,
    /// A PEM file of certificates that are trusted beside this machine's.
    pub(super) ca_file: Option<PathBuf>,
}
