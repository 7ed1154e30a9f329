//! Limits as flags, for the commands that set them. A flag that is not given says nothing.

use std::str::FromStr;

use serde_json::{Map, Value};

/// A limit on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Most {
    Unlimited,
    Limit(u64),
}

impl FromStr for Most {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unlimited" {
            return Ok(Most::Unlimited);
        }
        text.parse().map(Most::Limit).map_err(|_| "must be a whole number, or `unlimited`")
    }
}

impl From<Most> for Value {
    fn from(most: Most) -> Value {
        match most {
            Most::Unlimited => Value::Null,
            Most::Limit(limit) => limit.into(),
        }
    }
}

/// Every limit is a number, or `unlimited`.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Limits, each a number or `unlimited`")]
pub(super) struct Terms {
    /// Requests per second of the tenant
    #[arg(long, env = "SKEP_RATE", value_name = "N")]
    rate: Option<Most>,
    /// Requests that the tenant's bucket holds
    #[arg(long, env = "SKEP_BURST", value_name = "N")]
    burst: Option<Most>,
    /// Requests per second of one key
    #[arg(long, env = "SKEP_KEY_RATE", value_name = "N")]
    key_rate: Option<Most>,
    /// Requests that the bucket of one key holds
    #[arg(long, env = "SKEP_KEY_BURST", value_name = "N")]
    key_burst: Option<Most>,
    /// Requests per minute
    #[arg(long, env = "SKEP_PER_MINUTE", value_name = "N")]
    per_minute: Option<Most>,
    /// Requests per day of the tenant's time zone
    #[arg(long, env = "SKEP_PER_DAY", value_name = "N")]
    per_day: Option<Most>,
    /// Documents per month of the tenant's time zone
    #[arg(long, env = "SKEP_PER_MONTH", value_name = "N")]
    per_month: Option<Most>,
    /// Requests that run at the same time
    #[arg(long, env = "SKEP_CONCURRENCY", value_name = "N")]
    concurrency: Option<Most>,
    /// Cents per month of the tenant's time zone
    #[arg(long, env = "SKEP_BUDGET", value_name = "N")]
    budget: Option<Most>,
    /// Documents in one request
    #[arg(long, env = "SKEP_MAX_DOCUMENTS", value_name = "N")]
    max_documents: Option<Most>,
    /// Bytes of one request
    #[arg(long, env = "SKEP_MAX_BYTES", value_name = "N")]
    max_bytes: Option<Most>,
    /// Documents that wait in all jobs
    #[arg(long, env = "SKEP_MAX_BACKLOG", value_name = "N")]
    max_backlog: Option<Most>,
    /// Tasks of jobs that run at the same time
    #[arg(long, env = "SKEP_MAX_RUNNING", value_name = "N")]
    max_running: Option<Most>,
    /// Share of the nodes' time beside other tenants, 1 to 100
    #[arg(long, env = "SKEP_WEIGHT", value_name = "N")]
    weight: Option<Most>,
    /// Policies that count and never refuse, separated by commas; `none` for none
    #[arg(long, env = "SKEP_SHADOW", value_name = "POLICY", value_delimiter = ',')]
    shadow: Option<Vec<String>>,
}

impl Terms {
    /// The fields of the API that were given.
    pub(super) fn given(self) -> Map<String, Value> {
        let limits = [
            ("rate", self.rate),
            ("burst", self.burst),
            ("key_rate", self.key_rate),
            ("key_burst", self.key_burst),
            ("per_minute", self.per_minute),
            ("per_day", self.per_day),
            ("per_month", self.per_month),
            ("concurrency", self.concurrency),
            ("budget", self.budget),
            ("max_documents", self.max_documents),
            ("max_bytes", self.max_bytes),
            ("max_backlog", self.max_backlog),
            ("max_running", self.max_running),
            ("weight", self.weight),
        ];
        let limits = limits.into_iter().filter_map(|(name, most)| Some((name, most?.into())));
        let shadow = self.shadow.map(|shadow| ("shadow", words(&shadow)));
        limits.chain(shadow).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A list of words; `none` alone is the empty one.
pub(super) fn words(given: &[String]) -> Value {
    if given == ["none"] { Value::Array(Vec::new()) } else { given.into() }
}

/// A limit in a table.
pub(super) fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        terms: Terms,
    }

    fn given(flags: &[&str]) -> Value {
        let flags = [&["skep"], flags].concat();
        Value::Object(Flags::try_parse_from(flags).unwrap().terms.given())
    }

    #[test]
    fn a_flag_sets_lifts_or_says_nothing() {
        assert_eq!(given(&[]), json!({}));
        let some = given(&["--rate", "5", "--key-burst", "unlimited", "--max-backlog", "0"]);
        assert_eq!(some, json!({"rate": 5, "key_burst": null, "max_backlog": 0}));
        assert_eq!(given(&["--shadow", "rate,per_day"]), json!({"shadow": ["rate", "per_day"]}));
        assert_eq!(given(&["--shadow", "none"]), json!({"shadow": []}));
    }

    #[test]
    fn every_limit_that_the_client_knows_has_a_flag() {
        for name in client::tenants::LIMITS {
            let flag = format!("--{}", name.replace('_', "-"));
            assert_eq!(given(&[&flag, "7"]), json!({ name: 7 }), "{flag}");
        }
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for wrong in ["-1", "1.5", "", "Unlimited", "null", "99999999999999999999"] {
            let flag = format!("--rate={wrong}");
            assert!(Flags::try_parse_from(["skep", &flag]).is_err(), "{wrong}");
        }
    }
}
