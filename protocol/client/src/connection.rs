//! The connection to a cluster: its nodes, the credential, and the loop that sends and tries again.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Response, Url};
use serde::de::DeserializeOwned;

use crate::answer::{Answer, Meta};
use crate::call::Call;
use crate::error::{ClientError, Problem};
use crate::retry::{Retry, Tries};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Results of the largest job, with reasons and spans, stay well below.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A key, or none. Prints as dots.
#[derive(Clone, Default)]
pub struct Credential(Option<String>);

impl Credential {
    pub fn none() -> Credential {
        Credential(None)
    }

    /// A tenant's or an operator's key.
    pub fn key(key: impl Into<String>) -> Credential {
        Credential(Some(key.into()))
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Credential(…)" } else { "Credential(none)" })
    }
}

/// A cluster as its clients see it. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    nodes: Arc<[Url]>,
    /// The node that answered last, as an index into `nodes`.
    preferred: Arc<AtomicUsize>,
    authorization: Option<HeaderValue>,
    tenant: Option<HeaderValue>,
    retry: Retry,
    timeout: Duration,
}

impl Client {
    /// A client of the nodes at `base_urls`; the first is asked first.
    pub fn new(base_urls: Vec<String>, credential: Credential) -> Result<Client, ClientError> {
        let nodes = base_urls.iter().map(|url| parse_base(url)).collect::<Result<Arc<[_]>, _>>()?;
        if nodes.is_empty() {
            return Err(ClientError::Setup("no node is given".to_owned()));
        }
        let mut http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
        if nodes.iter().all(is_local) {
            // A proxy from the environment cannot reach this machine's own loopback.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| ClientError::Setup(error.to_string()))?;
        let authorization = credential.0.map(|key| secret_header(&key)).transpose()?;
        Ok(Client {
            http,
            nodes,
            preferred: Arc::default(),
            authorization,
            tenant: None,
            retry: Retry::PATIENT,
            timeout: REQUEST_TIMEOUT,
        })
    }

    /// The same client with other patience.
    pub fn with_retry(mut self, retry: Retry) -> Client {
        self.retry = retry;
        self
    }

    /// The same client, giving up on a node after `timeout`.
    pub fn with_timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// The same client acting for `tenant` (operators only).
    pub fn for_tenant(mut self, tenant: &str) -> Result<Client, ClientError> {
        let value = HeaderValue::from_str(tenant)
            .map_err(|_| ClientError::Setup(format!("{tenant:?} is not a tenant id")))?;
        self.tenant = Some(value);
        Ok(self)
    }

    /// Sends `call` and reads its whole answer.
    pub async fn fetch(&self, call: Call) -> Result<Answer<Bytes>, ClientError> {
        let mut tries = self.tries();
        loop {
            let failure = match self.fetch_once(&call, tries.node).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tries.pause(&call, failure).await?;
        }
    }

    /// Sends `call` and reads its answer as JSON.
    pub async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<Answer<T>, ClientError> {
        let what = format!("the answer to {} {}", call.method, call.url(&self.nodes[0]).path());
        let answer = self.fetch(call).await?;
        let body = serde_json::from_slice(&answer.body)
            .map_err(|source| ClientError::Decode { what, source })?;
        Ok(Answer { body, meta: answer.meta })
    }

    /// Sends `call` and hands over the answer as it arrives.
    pub(crate) async fn open(&self, call: Call) -> Result<Answer<Stream>, ClientError> {
        let mut tries = self.tries();
        loop {
            let failure = match self.send_once(&call, tries.node).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tries.pause(&call, failure).await?;
        }
    }

    fn tries(&self) -> Tries {
        Tries::new(self.retry, self.preferred.load(Ordering::Relaxed))
    }

    async fn fetch_once(&self, call: &Call, node: usize) -> Result<Answer<Bytes>, ClientError> {
        let mut answer = self.send_once(call, node).await?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.body.chunk().await? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::TooLarge { what: "the answer", limit: ANSWER_BYTES_MAX });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(answer.map(|_| body.freeze()))
    }

    async fn send_once(&self, call: &Call, node: usize) -> Result<Answer<Stream>, ClientError> {
        let base = &self.nodes[node % self.nodes.len()];
        let response = self.request(base, call).send().await.map_err(|e| transport(base, e))?;
        let status = response.status();
        let meta = Meta::of(status.as_u16(), response.headers());
        if status.is_success() {
            self.preferred.store(node % self.nodes.len(), Ordering::Relaxed);
            return Ok(Answer { body: Stream { base: base.clone(), response }, meta });
        }
        let header = response.headers().get(RETRY_AFTER);
        let retry_after_s = header.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.bytes().await.map_err(|error| transport(base, error))?;
        let problem = Problem::read(&meta, retry_after_s, &body);
        Err(ClientError::Problem(Box::new(problem)))
    }

    fn request(&self, base: &Url, call: &Call) -> reqwest::RequestBuilder {
        let mut request = self
            .http
            .request(call.method.clone(), call.url(base))
            .timeout(self.timeout)
            .header(ACCEPT, call.accept);
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, call.content_type).body(body.clone());
        }
        if let Some(tag) = &call.if_match {
            request = request.header("if-match", tag);
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(value) = &self.tenant {
            request = request.header("x-tenant-id", value);
        }
        request
    }
}

/// A body that is read as it arrives.
#[derive(Debug)]
pub(crate) struct Stream {
    base: Url,
    response: Response,
}

impl Stream {
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.response.chunk().await.map_err(|error| transport(&self.base, error))
    }
}

fn transport(base: &Url, source: reqwest::Error) -> ClientError {
    let node = base.as_str().trim_end_matches('/').to_owned();
    // Only a connection that never came about proves that nothing was sent.
    let sent = !source.is_connect();
    ClientError::Transport { node, sent, source: source.without_url() }
}

fn parse_base(text: &str) -> Result<Url, ClientError> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let unusable = |reason: String| ClientError::Setup(format!("{text:?} is no URL: {reason}"));
    let url = Url::parse(&with_scheme).map_err(|error| unusable(error.to_string()))?;
    if url.cannot_be_a_base() || url.host_str().is_none() {
        return Err(unusable("it names no host".to_owned()));
    }
    Ok(url)
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn secret_header(key: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| ClientError::Setup("the key holds characters that no key has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
