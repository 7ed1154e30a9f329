//! `skep init`: the first operator key of a cluster.

use super::Context;
use super::failure::Failure;

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let key = context.anonymous()?.init().await?.body;
    if context.output.is_json() {
        context.output.json(&serde_json::json!({ "api_key": key }))?;
    } else {
        context.output.line(&key)?;
    }
    context.output.note("This key is shown once. Keep it in a file that only you can read.");
    Ok(())
}
