//! Who sent a request: the `X-Matrix` authorisation of the server-server API.

use std::collections::BTreeMap;

use gibbous::{OwnedServerName, ServerName};
use serde_json::{Value as Json, json};

use crate::{HostError, keys::OurKey};

/// A request as its sender signs it.
pub(crate) fn signed_request(
    method: &str,
    uri: &str,
    [origin, destination]: [&ServerName; 2],
    content: Option<&Json>,
) -> Json {
    let mut request = json!({ "method": method, "uri": uri, "origin": origin, "destination": destination });
    if let Some(content) = content {
        request["content"] = content.clone();
    }
    request
}

/// Returns the `Authorization` header of a request of ours.
pub(crate) fn header(key: &OurKey, destination: &ServerName, request: &Json) -> Result<String, HostError> {
    let (origin, key_id, signature) = (&key.server, &key.key_id, key.sign_json(request)?);
    Ok(format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#))
}

/// What an `Authorization` header claims; nothing of it has been checked.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) origin: OwnedServerName,
    pub(crate) key_id: String,
    pub(crate) signature: String,
}

impl Claim {
    /// Reads a header.
    pub(crate) fn parse(header: &str, our_server: &ServerName) -> Result<Self, HostError> {
        let malformed = |why: &str| HostError::malformed("X-Matrix authorisation", why);
        let parameters = header.strip_prefix("X-Matrix ").ok_or_else(|| malformed("another scheme"))?;
        let parameter = |parameter: &'_ str| {
            let (name, value) = parameter.split_once('=')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned()))
        };
        let mut parameters: BTreeMap<_, _> = parameters.split(',').filter_map(parameter).collect();
        // Older servers leave the destination out.
        if parameters.get("destination").is_some_and(|destination| destination != our_server.as_str()) {
            return Err(malformed("meant for another server"));
        }
        let mut take = |name: &str| parameters.remove(name).ok_or_else(|| malformed("a parameter is missing"));
        let origin = take("origin")?.try_into().map_err(|_| malformed("the origin is no server name"))?;
        Ok(Self { origin, key_id: take("key")?, signature: take("sig")? })
    }
}
