//! What a node says about itself. No credential is needed.

use serde_json::Value;

use crate::{Answer, Call, Client, ClientError, Retry};

/// Whether a node serves, and its own account of why.
#[derive(Debug, Clone)]
pub struct Readiness {
    pub ready: bool,
    pub report: Value,
}

impl Client {
    /// `/readyz?verbose`. A node that answers "not ready" is an answer, not an error, so it
    /// is asked once.
    pub async fn readiness(&self) -> Result<Readiness, ClientError> {
        let call = Call::get("/readyz").query("verbose", Some("true"));
        match self.clone().with_retry(Retry::NEVER).json::<Value>(call).await {
            Ok(answer) => Ok(Readiness { ready: true, report: answer.body }),
            Err(ClientError::Problem(problem)) if problem.status == 503 => {
                Ok(Readiness { ready: false, report: problem.body })
            }
            Err(error) => Err(error),
        }
    }

    /// The node's metrics in the Prometheus text format.
    pub async fn metrics(&self) -> Result<Answer<String>, ClientError> {
        let answer = self.fetch(Call::get("/metrics").accept("text/plain")).await?;
        Ok(answer.map(|body| String::from_utf8_lossy(&body).into_owned()))
    }

    pub async fn version(&self) -> Result<Answer<Value>, ClientError> {
        self.json(Call::get("/version")).await
    }
}
