//! Who is let in, as whom, and how much of it.

use std::collections::BTreeSet;

use keelson_types::{AccessTokens, NewToken, TokenName, TokenRole};
use prost::Message;
use prost_types::FileDescriptorSet;

use super::*;

#[test]
fn the_table_names_calls_that_exist_and_each_once() {
    let set = FileDescriptorSet::decode(keelson_wire::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let calls: Vec<_> = services
        .flat_map(|service| service.method.iter().map(|m| (service.name(), m.name())))
        .collect();
    let mut seen = Vec::new();
    for (service, methods, _) in CALLS {
        for method in *methods {
            assert!(calls.contains(&(service, method)), "{service}.{method} does not exist");
            assert!(!seen.contains(&(service, method)), "{service}.{method} is named twice");
            seen.push((service, method));
        }
    }
}

#[test]
fn somebody_unknown_fills_no_log() {
    let (unknown, known) = (connection(None), connection(Some(Role::Reader)));
    let logged = |of: &Connection| (0..20).filter(|_| of.note_refusal()).count();
    assert_eq!((logged(&unknown), logged(&known)), (1, 20));
}

fn connection(role: Option<Role>) -> Connection {
    let peer = |role| PeerIdentity { name: "x".into(), role, ..PeerIdentity::default() };
    Connection { certificate: role.map(peer), ..Connection::default() }
}

fn book(secret: &AccessSecret, role: TokenRole) -> TokenBook {
    let mut tokens = AccessTokens::default();
    let new = NewToken {
        name: TokenName::new("t").unwrap(),
        role,
        databases: BTreeSet::new(),
        digest: secret.digest(),
        expires_unix_ms: None,
    };
    tokens.issue(&new, false, 1).unwrap();
    let book = TokenBook::default();
    book.replace(&tokens);
    book
}

fn gates(tokens: Option<TokenBook>) -> Gates {
    Gates::new(tokens, Members::default())
}

#[test]
fn the_calls_of_a_client_are_bounded_and_those_of_a_member_are_not() {
    let gates = Gates { calls: Shares::new(2), ..gates(None) };
    let peer = |name: &str, role| PeerIdentity { name: name.into(), role, ..Default::default() };
    let enter = |peer: &PeerIdentity| gates.enter(Some(peer));
    let (ann, bob) = (peer("ann", Role::Writer), peer("bob", Role::Writer));
    let held = [enter(&ann).unwrap(), enter(&ann).unwrap()];
    assert_eq!(enter(&ann).unwrap_err().reason, RefusalReason::Overloaded);
    assert!(enter(&bob).is_ok(), "others are not hindered");
    let by_token = PeerIdentity { by_token: true, ..ann.clone() };
    assert!(enter(&by_token).is_ok(), "a token of the same name is another client");
    let member = peer("m1", Role::Member);
    let many: Vec<_> = (0..4).map(|_| enter(&member)).collect();
    assert!(many.iter().all(Result::is_ok));
    drop(held);
    assert!(enter(&ann).is_ok());
}

fn headers(values: &[&str]) -> HeaderMap {
    let values = values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap()));
    values.collect()
}

#[test]
fn who_is_unknown_gets_health_only_and_an_unknown_role_no_call_of_ours() {
    let (nobody, other) = (connection(None), connection(Some(Role::Other("ops".into()))));
    let none = HeaderMap::new();
    let reason = |path: &str, connection: &Connection| {
        admit(path, &none, connection, &gates(None)).err().map(|refusal| refusal.reason)
    };
    let (unauthenticated, forbidden) =
        (Some(RefusalReason::Unauthenticated), Some(RefusalReason::Forbidden));
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    for (path, of_nobody, of_other) in [
        (OPEN, None, None),
        ("/grpc.health.v1.Health/Watch", unauthenticated, None),
        (reflection, unauthenticated, None),
        ("/keelson.v1.Kv/Get", unauthenticated, forbidden),
        ("/keelson.v1.Cluster/Identify", unauthenticated, forbidden),
    ] {
        assert_eq!((reason(path, &nobody), reason(path, &other)), (of_nobody, of_other));
    }
    let reader = connection(Some(Role::Reader));
    assert_eq!(reason("/keelson.v1.Kv/Get", &reader), None);
    assert_eq!(reason("/keelson.v1.Kv", &reader), forbidden);
}

#[test]
fn a_token_that_is_shown_decides_and_garbage_is_refused() {
    let secret = AccessSecret::generate().unwrap();
    let gates = gates(Some(book(&secret, TokenRole::Reader)));
    let bearer = format!("bearer {}", secret.reveal());
    let other = format!("Bearer {}", AccessSecret::generate().unwrap().reveal());
    let admin = connection(Some(Role::Admin));
    let get = "/keelson.v1.Kv/Get";
    let may = |path: &str, values: &[&str], connection: &Connection| {
        admit(path, &headers(values), connection, &gates)
    };
    let (peer, pass) = may(get, &[&bearer], &connection(None)).unwrap();
    assert!(peer.unwrap().by_token && pass.is_none());
    assert!(may("/keelson.v1.Kv/Watch", &[&bearer], &admin).unwrap().1.is_some());
    let refusal = may("/keelson.v1.Kv/Put", &[&bearer], &admin).err().unwrap();
    assert_eq!(refusal.reason, RefusalReason::Forbidden);
    let garbage: [&[&str]; 7] = [
        &[&other],
        &[&bearer, &bearer],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &["Basic YTpi"],
        &[secret.reveal()],
    ];
    for values in garbage {
        for connection in [&connection(None), &admin] {
            let refusal = may(get, values, connection).err().unwrap();
            assert_eq!(refusal.reason, RefusalReason::Unauthenticated, "{values:?}");
        }
    }
    let refusal = admit(get, &headers(&[&bearer]), &admin, &self::gates(None)).err().unwrap();
    assert_eq!(refusal.reason, RefusalReason::Unauthenticated, "no tokens are taken there");
}

#[test]
fn every_call_by_token_is_as_by_certificate_and_none_is_a_members() {
    let set = FileDescriptorSet::decode(keelson_wire::DESCRIPTORS).unwrap();
    let secret = AccessSecret::generate().unwrap();
    let shown = headers(&[&format!("Bearer {}", secret.reveal())]);
    let member = connection(Some(Role::Member));
    for (token, role) in [
        (TokenRole::Reader, Role::Reader),
        (TokenRole::Writer, Role::Writer),
        (TokenRole::Operator, Role::Operator),
        (TokenRole::Admin, Role::Admin),
    ] {
        let gates = gates(Some(book(&secret, token)));
        for service in set.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                let (service, method) = (service.name(), method.name());
                let path = format!("/keelson.v1.{service}/{method}");
                let may = admit(&path, &shown, &member, &gates).is_ok();
                assert_eq!(may, may_call(&role, service, method), "{role} {path}");
                let among_members = matches!(service, "Cluster" | "Replication");
                assert!(!may || !among_members || method == "MemberFacts", "{role} {path}");
            }
        }
    }
}

#[test]
fn every_stream_is_watched() {
    let set = FileDescriptorSet::decode(keelson_wire::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let streams = services.flat_map(|service| {
        let streams = service.method.iter().filter(|method| method.server_streaming());
        streams.map(|method| (service.name(), method.name()))
    });
    assert_eq!(streams.collect::<BTreeSet<_>>(), STREAMS.iter().copied().collect());
}
