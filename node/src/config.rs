//! Settings: the embedded defaults, under a file, under the environment, under flags. The defaults name
//! every key there is, so a key that is not among them is a mistake.

use std::ops::RangeInclusive;
use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use actors::backup::{Place, S3};
use actors::inference::EngineChoice;

/// Every setting with its default and a comment.
pub const DEFAULTS: &str = include_str!("../config.default.toml");
/// A certificate must last for a few renewals that fail, and not be worth stealing.
const CERTIFICATE_S: RangeInclusive<u32> = 6..=30 * 24 * 3600;
/// Variables of the command line that are not settings of a node.
pub const OF_THE_COMMAND_LINE: [&str; 30] = [
    "SKEP_ADVERTISE_HTTP",
    "SKEP_ADVERTISE_PEER",
    "SKEP_BACKUP",
    "SKEP_BIN",
    "SKEP_CLUSTER",
    "SKEP_CONFIG",
    "SKEP_DATA",
    "SKEP_FAILPOINTS",
    "SKEP_FROM",
    "SKEP_HTTP",
    "SKEP_HTTP_PORT",
    "SKEP_JOIN",
    "SKEP_KEEP",
    "SKEP_KEY",
    "SKEP_KEY_FILE",
    "SKEP_LOG",
    "SKEP_NODE",
    "SKEP_NODES",
    "SKEP_OUTPUT",
    "SKEP_PEER",
    "SKEP_PEER_DIAL",
    "SKEP_PEER_PORT",
    "SKEP_QUIET",
    "SKEP_SCOPES",
    "SKEP_SET",
    "SKEP_TENANT",
    "SKEP_TOKEN_FILE",
    "SKEP_VERBOSE",
    "SKEP_VERSION",
    "SKEP_WAIT_S",
];

/// The variables of this process that are text.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The settings of a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    pub cluster: Cluster,
    pub inference: Inference,
    pub cache: Cache,
    pub http: Http,
    pub log: Log,
    pub storage: Storage,
    pub backup: Backup,
    pub s3: S3,
    pub audit: Audit,
}

/// Addresses.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub http: String,
    pub peer: String,
    pub advertise_http: String,
    pub advertise_peer: String,
    pub certificate_s: u32,
    pub labels: String,
    pub weight: u32,
}

/// The cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub replace_after_s: u32,
}

/// Inference.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inference {
    pub engine: EngineChoice,
    pub library: String,
    pub slots: u16,
    pub delay_ms: u32,
    pub models_mib: u32,
    pub batch_mib: u32,
    pub batch_limit_s: u16,
}

/// The result cache.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub ttl_s: u32,
}

/// The client port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub connections_max: u32,
    pub drain_s: u16,
}

/// Checkpoints.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    pub checkpoint_log_mib: u16,
    pub checkpoint_s: u16,
    pub keep_entries: u32,
}

/// Backups.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    pub to: String,
    /// What `to` names.
    #[serde(skip)]
    pub place: Option<Place>,
    pub every_s: u32,
    pub keep: u32,
}

/// Logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

/// The audit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    pub reads_per_mille: u32,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Pretty,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{file}: {cause}")]
    Unreadable { file: String, cause: std::io::Error },
    #[error("{source_name}: {cause}")]
    Syntax { source_name: String, cause: String },
    #[error("{source_name}: unknown key {key}{}", hint(.nearest.as_deref()))]
    Unknown { source_name: String, key: String, nearest: Option<String> },
    #[error("{source_name}: {key} must be {wanted}")]
    Type { source_name: String, key: String, wanted: &'static str },
    #[error("{0}")]
    Value(String),
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |key| format!("; did you mean {key}?"))
}

/// Where overrides come from, weakest first.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    pub file: Option<&'a Path>,
    pub environment: Vec<(String, String)>,
    /// `section.key=value`, in order.
    pub flags: Vec<(String, String)>,
}

/// The settings that result.
pub fn load(sources: &Sources<'_>) -> Result<Config, ConfigError> {
    let table = merged(sources)?;
    let mut config: Config = table.try_into().map_err(in_types)?;
    if !CERTIFICATE_S.contains(&config.node.certificate_s) {
        let (least, most) = (CERTIFICATE_S.start(), CERTIFICATE_S.end());
        let wrong = format!("node.certificate_s must be {least} to {most}");
        return Err(ConfigError::Value(wrong));
    }
    if config.backup.to.is_empty() {
        if config.backup.every_s > 0 {
            return Err(ConfigError::Value("backup.every_s needs backup.to".to_owned()));
        }
        return Ok(config);
    }
    config.backup.place = Some(place_of("backup.to", &config.backup.to, &config.s3, sources)?);
    Ok(config)
}

/// The place of backups that a flag names, reached as the settings say. Only these are looked at: what
/// else is set may be meant for another machine.
pub fn place(flag: &str, text: &str, sources: &Sources<'_>) -> Result<Place, ConfigError> {
    let mut table = merged(sources)?;
    let s3 = table.remove("s3").map(|s3| s3.try_into().map_err(in_types));
    let s3 =
        s3.unwrap_or_else(|| Err(ConfigError::Value("there are no settings s3".to_owned())))?;
    place_of(flag, text, &s3, sources)
}

fn place_of(key: &str, text: &str, s3: &S3, sources: &Sources<'_>) -> Result<Place, ConfigError> {
    let variable = |name: &str| {
        let found = sources.environment.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone())
    };
    let place = Place::parse(text, s3, &variable);
    place.map_err(|error| ConfigError::Value(format!("{key}: {error}")))
}

fn in_types(error: toml::de::Error) -> ConfigError {
    ConfigError::Value(error.message().to_owned())
}

/// The settings that result, as a table with every key.
pub fn merged(sources: &Sources<'_>) -> Result<Table, ConfigError> {
    let mut table: Table = parse("built-in defaults", DEFAULTS)?;
    if let Some(path) = sources.file {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { file: file.clone(), cause })?;
        overlay(&mut table, parse(&file, &text)?, &file)?;
    }
    for (name, value) in &sources.environment {
        if let Some(key) = key_of_variable(&table, name)? {
            set(&mut table, &key, value, name)?;
        }
    }
    for (key, value) in &sources.flags {
        set(&mut table, key, value, "--set")?;
    }
    Ok(table)
}

fn parse(source_name: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let cause = error.to_string().trim_end().replace('\n', " ");
        ConfigError::Syntax { source_name: source_name.to_owned(), cause }
    })
}

fn overlay(table: &mut Table, over: Table, source_name: &str) -> Result<(), ConfigError> {
    for (section, values) in over {
        let Value::Table(values) = values else {
            return Err(unknown(table, &section, source_name));
        };
        for (key, value) in values {
            let key = format!("{section}.{key}");
            let text = match value {
                Value::String(text) => text,
                Value::Integer(number) => number.to_string(),
                Value::Boolean(flag) => flag.to_string(),
                Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                    return Err(unknown(table, &key, source_name));
                }
            };
            set(table, &key, &text, source_name)?;
        }
    }
    Ok(())
}

/// Sets a key that exists, in the type of its default.
fn set(table: &mut Table, key: &str, text: &str, source_name: &str) -> Result<(), ConfigError> {
    let place = key.split_once('.').and_then(|(section, name)| {
        table.get_mut(section).and_then(Value::as_table_mut).and_then(|table| table.get_mut(name))
    });
    let Some(place) = place else { return Err(unknown(table, key, source_name)) };
    let wrong = |wanted| ConfigError::Type {
        source_name: source_name.to_owned(),
        key: key.to_owned(),
        wanted,
    };
    *place = match place {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        Value::String(_)
        | Value::Float(_)
        | Value::Datetime(_)
        | Value::Array(_)
        | Value::Table(_) => Value::String(text.to_owned()),
    };
    Ok(())
}

/// `SKEP_INFERENCE_DELAY_MS` is `inference.delay_ms`; other programs' variables are none.
fn key_of_variable(table: &Table, name: &str) -> Result<Option<String>, ConfigError> {
    if OF_THE_COMMAND_LINE.contains(&name) {
        return Ok(None);
    }
    // The name that demonstrations use.
    if name == "SKEP_ENGINE_DELAY_MS" {
        return Ok(Some("inference.delay_ms".to_owned()));
    }
    let Some(rest) = name.strip_prefix("SKEP_") else { return Ok(None) };
    let wanted = rest.to_lowercase();
    let found = keys(table).into_iter().find(|key| key.replace('.', "_") == wanted);
    let section = wanted.split('_').next().unwrap_or_default();
    match found {
        Some(key) => Ok(Some(key)),
        None if table.contains_key(section) => Err(unknown(table, &wanted, name)),
        None => Ok(None),
    }
}

fn keys(table: &Table) -> Vec<String> {
    let of_section = |(section, values): (&String, &Value)| {
        let names = values.as_table().map(|values| values.keys().cloned().collect::<Vec<_>>());
        names
            .unwrap_or_default()
            .into_iter()
            .map(|name| format!("{section}.{name}"))
            .collect::<Vec<_>>()
    };
    table.iter().flat_map(of_section).collect()
}

fn unknown(table: &Table, key: &str, source_name: &str) -> ConfigError {
    let nearest = keys(table).into_iter().min_by_key(|known| distance(known, key));
    ConfigError::Unknown { source_name: source_name.to_owned(), key: key.to_owned(), nearest }
}

/// Levenshtein distance, for the nearest name.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn later_sources_win() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"[inference]\nslots = 1\ndelay_ms = 1\n").unwrap();
        let sources = Sources {
            file: Some(file.path()),
            environment: pairs(&[("SKEP_INFERENCE_SLOTS", "2"), ("SKEP_ENGINE_DELAY_MS", "3")]),
            flags: pairs(&[("inference.delay_ms", "4")]),
        };
        let config = load(&sources).unwrap();
        assert_eq!((config.inference.slots, config.inference.delay_ms), (2, 4));
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_nearest_name() {
        let misspelt = |environment, flags| {
            let sources = Sources { file: None, environment, flags };
            load(&sources).unwrap_err().to_string()
        };
        let flag = misspelt(Vec::new(), pairs(&[("inference.slot", "1")]));
        assert_eq!(flag, "--set: unknown key inference.slot; did you mean inference.slots?");
        let variable = misspelt(pairs(&[("SKEP_HTTP_DRAIN", "1")]), Vec::new());
        assert!(variable.contains("did you mean http.drain_s?"), "{variable}");
        let value = misspelt(Vec::new(), pairs(&[("inference.slots", "many")]));
        assert_eq!(value, "--set: inference.slots must be a whole number");
    }

    #[test]
    fn a_place_of_backups_is_a_path_or_a_bucket_and_mistakes_are_told() {
        let told = |flags: &[(&str, &str)]| {
            let loaded = load(&Sources { flags: pairs(flags), ..Sources::default() });
            let place = |config: Config| config.backup.place.map(|place| place.to_string());
            loaded.map(place).map_err(|error| error.to_string())
        };
        let s3 = ("backup.to", "s3://backups/skep");
        assert_eq!(told(&[]), Ok(None));
        assert_eq!(told(&[("backup.to", "/mnt/b")]), Ok(Some("/mnt/b".to_owned())));
        assert_eq!(told(&[s3]), Ok(Some("s3://backups/skep".to_owned())));
        for (flags, wanted) in [
            (vec![("backup.to", "b")], "backup.to: must be an absolute path or s3://BUCKET/PREFIX"),
            (vec![("backup.every_s", "9")], "backup.every_s needs backup.to"),
            (vec![s3, ("s3.timeout_s", "0")], "backup.to: s3.timeout_s must be 1 to 300"),
            (
                vec![s3, ("s3.endpoint", "http://127.0.0.1:9000")],
                "backup.to: s3.endpoint: http needs s3.plain_http, and a loopback address such as \
                 127.0.0.1",
            ),
        ] {
            assert_eq!(told(&flags), Err(wanted.to_owned()));
        }
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let environment = pairs(&[("SKEP_KEY", "x"), ("PATH", "/bin"), ("SKEP_WHATEVER", "1")]);
        assert!(load(&Sources { environment, ..Sources::default() }).is_ok());
    }
}
