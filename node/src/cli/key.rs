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
        /// When it ends, like 2027-01-31T12:00:00Z [default: never]
        #[arg(long, env = "SKEP_EXPIRES_AT", value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// All keys
    List,
    /// Replace a key by a new one with its name, scopes and limits, and show that, once
    Rotate {
        /// The key's number
        key_id: u64,
        /// How long the old key works beside the new one, in seconds; 0 ends it now, on every node
        #[arg(long, env = "SKEP_OVERLAP", value_name = "SECONDS", default_value_t = 0)]
        overlap: u64,
    },
    /// Revoke a key on every node
    Revoke {
        /// The key's number
        key_id: u64,
    },
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::Create { name, scope, expires_at } => {
            let scopes = (!scope.is_empty()).then_some(scope);
            let key = NewKey { name, scopes, expires_at };
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
        Command::Rotate { key_id, overlap } => {
            let new = client.rotate_key(key_id, overlap, &client::fresh_key()).await?.body;
            print_new(&new, context.output)?;
            context.output.note(&match overlap {
                0 => format!("key {key_id} is revoked on every node"),
                _ => format!("key {key_id} ends in {overlap} s"),
            });
            Ok(())
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
        let (name, created, ends) = (text(&key.name), text(&key.created_at), text(&key.expires_at));
        let prefix = key.key_prefix.clone();
        vec![key.key_id.to_string(), name, prefix, key.scopes.join(","), created, ends]
    });
    Ok(output.table(&["KEY", "NAME", "PREFIX", "SCOPES", "CREATED", "ENDS"], rows.collect())?)
}
