//! TLS as both sides of federation speak it, with the `ring` provider.

use std::sync::Arc;

use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use crate::HostError;

/// Returns what a server presents.
///
/// # Errors
///
/// If the key is none, or not the certificate's.
pub fn server(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, HostError> {
    let listen = |error: tokio_rustls::rustls::Error| HostError::Listen(error.to_string());
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(listen)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(listen)
}

/// Returns a client that believes certificates that these have signed.
///
/// # Errors
///
/// If one of them is no certificate.
pub fn client(trusted: Vec<CertificateDer<'static>>) -> Result<ClientConfig, HostError> {
    let listen = |error: tokio_rustls::rustls::Error| HostError::Listen(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate).map_err(listen)?;
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(listen)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
