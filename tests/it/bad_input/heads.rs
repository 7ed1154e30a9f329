//! Credentials, queries and headers.

use tests::raw::Request;

use super::Case;
use super::routes::{Guard, Keys, Route};

const NUMBERS: [&str; 9] =
    ["0", "-1", "abc", "1001", "", "1e3", "%2B5", "0.5", "99999999999999999999"];
/// A key of the right form that nobody ever had.
const NONSENSE: &str = "sk_live_nonsense";

pub(super) fn cases(route: &Route, keys: &Keys) -> Vec<Case> {
    let mut cases = Vec::new();
    if !matches!(route.guard, Guard::Open | Guard::Init) {
        credentials(route, keys, &mut cases);
    }
    if !route.is_a_page() {
        queries(route, &mut cases);
    }
    headers(route, &mut cases);
    cases
}

fn credentials(route: &Route, keys: &Keys, cases: &mut Vec<Case>) {
    let name = route.name();
    let mut refused = |what: &str, request: Request| {
        let claim = format!("{name}: {what}");
        cases.push(Case::new(claim, request, 401, "unauthenticated"));
    };
    refused("no credential", route.bare(""));
    // Who is not known learns nothing of what else is wrong.
    refused("no credential and nonsense", route.bare("surprise=1").json("{"));
    for value in ["", "Bearer", "Basic dTpw", "Bearer  x", "Bearer sk_admin_x", "Bearer \u{43a}"] {
        refused(&format!("Authorization {value:?}"), route.bare("").header("Authorization", value));
    }
    let long = "x".repeat(10_000);
    for key in [NONSENSE, &keys.tenant.to_lowercase(), &format!("{}x", keys.tenant), &long] {
        refused("a key that is none", route.bare("").bearer(key));
        refused("the same as X-API-Key", route.bare("").header("X-API-Key", key));
    }
    let both = route.request("").header("X-API-Key", &keys.tenant);
    let twice = route.request("").bearer(&keys.tenant);
    for request in [both, twice] {
        cases.push(Case::new(format!("{name}: two credentials"), request, 400, "malformed"));
    }
    match route.guard {
        Guard::Operator => {
            let request = route.bare("surprise=1").bearer(&keys.tenant);
            let claim = format!("{name}: a tenant's key");
            cases.push(Case::new(claim, request, 403, "scope_missing"));
        }
        Guard::Tenant(scope) => {
            let claim = format!("{name}: an operator who names no tenant");
            let request = route.bare("").bearer(&keys.admin);
            cases.push(Case::new(claim, request, 400, "malformed").at("x-tenant-id"));
            let claim = format!("{name}: a tenant's key that names a tenant");
            let request = route.request("").header("X-Tenant-Id", &keys.id);
            cases.push(Case::new(claim, request, 400, "malformed").at("x-tenant-id"));
            if let Some(scope) = scope {
                let other = if scope == "scan" { &keys.reader } else { &keys.scanner };
                let request = route.bare("surprise=1").bearer(other);
                let claim = format!("{name}: a key without {scope}");
                cases.push(Case::new(claim, request, 403, "scope_missing"));
            }
        }
        Guard::Open | Guard::Init => {}
    }
}

fn queries(route: &Route, cases: &mut Vec<Case>) {
    let name = route.name();
    let mut refused = |query: &str, pointer: &str| {
        let claim = format!("{name}: ?{query}");
        cases.push(Case::new(claim, route.request(query), 400, "malformed").at(pointer));
    };
    refused("surprise=1", "?surprise");
    refused("surprise=1&surprise=2", "?surprise");
    refused("%73urprise", "?surprise");
    refused("surprise=%ff", "?surprise");
    refused("%zz=1", "?");
    let known = route.operation.parameters("query");
    for parameter in &known {
        refused(&format!("{parameter}=x&{parameter}=y"), &format!("?{parameter}"));
        refused(&format!("{parameter}=%zz"), &format!("?{parameter}"));
    }
    if known.contains(&"limit") {
        for number in NUMBERS {
            refused(&format!("limit={number}"), "?limit");
        }
        refused("order=sideways", "?order");
        for cursor in ["", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "%00"] {
            // Whether a cursor is ours is only known once the list is.
            if !route.target.contains("999999") && !route.operation.path.contains("{id}") {
                refused(&format!("cursor={cursor}"), "?cursor");
            }
        }
        let every = "limit=0&order=sideways&surprise=1";
        refused(every, "?limit");
        refused(every, "?order");
        refused(every, "?surprise");
    }
}

fn headers(route: &Route, cases: &mut Vec<Case>) {
    let name = route.name();
    if route.writes() && route.guard != Guard::Init {
        let long = "k".repeat(256);
        for key in ["", "\"\"", "\"open", "\u{e9}", &long, "a\tb"] {
            let request = route.valid_line().header("Idempotency-Key", key);
            let claim = format!("{name}: Idempotency-Key {:?}", &key[..key.len().min(8)]);
            cases.push(Case::new(claim, request, 400, "malformed").at("idempotency-key"));
        }
        let two = route.valid_line().header("Idempotency-Key", "a").header("Idempotency-Key", "a");
        let claim = format!("{name}: two Idempotency-Keys");
        cases.push(Case::new(claim, two, 400, "malformed").at("idempotency-key"));
    }
    if route.operation.parameters("header").contains(&"If-Match") {
        for tag in ["1", "\"x\"", "W/\"1\"", "\"1", "", "\"-1\"", "\"1\", \"2\""] {
            let request = route.request("").header("If-Match", tag).json("{}");
            let claim = format!("{name}: If-Match {tag:?}");
            cases.push(Case::new(claim, request, 400, "malformed").at("if-match"));
        }
    }
}
