//! `skep tenant`: the tenants of the cluster, for operators.

use client::tenants::{NewTenant, SetPlan, Tenant, unlimited};
use serde_json::{Map, Value};

use super::Context;
use super::failure::Failure;
use super::output::Output;
use super::terms::Terms;

const PAGE: u32 = 1_000;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Create a tenant and show its first key, once
    Create {
        /// A name for people; need not be unique
        name: String,
        /// One of `skep plan list` [default: trial]
        #[arg(long, env = "SKEP_PLAN")]
        plan: Option<String>,
        /// Lift every limit of the plan
        #[arg(long, env = "SKEP_UNLIMITED")]
        unlimited: bool,
    },
    /// All tenants
    List,
    /// One tenant
    Get {
        /// The tenant's id
        id: String,
    },
    /// Refuse a tenant's keys on every node
    Suspend {
        /// The tenant's id
        id: String,
    },
    /// Let a suspended tenant work again
    Resume {
        /// The tenant's id
        id: String,
    },
    /// Put a tenant on a plan
    Plan(Box<Plan>),
}

/// Flags set limits of this tenant over those of the plan, in place of all that it had; without any
/// it keeps them.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// The tenant's id
    id: String,
    /// One of `skep plan list`
    plan: String,
    /// Leave every limit to the plan
    #[arg(long, env = "SKEP_NO_OVERRIDES")]
    no_overrides: bool,
    #[command(flatten)]
    terms: Terms,
}

impl Plan {
    /// The limits beside the plan: all of them, or `None` for those that the tenant has.
    fn overrides(terms: Terms, no_overrides: bool) -> Option<Value> {
        let given: Map<String, Value> = terms.given();
        (no_overrides || !given.is_empty()).then_some(Value::Object(given))
    }
}

pub(super) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        Command::Create { name, plan, unlimited: lift } => {
            let tenant = NewTenant { name, plan, overrides: lift.then(unlimited) };
            let created = client.create_tenant(&tenant, &client::fresh_key()).await?.body;
            print_new(&created, context.output)
        }
        Command::List => {
            let mut tenants = Vec::new();
            let mut cursor = None;
            loop {
                let page = client.tenants(Some(PAGE), cursor.as_deref()).await?.body;
                tenants.extend(page.data);
                cursor = page.next_cursor;
                if !page.has_more || cursor.is_none() {
                    return print(&tenants, context.output);
                }
            }
        }
        Command::Get { id } => print(&[client.tenant(&id).await?.body], context.output),
        Command::Suspend { id } => {
            let tenant = client.suspend_tenant(&id, &client::fresh_key()).await?.body;
            print(&[tenant], context.output)
        }
        Command::Resume { id } => {
            let tenant = client.resume_tenant(&id, &client::fresh_key()).await?.body;
            print(&[tenant], context.output)
        }
        Command::Plan(args) => {
            let Plan { id, plan, no_overrides, terms } = *args;
            let plan = SetPlan { plan, overrides: Plan::overrides(terms, no_overrides) };
            let tenant = client.put_tenant_plan(&id, &plan, &client::fresh_key()).await?.body;
            print(&[tenant], context.output)
        }
    }
}

fn print_new(tenant: &Tenant, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(tenant)?);
    }
    let key = tenant.api_key.as_deref().unwrap_or("-");
    let rows = vec![vec![tenant.id.clone(), tenant.plan.clone(), key.to_owned()]];
    output.table(&["TENANT", "PLAN", "API KEY (shown once)"], rows)?;
    Ok(())
}

fn print(tenants: &[Tenant], output: Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(tenants.iter().try_for_each(|tenant| output.json(tenant))?);
    }
    let rows = tenants.iter().map(|tenant| {
        let created = tenant.created_at.clone().unwrap_or_default();
        let Tenant { id, name, plan, status, .. } = tenant;
        vec![id.clone(), name.clone(), plan.clone(), status.clone(), created]
    });
    Ok(output.table(&["TENANT", "NAME", "PLAN", "STATUS", "CREATED"], rows.collect())?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        plan: Plan,
    }

    fn overrides(flags: &[&str]) -> Option<Value> {
        let flags = [&["skep", "tnt_1", "gold"], flags].concat();
        let Plan { terms, no_overrides, .. } = Flags::try_parse_from(flags).unwrap().plan;
        Plan::overrides(terms, no_overrides)
    }

    #[test]
    fn overrides_are_kept_replaced_or_dropped() {
        assert_eq!(overrides(&[]), None);
        assert_eq!(overrides(&["--no-overrides"]), Some(json!({})));
        let some = overrides(&["--rate", "5", "--per-day", "unlimited", "--shadow", "rate"]);
        assert_eq!(some, Some(json!({"rate": 5, "per_day": null, "shadow": ["rate"]})));
    }
}
