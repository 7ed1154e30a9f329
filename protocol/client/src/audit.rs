//! The audit of a tenant, whole.

use crate::{Call, Client, ClientError};

impl Client {
    /// Every record as NDJSON, ending with a signed checkpoint. Verify it with `skep audit verify`.
    pub async fn export_audit(&self) -> Result<String, ClientError> {
        let call = Call::get("/v1/audit/export").accept("application/x-ndjson");
        let body = self.fetch(call).await?.body;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The cluster's own audit in the same form (operator).
    pub async fn export_cluster_audit(&self) -> Result<String, ClientError> {
        let call = Call::get("/admin/v1/audit/export").accept("application/x-ndjson");
        let body = self.fetch(call).await?.body;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The public keys that sign checkpoints, as JSON (operator).
    pub async fn trust(&self) -> Result<String, ClientError> {
        let body = self.fetch(Call::get("/admin/v1/trust")).await?.body;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}
