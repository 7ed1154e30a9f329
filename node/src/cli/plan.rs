//! `skep plan`: the plans of the cluster, for operators.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use client::plans::{Limits, Plan};
use client::{Client, ClientError};
use serde_json::{Map, Value};

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::terms::{Most, Terms, shown, words};

/// A plan with all its features stays far below.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All plans
    List,
    /// One plan
    Get {
        /// The plan's name
        name: String,
    },
    /// Make a plan, or change one with all its tenants
    Set(Box<Set>),
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// The plan's name
    name: String,
    /// The whole plan as JSON, `-` for stdin: what it does not name is lifted; flags come on top.
    /// With a `version` in it, as `plan get -o json` prints it, it is only changed from that one
    #[arg(long, env = "SKEP_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Price of one document in millionths of a US dollar
    #[arg(long, env = "SKEP_UNIT_PRICE_MICROS", value_name = "N")]
    unit_price_micros: Option<u64>,
    /// Price of one that is answered from the cache, at most the other
    #[arg(long, env = "SKEP_CACHED_PRICE_MICROS", value_name = "N")]
    cached_price_micros: Option<u64>,
    /// Features, separated by commas; `none` for none
    #[arg(long, env = "SKEP_FEATURES", value_name = "FEATURE", value_delimiter = ',')]
    features: Option<Vec<String>>,
    /// Days after which a tenant that was made on the plan is refused, or `unlimited`
    #[arg(long, env = "SKEP_TRIAL_DAYS", value_name = "N")]
    trial_days: Option<Most>,
    #[command(flatten)]
    terms: Terms,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::List => print_all(&client.plans().await?.body.data, context.output),
        Command::Get { name } => print(&client.plan(&name).await?.body, context.output),
        Command::Set(set) => {
            let Set { name, file, .. } = &*set;
            let name = name.clone();
            let base = match file {
                Some(path) => from_file(&name, &read(path)?)?,
                None => in_force(&client, &name).await?,
            };
            let base = base.with(set.given());
            if base.terms.is_empty() {
                // Without this, a plan without any limit would be a slip of the fingers away.
                return Err(Failure::new(Exit::Usage, "nothing is said of the plan")
                    .with_hint("set fields with flags, or give the whole plan with --file"));
            }
            let (terms, once) = (Value::Object(base.terms), client::fresh_key());
            let plan = client.put_plan(&name, &terms, base.if_version, &once).await?.body;
            print(&plan, context.output)
        }
    }
}

/// A plan as it is to be, and the version that it replaces.
#[derive(Debug, Default, PartialEq)]
struct Base {
    terms: Map<String, Value>,
    if_version: Option<u64>,
}

impl Base {
    /// Of a plan as the API shows it. Its name is in the path; its version is the cluster's to count.
    fn of(mut shown: Map<String, Value>) -> Base {
        shown.remove("name");
        let if_version = shown.remove("version").and_then(|version| version.as_u64());
        Base { terms: shown, if_version }
    }

    fn with(mut self, fields: Map<String, Value>) -> Base {
        self.terms.extend(fields);
        self
    }
}

impl Set {
    /// The fields of the API that were given as flags.
    fn given(self) -> Map<String, Value> {
        let others = [
            ("unit_price_micros", self.unit_price_micros.map(Value::from)),
            ("cached_price_micros", self.cached_price_micros.map(Value::from)),
            ("features", self.features.map(|features| words(&features))),
            ("trial_days", self.trial_days.map(Value::from)),
        ];
        let others = others.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        self.terms.given().into_iter().chain(others).collect()
    }
}

/// The plan that flags change; one that is not there has nothing, and must not be there meanwhile.
async fn in_force(client: &Client, name: &str) -> Result<Base, Failure> {
    match client.plan(name).await {
        Ok(plan) => match serde_json::to_value(plan.body) {
            Ok(Value::Object(shown)) => Ok(Base::of(shown)),
            Ok(_) | Err(_) => Err(Failure::failed(format!("plan {name} cannot be changed"))),
        },
        Err(ClientError::Problem(problem)) if problem.status == 404 => {
            Ok(Base { terms: Map::new(), if_version: Some(0) })
        }
        Err(error) => Err(error.into()),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let unreadable = |error| Failure::failed(format!("{}: {error}", path.display()));
    let mut text = String::new();
    if path == Path::new("-") {
        let stdin = std::io::stdin().lock();
        stdin.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    } else {
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    }
    Ok(text)
}

fn from_file(name: &str, text: &str) -> Result<Base, Failure> {
    let shown: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        Failure::new(Exit::Usage, format!("the plan is no JSON object: {error}"))
    })?;
    if let Some(other) = shown.get("name").filter(|other| *other != name) {
        return Err(Failure::new(Exit::Usage, format!("the file is of plan {other}, not {name}")));
    }
    Ok(Base::of(shown))
}

fn print_all(plans: &[Plan], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(plans.iter().try_for_each(|plan| output.json(plan))?);
    }
    let rows = plans.iter().map(|plan| {
        let Limits { rate, key_rate, per_month, .. } = plan.limits;
        let price = dollars(plan.unit_price_micros);
        let days = plan.trial_days.map(|days| days.to_string()).unwrap_or_default();
        let limits = [rate, key_rate, per_month].map(shown);
        let [rate, key_rate, per_month] = limits;
        let version = plan.version.to_string();
        vec![plan.name.clone(), version, rate, key_rate, per_month, price, days]
    });
    let header = ["PLAN", "VERSION", "RATE", "KEY RATE", "PER MONTH", "UNIT PRICE", "TRIAL DAYS"];
    Ok(output.table(&header, rows.collect())?)
}

fn print(plan: &Plan, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(plan)?);
    }
    Ok(output.table(&["FIELD", "VALUE"], fields(plan))?)
}

fn fields(plan: &Plan) -> Vec<Vec<String>> {
    let limits = &plan.limits;
    let listed = |words: &[String]| {
        if words.is_empty() { "none".to_owned() } else { words.join(",") }
    };
    let rows = [
        ("name", plan.name.clone()),
        ("version", plan.version.to_string()),
        ("rate", shown(limits.rate)),
        ("burst", shown(limits.burst)),
        ("key_rate", shown(limits.key_rate)),
        ("key_burst", shown(limits.key_burst)),
        ("per_minute", shown(limits.per_minute)),
        ("per_day", shown(limits.per_day)),
        ("per_month", shown(limits.per_month)),
        ("concurrency", shown(limits.concurrency)),
        ("budget (cents)", shown(limits.budget)),
        ("max_documents", shown(limits.max_documents)),
        ("max_bytes", shown(limits.max_bytes)),
        ("max_backlog", shown(limits.max_backlog)),
        ("max_running", shown(limits.max_running)),
        ("weight", limits.weight.map_or_else(|| "as shipped".to_owned(), |n| n.to_string())),
        ("shadow", listed(&limits.shadow)),
        ("unit price", dollars(plan.unit_price_micros)),
        ("cached price", dollars(plan.cached_price_micros)),
        ("features", listed(&plan.features)),
        ("trial_days", shown(plan.trial_days.map(u64::from))),
    ];
    rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect()
}

/// Millionths of a dollar as dollars, to the last digit.
fn dollars(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let kept = text.trim_end_matches('0').len().max(text.len() - 4);
    format!("${}", &text[..kept])
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        set: Set,
    }

    fn given(flags: &[&str]) -> Map<String, Value> {
        let flags = [&["skep", "gold"], flags].concat();
        Flags::try_parse_from(flags).unwrap().set.given()
    }

    #[test]
    fn what_get_prints_can_be_set_again_and_only_over_the_same_version() {
        let plan = Plan {
            name: "gold".to_owned(),
            limits: Limits { rate: Some(9), ..Limits::default() },
            unit_price_micros: 5,
            cached_price_micros: 1,
            features: vec!["api_access".to_owned()],
            trial_days: None,
            models: None,
            default_model: None,
            version: 4,
        };
        let base = from_file("gold", &serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(base.if_version, Some(4));
        assert!(!base.terms.contains_key("name") && !base.terms.contains_key("version"));
        assert_eq!(base.terms["rate"], 9);
        assert_eq!(base.terms["per_day"], Value::Null);
        let changed = base.with(given(&["--per-day", "8", "--rate", "unlimited"]));
        assert_eq!((&changed.terms["per_day"], &changed.terms["rate"]), (&json!(8), &Value::Null));
        assert_eq!(changed.terms["features"], json!(["api_access"]));
    }

    #[test]
    fn a_file_of_another_plan_or_of_none_is_refused() {
        let other = from_file("gold", r#"{"name": "silver", "rate": 1}"#).unwrap_err();
        assert_eq!(other.message, "the file is of plan \"silver\", not gold");
        assert_eq!(other.exit, Exit::Usage);
        assert!(from_file("gold", "[]").is_err() && from_file("gold", "").is_err());
        // A field that nobody knows is left in, for the API to refuse by its name.
        let odd = from_file("gold", r#"{"raet": 1}"#).unwrap();
        assert_eq!(odd, Base { terms: given_one("raet", 1), if_version: None });
    }

    fn given_one(name: &str, value: u64) -> Map<String, Value> {
        [(name.to_owned(), value.into())].into_iter().collect()
    }

    #[test]
    fn flags_beside_the_limits_are_fields_too() {
        let given = given(&[
            "--unit-price-micros",
            "2000",
            "--features",
            "api_access,custom_models",
            "--trial-days",
            "unlimited",
        ]);
        let wanted = json!({
            "unit_price_micros": 2000,
            "features": ["api_access", "custom_models"],
            "trial_days": null,
        });
        assert_eq!(Value::Object(given), wanted);
    }

    #[test]
    fn prices_are_shown_to_the_last_digit() {
        let shown = [0, 2_000, 10_000, 1_500_000, 1, 123_456_789].map(dollars);
        assert_eq!(shown, ["$0.00", "$0.002", "$0.01", "$1.50", "$0.000001", "$123.456789"]);
    }
}
