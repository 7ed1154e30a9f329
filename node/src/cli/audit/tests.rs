use protocol::audit::{Linked, Note};
use protocol::{KeyId, Time};

use super::*;

fn records(count: u64) -> Vec<Record> {
    let mut prev = NOTHING;
    let mut all = Vec::new();
    for seq in 1..=count {
        let note = Note {
            request: format!("req_{seq}"),
            actor: "sk_live_…abcd".to_owned(),
            key: Some(KeyId(1)),
            method: "POST".to_owned(),
            path: "/v1/scan".to_owned(),
            address: "127.0.0.1".to_owned(),
            body: Digest([seq as u8; 32]),
            status: 200,
            ms: 3,
            once: seq % 2 == 0,
        };
        let record = protocol::audit::Record {
            seq,
            time: Time(1_795_219_200_000 + seq),
            index: seq * 2,
            status: 200,
            note,
            code: "ok".to_owned(),
            response: Digest([9; 32]),
            replayed: false,
            count: 1,
        };
        let mut shown = Record::of(&Linked { record, prev, hash: NOTHING });
        prev = shown.computed();
        shown.hash = prev.to_string();
        all.push(shown);
    }
    all
}

fn checkpoint(records: &[Record]) -> Checkpoint {
    let head = records.last().map_or(NOTHING, Record::computed);
    Checkpoint {
        kind: "checkpoint".to_owned(),
        cluster_id: ClusterId(1).to_string(),
        tenant_id: TenantId(2).to_string(),
        seq: records.len() as u64,
        head: head.to_string(),
        signatures: Vec::new(),
    }
}

fn lines(records: &[Record], checkpoint: Option<&Checkpoint>) -> Vec<String> {
    let end = checkpoint.map(|end| serde_json::to_string(end).unwrap());
    let records = records.iter().map(|record| serde_json::to_string(record).unwrap());
    records.chain(end).collect()
}

fn judge(lines: &[String]) -> Result<String, Fault> {
    let mut chain = Chain::default();
    for line in lines {
        chain.line(line)?;
    }
    chain.end(None)
}

#[test]
fn a_whole_export_holds_and_says_what_was_not_checked() {
    let records = records(5);
    let told = judge(&lines(&records, Some(&checkpoint(&records)))).unwrap();
    assert!(told.starts_with("5 records") && told.contains("integrity only"));
    assert!(judge(&lines(&[], Some(&checkpoint(&[])))).is_ok());
}

#[test]
fn every_changed_byte_is_found_at_its_record() {
    let records = records(3);
    let whole = lines(&records, Some(&checkpoint(&records)));
    for number in 0..3 {
        for at in 0..whole[number].len() {
            let mut bytes = whole[number].clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let mut changed = whole.clone();
            changed[number] = text;
            let fault = judge(&changed).expect_err(&changed[number]);
            let seq = number as u64 + 1;
            let found = [Fault::Changed(seq), Fault::Missing(seq), Fault::Inserted(seq)];
            assert!(found.contains(&fault), "byte {at} of {seq}: {fault}");
        }
    }
}

#[test]
fn what_is_missing_inserted_or_cut_off_is_named() {
    let records = records(4);
    let end = checkpoint(&records);
    let whole = lines(&records, Some(&end));
    let without = |number: usize| {
        let mut less = whole.clone();
        less.remove(number);
        judge(&less).unwrap_err()
    };
    assert_eq!(without(0), Fault::Missing(1));
    assert_eq!(without(1), Fault::Missing(2));
    assert_eq!(without(3), Fault::Truncated(4));
    assert_eq!(without(4), Fault::Truncated(5));
    let mut twice = whole.clone();
    twice.insert(2, whole[1].clone());
    assert_eq!(judge(&twice).unwrap_err(), Fault::Inserted(3));
    let mut swapped = whole.clone();
    swapped.swap(1, 2);
    assert_eq!(judge(&swapped).unwrap_err(), Fault::Missing(2));
    let mut more = whole.clone();
    more.push(whole[3].clone());
    assert_eq!(judge(&more).unwrap_err(), Fault::Inserted(5));
    // Rewritten from the second record on, whole in itself, under the old checkpoint.
    let mut forged = records;
    forged[1].path = "/v1/me".to_owned();
    for at in 1..4 {
        let prev = forged[at - 1].computed().to_string();
        forged[at].prev = prev;
        forged[at].hash = forged[at].computed().to_string();
    }
    assert_eq!(judge(&lines(&forged, Some(&end))).unwrap_err(), Fault::Changed(4));
}

#[test]
fn signatures_of_strangers_and_too_few_of_ours_do_not_count() {
    use actors::audit::{Signer, key_id};
    use protocol::wire::audit::{Signature, TrustedKey};
    let records = records(2);
    let mut end = checkpoint(&records);
    let key = |node: u8| TrustedKey {
        node: format!("n{node}"),
        key_id: key_id(&Signer::public(&[node; 32])),
        algorithm: "ed25519".to_owned(),
        public_key: Digest(Signer::public(&[node; 32])).to_string(),
    };
    let trust = Trust {
        cluster_id: ClusterId(1).to_string(),
        quorum: 2,
        cluster_quorum: 3,
        nodes: (1..=3).map(key).collect(),
    };
    let hex = |sig: &[u8]| sig.iter().map(|byte| format!("{byte:02x}")).collect();
    let head = records[1].computed();
    let bytes = signed(ClusterId(1), TenantId(2), 2, &head);
    let sign = |node: u8, secret: u8| Signature {
        node: format!("n{node}"),
        key_id: key(node).key_id,
        sig: hex(&Signer::sign_bytes(&[secret; 32], &bytes)),
    };
    end.signatures = vec![sign(1, 1), sign(1, 1)];
    assert!(signers(&end, &head, &trust).is_err(), "one node twice");
    end.signatures = vec![sign(1, 1), sign(2, 9)];
    assert!(signers(&end, &head, &trust).is_err(), "a false signature");
    end.signatures = vec![sign(1, 1), sign(3, 3)];
    assert_eq!(signers(&end, &head, &trust), Ok(2));
    let bytes = signed(ClusterId(1), TenantId::CLUSTER, 2, &head);
    let sign = |node: u8| Signature {
        node: format!("n{node}"),
        key_id: key(node).key_id,
        sig: hex(&Signer::sign_bytes(&[node; 32], &bytes)),
    };
    let mut of_cluster = checkpoint(&records);
    of_cluster.tenant_id = TenantId::CLUSTER.to_string();
    of_cluster.signatures = vec![sign(1), sign(2)];
    assert!(signers(&of_cluster, &head, &trust).is_err(), "the cluster's needs one more");
    of_cluster.signatures.push(sign(3));
    assert_eq!(signers(&of_cluster, &head, &trust), Ok(3));
    let other = Trust { cluster_id: ClusterId(5).to_string(), ..trust };
    assert!(signers(&end, &head, &other).is_err(), "another cluster");
}
