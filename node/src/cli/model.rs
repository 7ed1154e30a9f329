//! `skep model`: models of the registry, for operators, and judging the built-in one.

use std::fs;
use std::path::PathBuf;

use actors::blobs::sha256;
use actors::inference::{EVALUATION, EngineChoice, Options, Scanner, evaluate};
use bytes::Bytes;
use client::models::{Alias, Canary, Model, Version};
use protocol::models::ARTEFACT_BYTES_MAX;

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All models but the built-in one
    List,
    /// One model with its versions
    Get {
        /// The model's name
        name: String,
    },
    /// Make a model, without a version yet
    Create {
        /// The model's name
        name: String,
    },
    /// Add a version
    Upload {
        /// The model's name
        name: String,
        /// A tar of manifest.json, model.onnx and, where the manifest asks for it, tokenizer.json
        file: PathBuf,
    },
    /// Let a version serve, once it is warm on every node
    Serve {
        /// The model's name
        name: String,
        /// The number of the version
        version: u32,
        /// Another version that gets a share of the documents
        #[arg(long, env = "SKEP_CANARY", value_name = "VERSION", requires = "per_mille")]
        canary: Option<u32>,
        /// Of a thousand documents
        #[arg(long, env = "SKEP_PER_MILLE", value_name = "N", requires = "canary")]
        per_mille: Option<u16>,
    },
    /// Let serve again what served before
    Rollback {
        /// The model's name
        name: String,
    },
    /// Remove a version that does not serve
    Remove {
        /// The model's name
        name: String,
        /// The number of the version
        version: u32,
    },
    /// Precision and recall of the built-in model per class, on the hand-written evaluation set
    Evaluate,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    if matches!(command, Command::Evaluate) {
        return judge(context);
    }
    let client = context.client()?;
    let once = client::fresh_key();
    match command {
        Command::Evaluate => Ok(()),
        Command::List => print_all(&client.models().await?.body.data, context.output),
        Command::Get { name } => print(&client.model(&name).await?.body, context.output),
        Command::Create { name } => {
            print(&client.create_model(&name, &once).await?.body, context.output)
        }
        Command::Upload { name, file } => {
            let tar = read(&file)?;
            let digest = sha256(&tar).to_string();
            let version = client.upload_model(&name, tar, &digest, &once).await?.body;
            print_versions(&name, std::slice::from_ref(&version), context.output)
        }
        Command::Serve { name, version, canary, per_mille } => {
            let canary = canary.zip(per_mille);
            let canary = canary.map(|(version, per_mille)| Canary { version, per_mille });
            let alias = Alias { version, canary };
            print(&client.set_model_alias(&name, alias, &once).await?.body, context.output)
        }
        Command::Rollback { name } => {
            print(&client.roll_back_model(&name, &once).await?.body, context.output)
        }
        Command::Remove { name, version } => {
            client.remove_model_version(&name, version, &once).await?;
            Ok(context.output.line(&format!("version {version} of {name} is gone"))?)
        }
    }
}

fn read(file: &PathBuf) -> Result<Bytes, Failure> {
    let unreadable = |error| Failure::new(Exit::Usage, format!("{}: {error}", file.display()));
    let bytes = fs::metadata(file).map_err(unreadable)?.len();
    if bytes > ARTEFACT_BYTES_MAX {
        let why = format!("{}: {bytes} bytes are more than {ARTEFACT_BYTES_MAX}", file.display());
        return Err(Failure::new(Exit::Usage, why));
    }
    Ok(Bytes::from(fs::read(file).map_err(unreadable)?))
}

fn print(model: &Model, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(model)?);
    }
    print_all(std::slice::from_ref(model), output)?;
    print_versions(&model.name, &model.versions, output)
}

fn print_all(models: &[Model], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&models)?);
    }
    let row = |model: &Model| {
        let newest = model.versions.last().map(|version| version.version.to_string());
        vec![
            model.name.clone(),
            model.versions.len().to_string(),
            newest.unwrap_or_default(),
            model.alias.map(told).unwrap_or_default(),
            model.previous.map(told).unwrap_or_default(),
        ]
    };
    let heads = ["model", "versions", "newest", "serves", "before"];
    Ok(output.table(&heads, models.iter().map(row).collect())?)
}

fn print_versions(name: &str, versions: &[Version], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&versions)?);
    }
    let row = |version: &Version| {
        let mib = version.bytes as f64 / f64::from(1 << 20);
        vec![
            format!("{name}@{}", version.version),
            version.task.clone(),
            version.precision.clone(),
            format!("{mib:.1} MiB"),
            version.sha256.clone(),
        ]
    };
    let heads = ["version", "task", "precision", "size", "sha256"];
    Ok(output.table(&heads, versions.iter().map(row).collect())?)
}

fn told(alias: Alias) -> String {
    match alias.canary {
        None => alias.version.to_string(),
        Some(Canary { version, per_mille }) => {
            format!("{}, {version} for {per_mille} of 1000", alias.version)
        }
    }
}

fn judge(context: &Context) -> Result<(), Failure> {
    let scanner = Scanner::load(EngineChoice::Auto, Options::default());
    let scanner = scanner.map_err(|error| Failure::failed(error.to_string()))?;
    let report = evaluate(&scanner, EVALUATION);
    let report = report.map_err(|error| Failure::failed(error.to_string()))?;
    let identity = scanner.identity();
    context
        .output
        .line(&format!("{} {} on {}", identity.name, identity.version, identity.engine))?;
    context.output.line(report.to_string().trim_end())?;
    Ok(())
}
