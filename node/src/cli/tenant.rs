//! `skep tenant`: the tenants of the cluster, for operators.

use client::tenants::{NewTenant, Tenant, unlimited};

use super::Context;
use super::failure::Failure;
use super::output::Output;

const PAGE: u32 = 1_000;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Create a tenant and show its first key, once
    Create {
        /// A name for people; need not be unique
        name: String,
        /// trial, starter, professional or enterprise
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
