//! The settings that a launcher's environment holds for its nodes, as `--set key=value`: a node's
//! command must mean the same when it is run again without that environment.

use crate::config::{self, OF_THE_COMMAND_LINE};

/// Variables whose name is not the key of the setting.
const NAMED_OTHERWISE: [(&str, &str); 1] = [("SKEP_ENGINE_DELAY_MS", "inference.delay_ms")];

/// A setting whose value must not appear in an argument list.
const SECRET_WORDS: [&str; 5] = ["KEY", "PASSWORD", "PEPPER", "SECRET", "TOKEN"];

/// The variables that belong to the command line.
pub(super) fn of_the_command_line() -> impl Iterator<Item = &'static str> {
    OF_THE_COMMAND_LINE.into_iter()
}

/// `key=value` of each setting in this process's environment, in the order of their keys.
pub fn from_environment() -> Vec<String> {
    let mut settings: Vec<_> = config::environment()
        .into_iter()
        .filter_map(|(name, value)| setting(&name, &value))
        .collect();
    settings.sort();
    settings
}

fn setting(name: &str, value: &str) -> Option<String> {
    if let Some((_, key)) = NAMED_OTHERWISE.iter().find(|(other, _)| *other == name) {
        return Some(format!("{key}={value}"));
    }
    let secret = name.split('_').any(|word| SECRET_WORDS.contains(&word));
    if secret || OF_THE_COMMAND_LINE.contains(&name) {
        return None;
    }
    let rest = name.strip_prefix("SKEP_")?;
    let (section, key) = rest.split_once("__").or_else(|| rest.split_once('_'))?;
    let key = format!("{section}.{}", key.replace("__", ".")).to_lowercase();
    Some(format!("{key}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(setting(name, "7").as_deref(), expected, "{name}");
    }

    #[test]
    fn settings_become_flags_and_nothing_else_does() {
        check("SKEP_ENGINE_DELAY_MS", Some("inference.delay_ms=7"));
        check("SKEP_INFERENCE_SLOTS", Some("inference.slots=7"));
        check("SKEP_INFERENCE__BATCH_MAX", Some("inference.batch_max=7"));
        check("SKEP_KEY", None);
        check("SKEP_DATA", None);
        check("SKEP_STORAGE_ROOT_KEY", None);
        check("PATH", None);
    }
}
