use super::*;

struct Usage {
    period: Option<u8>,
    name: String,
}

impl FromQuery for Usage {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        let period = parameters.one_of("period", &[("ytd", 1), ("last_month", 2)]);
        let name = parameters.required("name", |text| Ok::<_, &str>(text.to_owned()));
        Some(Self { period, name: name? })
    }
}

struct Jobs(Page);

impl FromQuery for Jobs {
    fn from_query(parameters: &mut Parameters<'_>) -> Option<Self> {
        parameters.text("status");
        Some(Self(Page::read(parameters)))
    }
}

async fn read<T: FromQuery>(query: &str) -> Result<T, String> {
    let request = axum::http::Request::get(format!("/x?{query}")).body(()).unwrap();
    let mut parts = request.into_parts().0;
    match Query::<T>::from_request_parts(&mut parts, &()).await {
        Ok(Query(value)) => Ok(value),
        Err(problem) => {
            let body: serde_json::Value =
                serde_json::from_slice(&problem.render("/x", "req_1")).unwrap();
            let mistakes = body["errors"].as_array().unwrap().iter();
            let lines = mistakes.map(|mistake| {
                let text = |key: &str| mistake[key].as_str().unwrap().to_owned();
                format!("{} {}", text("pointer"), text("detail"))
            });
            Err(format!("{} {}", body["status"], lines.collect::<Vec<_>>().join("; ")))
        }
    }
}

#[tokio::test]
async fn all_mistakes_are_told_at_once() {
    let usage: Usage = read("period=ytd&name=a+b%20%C3%A9").await.unwrap();
    assert_eq!((usage.period, usage.name.as_str()), (Some(1), "a b é"));
    assert_eq!(
        read::<Usage>("period=x&foo=1&foo=2&bar=%zz&period=ytd").await.err().unwrap(),
        "400 ?foo is repeated; ?bar is not percent-encoded UTF-8; ?period is repeated; \
         ?period must be one of ytd, last_month; ?name is missing; \
         ?foo is not a parameter of this route"
    );
    assert_eq!(read::<()>("a").await, Err("400 ?a is not a parameter of this route".to_owned()));
    assert_eq!(read::<()>("").await, Ok(()));
    assert_eq!(read::<()>("%ff=1").await, Err("400 ? is not percent-encoded UTF-8".to_owned()));
}

#[tokio::test]
async fn limits_are_never_clamped() {
    for good in ["1", "1000"] {
        assert_eq!(read::<Page>(&format!("limit={good}")).await.unwrap().limit.to_string(), good);
    }
    for bad in ["0", "-1", "abc", "1001", "", "1e3", "+5", "1.0", "99999999999999999999"] {
        let answer = read::<Page>(&format!("limit={}", bad.replace('+', "%2B"))).await;
        assert_eq!(answer.err().unwrap(), "400 ?limit must be 1 to 1000", "{bad}");
    }
    assert_eq!(read::<Page>("order=desc").await.unwrap().order, Order::Descending);
    assert!(read::<Page>("order=up").await.is_err());
    assert!(read::<Page>("cursor=").await.is_err());
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_list_only() {
    let key = CursorKey::new([7; 32]);
    let Jobs(first) = read("limit=5&status=failed&order=asc").await.unwrap();
    let cursor = first.next(&key, "tnt_a", "/v1/jobs", b"job_7");
    let page = |query: String| async move { read::<Jobs>(&query).await.unwrap().0 };
    let same = page(format!("order=asc&status=failed&limit=9&cursor={cursor}")).await;
    assert_eq!(same.after(&key, "tnt_a", "/v1/jobs").unwrap(), Some(b"job_7".to_vec()));
    assert_eq!(first.after(&key, "tnt_a", "/v1/jobs").unwrap(), None);

    assert!(same.after(&key, "tnt_b", "/v1/jobs").is_err());
    assert!(same.after(&key, "tnt_a", "/v1/keys").is_err());
    assert!(same.after(&CursorKey::new([8; 32]), "tnt_a", "/v1/jobs").is_err());
    let other = page(format!("order=desc&status=failed&cursor={cursor}")).await;
    assert!(other.after(&key, "tnt_a", "/v1/jobs").is_err());
    for at in 0..cursor.len() {
        let mut altered = cursor.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        let altered = page(format!("order=asc&status=failed&cursor={altered}")).await;
        // The last character has unused bits: it is refused, or it is the same position.
        assert!(altered.after(&key, "tnt_a", "/v1/jobs").is_err(), "byte {at}");
    }
}
