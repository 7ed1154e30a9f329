use axum::body::Body;
use axum::http::Request;

use super::*;
use crate::http::body::DOCUMENTS_BODY_BYTES_MAX;

#[derive(Debug, PartialEq)]
struct Document {
    id: String,
    content: String,
    metadata: Option<serde_json::Value>,
}

impl Document {
    fn read(object: &mut Object<'_, '_>) -> Option<Self> {
        let id = object.required("id", |id| id.text(1..=64));
        let content = object.required("content", |content| content.excess_is_413().text(1..=20));
        let metadata = object.optional("metadata", |metadata| metadata.json());
        Some(Self { id: id?, content: content?, metadata })
    }
}

/// One of everything, as a request type of ours is written.
#[derive(Debug, PartialEq)]
struct Example {
    name: String,
    rate: Option<Option<u64>>,
    priority: Option<u8>,
    docs: Vec<Document>,
}

impl FromShape for Example {
    const BODY_BYTES_MAX: usize = DOCUMENTS_BODY_BYTES_MAX;

    fn from_shape(object: &mut Object<'_, '_>) -> Option<Self> {
        let name = object.required("name", |name| name.parsed(parse_name));
        let rate = object.nullable("rate", |rate| rate.integer(0..=1_000_000));
        let priority = object.optional("priority", |word| word.one_of(&[("low", 1), ("high", 2)]));
        let docs = object.required("docs", |docs| {
            docs.excess_is_413().list(1..=3, |document| document.object(Document::read))
        });
        object.lacking("region", "regions are not part of this build");
        Some(Self { name: name?, rate, priority, docs: docs? })
    }
}

fn parse_name(text: &str) -> Result<String, &'static str> {
    if text.trim() == text && !text.is_empty() {
        Ok(text.to_owned())
    } else {
        Err("has outer spaces")
    }
}

fn request(body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/x").header("content-type", "application/json");
    request.header("idempotency-key", "k").body(body.into()).unwrap()
}

async fn answer<T: FromShape + std::fmt::Debug>(request: Request<Body>) -> String {
    match Json::<T>::from_request(request, &()).await {
        Ok(json) => format!("{:?}", json.value),
        Err(problem) => {
            let body: serde_json::Value =
                serde_json::from_slice(&problem.render("/x", "req_1")).unwrap();
            let lines = body["errors"].as_array().into_iter().flatten().map(|mistake| {
                format!(
                    "{} {}",
                    mistake["pointer"].as_str().unwrap(),
                    mistake["detail"].as_str().unwrap()
                )
            });
            let mut lines: Vec<_> = lines.collect();
            if lines.is_empty() {
                lines.push(body["detail"].as_str().unwrap().to_owned());
            }
            format!("{} {}", body["status"], lines.join("; "))
        }
    }
}

async fn check(body: &'static str, expected: &str) {
    assert_eq!(answer::<Example>(request(body)).await, expected, "{body}");
}

#[tokio::test]
async fn a_good_body_is_read() {
    let body = r#"{"name":"a","rate":null,"priority":"high","docs":[{"id":"1","content":"\u00e9","metadata":{"k":[1,-2,0.5]}}]}"#;
    let json = Json::<Example>::from_request(request(body), &()).await.unwrap();
    assert_eq!(json.value.rate, Some(None));
    assert_eq!(json.value.priority, Some(2));
    assert_eq!(json.value.docs[0].content, "é");
    assert_eq!(json.value.docs[0].metadata, Some(serde_json::json!({"k": [1, -2, 0.5]})));
    assert!(json.marks.parsed.is_some());
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_with_their_pointers() {
    check(
        r#"{"rate":-1,"priority":"x","region":"eu","zz":0,"docs":[{"id":1,"content":""},{"id":null,"a/b":0}]}"#,
        "422 /name is missing; /rate must be 0 to 1000000; /priority must be one of low, high; \
         /docs/0/id must be a string but is a number; /docs/0/content must not be empty; \
         /docs/1/id must be a string, not null; /docs/1/content is missing; \
         /docs/1/a~1b is not a field of this request; \
         /region regions are not part of this build; /zz is not a field of this request",
    )
    .await;
    check(
        r#"{"name":" a","docs":[]}"#,
        "422 /name has outer spaces; /docs must have 1 to 3 items but has 0",
    )
    .await;
    let many =
        format!("{{{}}}", (0..50).map(|n| format!("\"k{n}\":0")).collect::<Vec<_>>().join(","));
    assert_eq!(answer::<Empty>(request(many)).await.matches("is not a field").count(), 20);
}

#[tokio::test]
async fn numbers_are_never_rounded_or_saturated() {
    let rates =
        ["-1", "1000001", "9007199254740993", "9223372036854775808", "18446744073709551616"];
    for rate in rates.into_iter().chain(["0.1", "1.0", "1e3", "-0", "\"5\"", "true", "1e400"]) {
        let body = format!(
            "{{\"name\":\"a\",\"docs\":[{{\"id\":\"1\",\"content\":\"x\"}}],\"rate\":{rate}}}"
        );
        let answer = answer::<Example>(request(body)).await;
        assert!(answer.starts_with("422 /rate "), "{rate}: {answer}");
    }
}

#[tokio::test]
async fn the_top_must_be_an_object() {
    check("null", "422  must be an object but is null").await;
    check("[]", "422  must be an object but is an array").await;
    assert_eq!(answer::<Empty>(request("")).await, "Empty");
    assert_eq!(answer::<Empty>(request("{}")).await, "Empty");
}

#[tokio::test]
async fn unreadable_bodies_are_400() {
    for body in [
        "{",
        "{}x",
        "\u{feff}{}",
        "{\"a\":NaN}",
        "{\"a\":1,\"a\":1}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":01}",
        " ",
    ] {
        let answer = answer::<Empty>(request(body)).await;
        assert!(answer.starts_with("400 ") && answer.contains(" at byte "), "{body}: {answer}");
    }
    assert!(answer::<Empty>(request(vec![b'{', b'"', 0xff, b'"'])).await.starts_with("400 "));
    assert!(answer::<Empty>(request("[".repeat(100_000))).await.starts_with("400 recursion"));
}

#[tokio::test]
async fn sizes_are_413_before_anything_else_is_judged() {
    let body = r#"{"docs":[0,0,0,0]}"#;
    let problem = Json::<Example>::from_request(request(body), &()).await.unwrap_err();
    let body: serde_json::Value = serde_json::from_slice(&problem.render("/x", "r")).unwrap();
    assert_eq!(
        (&body["status"], &body["limit"], &body["got"]),
        (&413.into(), &3.into(), &4.into())
    );
    let long = r#"{"name":"a","docs":[{"id":"1","content":"ééééééééééééééééééééé"}]}"#;
    assert!(answer::<Example>(request(long)).await.starts_with("413 "));
    let announced =
        Request::post("/x").header("content-length", "1048577").body(Body::empty()).unwrap();
    assert!(answer::<Empty>(announced).await.starts_with("413 "));
    assert!(answer::<Empty>(request(vec![b' '; (1 << 20) + 1])).await.starts_with("413 "));
    let bomb = format!("[{}0]", "0,".repeat(600_000));
    assert!(answer::<Example>(request(bomb)).await.starts_with("413 the body has too many values"));
}

#[tokio::test]
async fn the_media_type_must_be_json_in_utf_8() {
    let typed = |media: Option<&str>, body: &'static str| {
        let mut request = Request::post("/x");
        if let Some(media) = media {
            request = request.header("content-type", media);
        }
        answer::<Empty>(request.body(Body::from(body)).unwrap())
    };
    for good in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
    ] {
        assert_eq!(typed(Some(good), "{}").await, "Empty");
    }
    for bad in [
        "text/plain",
        "application/json; charset=utf-16",
        "multipart/form-data",
        "",
        "application/jsonx",
    ] {
        assert!(typed(Some(bad), "{}").await.starts_with("415 "), "{bad}");
    }
    assert!(typed(None, "{}").await.starts_with("415 "));
    assert_eq!(typed(None, "").await, "Empty");
    let encoded = Request::post("/x").header("content-type", "application/json");
    let encoded = encoded.header("content-encoding", "gzip").body(Body::from("{}")).unwrap();
    assert!(answer::<Empty>(encoded).await.starts_with("415 "));
}

#[tokio::test]
async fn a_body_that_crawls_is_408() {
    let window = std::time::Duration::from_millis(300);
    let crawl = futures::stream::unfold((), |()| async {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        Some((Ok::<_, std::io::Error>(" "), ()))
    });
    let started = std::time::Instant::now();
    let headers = HeaderMap::new();
    let read = body::read_at_pace(&headers, Body::from_stream(crawl), 1 << 20, window);
    assert_eq!(read.await.unwrap_err().code(), Code::RequestTimeout);
    assert!(started.elapsed() >= window);
}
