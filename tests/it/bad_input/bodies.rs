//! Bodies that no route can mean anything by.

use super::Case;
use super::routes::Route;

/// Nothing of this is JSON as the contract has it.
fn unreadable() -> Vec<(&'static str, Vec<u8>)> {
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let deep =
        |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    vec![
        ("an open brace", b"{".to_vec()),
        ("nonsense", b"nonsense".to_vec()),
        ("a space", b" ".to_vec()),
        ("trailing garbage", b"{} x".to_vec()),
        ("two values", b"{}{}".to_vec()),
        ("a duplicate key", br#"{"name":"a","name":"a"}"#.to_vec()),
        ("a duplicate key, escaped", br#"{"name":"a","n\u0061me":"a"}"#.to_vec()),
        ("a duplicate key, deep", br#"{"x":[{"a":1,"a":1}]}"#.to_vec()),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec()),
        ("UTF-16", utf16),
        ("invalid UTF-8", b"{\"name\":\"\xff\"}".to_vec()),
        ("overlong UTF-8", b"{\"name\":\"\xc0\xaf\"}".to_vec()),
        ("a surrogate in UTF-8", b"{\"name\":\"\xed\xa0\x80\"}".to_vec()),
        ("a lone surrogate", br#"{"name":"\ud800"}"#.to_vec()),
        ("NaN", br#"{"name":NaN}"#.to_vec()),
        ("Infinity", br#"{"name":-Infinity}"#.to_vec()),
        ("leading zeros", br#"{"name":007}"#.to_vec()),
        ("single quotes", b"{'name':'a'}".to_vec()),
        ("a trailing comma", br#"{"name":"a",}"#.to_vec()),
        ("a comment", br#"{/**/}"#.to_vec()),
        ("a control character", b"{\"name\":\"a\x01\"}".to_vec()),
        ("a NUL", b"{}\0".to_vec()),
        ("a depth of 128", deep(127)),
        ("a depth of 100,000", deep(100_000)),
    ]
}

/// JSON, and no object with fields of the route.
const MEANINGLESS: [(&str, &str); 9] = [
    ("null", ""),
    ("[]", ""),
    ("\"text\"", ""),
    ("5", ""),
    ("true", ""),
    (r#"{"surprise":1}"#, "/surprise"),
    (r#"{"sur/pr~ise":null}"#, "/sur~1pr~0ise"),
    (r#"{"tenant_id":"x","role":"admin","balance":1}"#, "/role"),
    (r#"{"surprise":1e400}"#, "/surprise"),
];

pub(super) fn cases(route: &Route) -> Vec<Case> {
    let mut cases = Vec::new();
    if !route.takes_a_body() {
        return cases;
    }
    let name = route.name();
    let request = || route.valid_line();
    for (what, body) in unreadable() {
        let claim = format!("{name}: a body of {what}");
        cases.push(Case::new(claim, request().json(body), 400, "malformed"));
    }
    for (body, pointer) in MEANINGLESS {
        let case = Case::new(format!("{name}: {body}"), request().json(body), 422, "validation");
        cases.push(case.at(pointer));
    }
    let many: Vec<String> = (0..30).map(|n| format!("\"f{n}\":1")).collect();
    let many = request().json(format!("{{{}}}", many.join(",")));
    cases.push(Case::new(format!("{name}: 30 mistakes"), many, 422, "validation"));

    let nonsense = request().json(vec![b'x'; 10 << 20]);
    let (status, code) =
        if route.body_bytes_max() < 10 << 20 { (413, "too_large") } else { (400, "malformed") };
    cases.push(Case::new(format!("{name}: 10 MB of nonsense"), nonsense, status, code));
    let announced = (route.body_bytes_max() + 1).to_string();
    let expecting = request()
        .header("Content-Type", "application/json")
        .header("Content-Length", announced)
        .header("Expect", "100-continue");
    let claim = format!("{name}: too much announced, nothing sent");
    cases.push(Case::new(claim, expecting, 413, "too_large"));

    let body = || request().body("{\"surprise\":1}");
    for (what, request) in [
        ("no type", body()),
        ("text/plain", body().header("Content-Type", "text/plain")),
        ("a form", body().header("Content-Type", "application/x-www-form-urlencoded")),
        ("UTF-16", body().header("Content-Type", "application/json; charset=utf-16")),
        ("two types", request().header("Content-Type", "application/json").json("{}")),
        ("no boundary", body().header("Content-Type", "multipart/form-data")),
        ("gzip", request().header("Content-Encoding", "gzip").json("{}")),
        ("two codings", request().header("Content-Encoding", "identity, gzip").json("{}")),
    ] {
        let claim = format!("{name}: content of {what}");
        cases.push(Case::new(claim, request, 415, "unsupported_media_type"));
    }
    cases
}
