//! What the scripts share: a cluster of three, one at a time, and tenants on it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::raw::{Request, Response};
use tests::{Cluster, Options};
use tokio::sync::Mutex;

pub(crate) const NODES: usize = 3;

// Two clusters at once on two cores are slower than one after the other, and time out.
static TURN: Mutex<()> = Mutex::const_new(());

/// Plays a script on three nodes. The panic comes while the cluster lives, so its logs are kept.
pub(crate) async fn on_three_nodes(
    options: Options,
    script: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) {
    let _turn = TURN.lock().await;
    let played = match Cluster::start(NODES, options).await {
        Ok(mut cluster) => script(&mut cluster).await.map_err(|error| (error, Some(cluster))),
        Err(error) => Err((error, None)),
    };
    if let Err((error, _cluster)) = played {
        panic!("{error:#}");
    }
}

/// A tenant with its first key, which has every scope.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) key: String,
}

/// Makes a tenant through node 0. `more` are further fields of the request.
pub(crate) async fn account(cluster: &Cluster, name: &str, more: Value) -> Result<Account> {
    let mut body = json!({"name": name, "plan": "enterprise"});
    let fields = body.as_object_mut().context("an object")?;
    fields.extend(more.as_object().cloned().unwrap_or_default());
    let made = operator(cluster, 0, "POST", "/v1/tenants", Some(&body)).await?.ok(201)?;
    Ok(Account { id: text(&made, "id")?, key: text(&made, "api_key")? })
}

/// An operator's request to node `i`.
pub(crate) async fn operator(
    cluster: &Cluster,
    i: usize,
    method: &str,
    target: &str,
    body: Option<&Value>,
) -> Result<Response> {
    call(cluster, i, cluster.admin_key()?, method, target, body).await
}

/// A request to node `i` with a key.
pub(crate) async fn call(
    cluster: &Cluster,
    i: usize,
    key: &str,
    method: &str,
    target: &str,
    body: Option<&Value>,
) -> Result<Response> {
    let mut request = Request::new(method, target).bearer(key);
    if let Some(body) = body {
        request = request.json(body.to_string());
    }
    request.send(&cluster.url(i)).await
}

/// The text of a member.
pub(crate) fn text(value: &Value, name: &str) -> Result<String> {
    let text = value[name].as_str().with_context(|| format!("no text {name} in {value}"))?;
    Ok(text.to_owned())
}

/// Fails with both values unless they are equal.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<()> {
    ensure!(got == wanted, "{what}: {got:?}, expected {wanted:?}");
    Ok(())
}

/// A proof that this machine cannot give.
#[expect(clippy::print_stderr, reason = "a skipped proof must be seen")]
pub(crate) fn skipped(what: &str, reason: &str) {
    eprintln!("SKIPPED 1 test, {what}: {reason}");
    // Counted by whoever runs the tests.
    if let Some(path) = std::env::var_os("SKEP_SKIPPED") {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let line = format!("{what}: {}\n", reason.replace('\n', " "));
        file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()))
            .expect("SKEP_SKIPPED is a file that can be written");
    }
}
