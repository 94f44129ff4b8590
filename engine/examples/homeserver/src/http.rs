//! Requests over HTTPS, with a bound on the time and the size of their answers.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use tokio_rustls::rustls::ClientConfig;

use crate::HostError;

/// An HTTPS client that keeps its connections.
#[derive(Clone, Debug)]
pub struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    /// Takes whom to believe; see [`crate::tls::client`].
    pub fn new(tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Returns the body of a 200 answer.
    ///
    /// # Errors
    ///
    /// If there is no such answer within `patience`, or it is of more than `bytes_max` bytes.
    pub async fn call(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, HostError> {
        let unreachable = |error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            HostError::Unreachable(format!("{error}{cause}"))
        };
        let answered = async {
            let response = self.0.request(request).await.map_err(|error| unreachable(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), bytes_max).collect().await;
            Ok::<_, HostError>((status, body.map_err(|error| unreachable(&*error))?.to_bytes()))
        };
        let answer = tokio::time::timeout(patience, answered).await;
        match answer.map_err(|_| HostError::Unreachable(format!("nothing in {} ms", patience.as_millis())))?? {
            (StatusCode::OK, body) => Ok(body.to_vec()),
            (status, body) => Err(HostError::Refused { status: status.as_u16(), errcode: errcode(&body) }),
        }
    }
}

/// Makes a request's body.
pub fn bytes_of(json: &str) -> Full<Bytes> {
    Full::new(Bytes::copy_from_slice(json.as_bytes()))
}

/// Returns the Matrix error code of an answer, empty where it has none.
fn errcode(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct MatrixError {
        errcode: String,
    }
    serde_json::from_slice(body).map_or_else(|_| String::new(), |error: MatrixError| error.errcode)
}

/// Encodes a part of a path or query, all but what is never special.
pub(crate) fn encoded(part: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    part.bytes().map(encode).collect()
}
