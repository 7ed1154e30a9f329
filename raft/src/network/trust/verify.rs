//! What a certificate must be before anybody is believed: signed by the cluster's authority, valid
//! now, and for the node that was dialled. The cluster map is asked afterwards, in `trust.rs`.

use protocol::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::keys::{KeyError, sha256};

/// Checks the peers of a member.
#[derive(Debug)]
pub(super) struct Members {
    anchor: TrustAnchor<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Members {
    pub(super) fn new(
        authority: &[u8],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, KeyError> {
        let certificate = CertificateDer::from(authority);
        let anchor = anchor_from_trusted_cert(&certificate).map_err(KeyError::of)?.to_owned();
        Ok(Self { anchor, algorithms })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        check(certificate, &self.anchor, &self.algorithms, usage, now)
    }
}

fn check(
    certificate: &CertificateDer<'_>,
    anchor: &TrustAnchor<'static>,
    algorithms: &WebPkiSupportedAlgorithms,
    usage: KeyUsage,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let unreadable = |_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let end = EndEntityCert::try_from(certificate).map_err(unreadable)?;
    let anchors = std::slice::from_ref(anchor);
    let verified = end.verify_for_usage(algorithms.all, anchors, &[], now, usage, None, None);
    let refused = verified.map(drop).map_err(|error| {
        let untimely = matches!(
            error,
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }
        );
        if untimely { CertificateError::Expired } else { CertificateError::UnknownIssuer }
    });
    refused.map_err(rustls::Error::InvalidCertificate)
}

/// The names in a certificate that was verified.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let end = EndEntityCert::try_from(certificate);
    end.map_or_else(|_| Vec::new(), |end| end.valid_dns_names().map(str::to_owned).collect())
}

/// SHA-256 of the public key of a certificate that was verified.
pub(super) fn pin(certificate: &CertificateDer<'_>) -> Option<Digest> {
    let end = EndEntityCert::try_from(certificate).ok()?;
    Some(sha256(&end.subject_public_key_info()))
}

fn is_for(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), rustls::Error> {
    let named = names(certificate).iter().any(|found| *found == name.to_str());
    let wrong = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
    named.then_some(()).ok_or(wrong)
}

/// What every verifier here says of signatures: TLS 1.3 alone, with its own algorithms.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate, KeyUsage::server_auth(), now)?;
        is_for(certificate, name)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// Checks the cluster that a node wants to join: its authority is the one that the token names.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) authority: Digest,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Hosts {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let foreign = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = intermediates.iter().find(|shown| sha256(shown) == self.authority);
        let authority = authority.ok_or_else(foreign)?;
        let anchor = anchor_from_trusted_cert(authority).map_err(|_| foreign())?.to_owned();
        check(certificate, &anchor, &self.algorithms, KeyUsage::server_auth(), now)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
