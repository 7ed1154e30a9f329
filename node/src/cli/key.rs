//! `skep key`: the keys of a tenant.

use client::keys::{Key, NewKey};

use super::Context;
use super::failure::Failure;
use super::output::Output;

const PAGE: u32 = 1_000;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Create a key and show it, once
    Create {
        /// A name for people; need not be unique
        name: String,
        /// What the key may do; repeat or separate by commas [default: what the caller may]
        #[arg(long, env = "SKEP_SCOPES", value_name = "SCOPE", value_delimiter = ',')]
        scope: Vec<String>,
    },
    /// All keys
    List,
    /// Revoke a key on every node
    Revoke {
        /// The key's number
        key_id: u64,
    },
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::Create { name, scope } => {
            let scopes = (!scope.is_empty()).then_some(scope);
            let key = NewKey { name, scopes, expires_at: None };
            let created = client.create_key(&key, &client::fresh_key()).await?.body;
            print_new(&created, context.output)
        }
        Command::List => {
            let mut keys = Vec::new();
            let mut cursor = None;
            loop {
                let page = client.keys(Some(PAGE), cursor.as_deref()).await?.body;
                keys.extend(page.data);
                cursor = page.next_cursor;
                if !page.has_more || cursor.is_none() {
                    return print(&keys, context.output);
                }
            }
        }
        Command::Revoke { key_id } => {
            client.revoke_key(key_id).await?;
            context.output.note(&format!("key {key_id} is revoked on every node"));
            Ok(())
        }
    }
}

fn print_new(key: &Key, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(key)?);
    }
    let secret = key.api_key.as_deref().unwrap_or("-");
    let rows = vec![vec![key.key_id.to_string(), secret.to_owned()]];
    Ok(output.table(&["KEY", "API KEY (shown once)"], rows)?)
}

fn print(keys: &[Key], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(keys.iter().try_for_each(|key| output.json(key))?);
    }
    let rows = keys.iter().map(|key| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (name, status, created) = (text(&key.name), text(&key.status), text(&key.created_at));
        let prefix = key.key_prefix.clone();
        vec![key.key_id.to_string(), name, prefix, key.scopes.join(","), status, created]
    });
    Ok(output.table(&["KEY", "NAME", "PREFIX", "SCOPES", "STATUS", "CREATED"], rows.collect())?)
}
