//! Paths, methods, sizes of the head, and bytes that two readers could read as two things.

use tests::raw::Request;

use super::Case;
use super::routes::{Keys, Route};

/// Fields in one head; one more is refused. `Host` and `Connection` are among them.
const HEADERS_MAX: usize = 100;

pub(super) fn cases(route: &Route, all: &[Route]) -> Vec<Case> {
    let mut cases = Vec::new();
    let (name, method) = (route.name(), route.operation.method.as_str());
    let path = route.target.split('?').next().unwrap_or_default();
    let key = |request: Request| request.header("X-API-Key", "x");
    if !route.is_a_page() {
        for wrong in [
            format!("{path}/"),
            format!("/{path}"),
            format!("/v1/%2e%2e{path}"),
            format!("/v1/..{path}"),
            format!("{path}%00"),
            format!("{path}%c0%ae"),
            format!("{path}/%2F"),
            path.to_uppercase(),
        ] {
            // Some of these are another route, most often the id of one; that has its own cases.
            if wrong == path || all.iter().any(|route| route.takes(&wrong)) {
                continue;
            }
            let request = key(Request::new(method, &wrong));
            cases.push(Case::new(format!("{name}: path {wrong}"), request, 404, "not_found"));
        }
    }
    for other in ["TRACE", "BREW", "get"] {
        let request = key(Request::new(other, path));
        cases.push(Case::new(format!("{name}: {other}"), request, 405, "method_not_allowed"));
    }
    let request = key(route.bare("")).header("X-Long", "x".repeat(64 << 10));
    cases.push(Case::new(format!("{name}: a header of 64 kB"), request, 431, "header_too_large"));
    let mut request = key(route.bare(""));
    for n in 3..HEADERS_MAX + 1 {
        request = request.header(&format!("X-{n}"), "x");
    }
    cases.push(Case::new(format!("{name}: 101 headers"), request, 431, "header_too_large"));
    cases
}

/// Each of these has hidden a second request behind the first somewhere.
pub(super) fn smuggling(keys: &Keys) -> Vec<Case> {
    let head = |fields: &str, body: &str| {
        let key = &keys.tenant;
        format!(
            "POST /v1/keys/create?name=smuggled HTTP/1.1\r\nHost: skep\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\n{fields}\r\n{body}"
        )
    };
    let hidden = format!(
        "POST /v1/keys/create?name=hidden HTTP/1.1\r\nHost: skep\r\nX-API-Key: {}\r\nContent-Length: 0\r\n\r\n",
        keys.tenant
    );
    let chunked = |rest: &str| head("Transfer-Encoding: chunked\r\n", rest);
    let malformed = [
        (
            "CL and TE",
            head(
                "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
                &format!("0\r\n\r\n{hidden}"),
            ),
        ),
        (
            "TE and CL",
            head(
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                &format!("0\r\n\r\n{hidden}"),
            ),
        ),
        (
            "two lengths",
            head("Content-Length: 0\r\nContent-Length: 2\r\n", &format!("{{}}{hidden}")),
        ),
        ("a list of lengths", head("Content-Length: 2, 2\r\n", "{}")),
        ("a negative length", head("Content-Length: -1\r\n", "{}")),
        ("a length with a sign", head("Content-Length: +2\r\n", "{}")),
        ("a length beyond 64 bits", head("Content-Length: 18446744073709551617\r\n", "{}")),
        ("a length that is none", head("Content-Length: two\r\n", "{}")),
        ("chunked twice", head("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        ("chunked, not last", head("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("another coding", head("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        ("a space before the colon", head("Content-Length : 2\r\n", "{}")),
        ("a folded field", head("X-Folded: a\r\n b\r\nContent-Length: 2\r\n", "{}")),
        ("a bare LF", head("Content-Length: 2\nX-After: 1\r\n", "{}")),
        ("a bare CR", head("X-Bare: a\rb\r\nContent-Length: 2\r\n", "{}")),
        ("a NUL in a field", head("X-Nul: a\0b\r\nContent-Length: 2\r\n", "{}")),
        ("a NUL in the line", "GET /v1/me\0 HTTP/1.1\r\nHost: skep\r\n\r\n".to_owned()),
        ("no version", "GET /v1/me\r\nHost: skep\r\n\r\n".to_owned()),
        ("a version to come", "GET /v1/me HTTP/3.0\r\nHost: skep\r\n\r\n".to_owned()),
        ("a line of nonsense", "nonsense\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned()),
    ];
    let mut cases: Vec<Case> = malformed
        .into_iter()
        .map(|(claim, bytes)| Case::bytes(claim, bytes, 400, "malformed"))
        .collect();
    for (claim, rest) in [
        ("a chunk size that overflows", "FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n"),
        ("a chunk size that is none", "zz\r\n{}\r\n0\r\n\r\n"),
        ("a negative chunk size", "-2\r\n{}\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "2\r\n{}{}\r\n0\r\n\r\n"),
        ("a chunk ended by a bare LF", "2\n{}\n0\n\n"),
    ] {
        cases.push(Case::bytes(claim, chunked(rest), 400, "malformed"));
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: skep\r\n\r\n", "x".repeat(40 << 10));
    cases.push(Case::bytes("a line of 40 kB", long, 431, "header_too_large"));
    cases
}
