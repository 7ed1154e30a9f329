//! `/v1/usage`.

use axum::extract::State;
use axum::response::Response;
use protocol::peer::{Answer, Ask};
use protocol::usage::{Period, Report};
use protocol::wire::{Money, usage as wire};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::app::App;
use super::auth::{Caller, USAGE_READ};
use super::error::Problem;
use super::query::{FromQuery, Parameters, Query};

/// The routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(usage))
}

/// Query of `GET /v1/usage`.
#[derive(Debug)]
struct Asked(Period);

impl FromQuery for Asked {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        let all = [Period::CurrentMonth, Period::LastMonth, Period::YearToDate];
        let words = all.map(|period| (period.name(), period));
        let period = parameters.one_of("period", &words);
        Some(Self(period.unwrap_or(Period::CurrentMonth)))
    }
}

/// What was used, exact to the last acknowledged request
#[utoipa::path(get, path = "/v1/usage", tag = "usage",
    params(("period" = Option<String>, Query, description = "current_month, last_month or ytd")),
    responses((status = 200, description = "Usage", body = wire::Usage)))]
async fn usage(
    State(app): State<App>,
    caller: Caller<USAGE_READ>,
    Query(Asked(period)): Query<Asked>,
) -> Result<Response, Problem> {
    let ask = Ask::Usage { tenant: caller.tenant, period };
    app.ask(caller.tenant, ask).await?.render(|answer, _| {
        let Answer::Usage(Report { usage, limit, remaining, .. }) = answer else { return None };
        Some(wire::Usage {
            period: period.name().to_owned(),
            total_calls: usage.calls,
            documents_scanned: usage.documents,
            documents_cached: usage.cached,
            tokens_processed: usage.tokens,
            cost: Money::usd_of_micros(usage.cost_micros),
            quota_limit: limit,
            quota_remaining: remaining,
        })
    })
}
