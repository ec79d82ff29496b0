//! Certificates that end, and new ones that take their place.

use super::*;

/// Gives a client the certificate of bob; it believes this authority besides its old one.
fn replace(authority: &Authority, store: &TlsStore) {
    let files = store.files();
    let believed = std::fs::read_to_string(&files.ca).unwrap();
    std::fs::write(&files.ca, believed + authority.cert_pem()).unwrap();
    for file in [&files.cert, &files.key] {
        std::fs::remove_file(file).unwrap();
    }
    let issued = authority.issue(&CertRequest::admin("bob")).unwrap();
    issued.write(&files.cert, &files.key).unwrap();
    store.reload().unwrap();
}

#[tokio::test]
async fn the_connection_of_a_client_ends_with_its_certificate_and_that_of_a_member_does_not() {
    let world = World::new();
    let running = world.serve("m1").await;
    let soon = Validity::lasting(Duration::from_secs(3));
    let connect = |name: &str, request: CertRequest| {
        let connector = Connector::new(world.store(name, &request.valid(soon)));
        connector.channel(&running.address, member("m1"), Lane::Control)
    };
    let client = connect("ann", CertRequest::admin("ann"));
    let other = connect("m2", CertRequest::member("m2", &[]));
    ask(client.clone()).await.unwrap();
    ask(other.clone()).await.unwrap();
    let request = Request::new(v1::GetOperationRequest::default());
    let watched = OperationsClient::new(client.clone()).watch_operation(request).await.unwrap();
    assert!(watched.into_inner().message().await.is_err(), "the stream is cut");
    assert_eq!(failure_of(client).await.0, RefusalReason::BadCertificate);
    ask(other).await.expect("the cluster lives on what members say to each other");
}

#[tokio::test]
async fn a_new_certificate_is_shown_by_new_calls_and_breaks_none_that_are_under_way() {
    let world = World::new();
    let running = world.serve("m1").await;
    let soon = Validity::lasting(Duration::from_secs(10));
    let store = world.store("client", &CertRequest::admin("ann").valid(soon));
    let channel = PeerChannel::new(store.clone(), &running.address, member("m1"));
    assert_eq!(ask(channel.clone()).await.unwrap().kind, "ann (admin)");
    let mut listing = OperationsClient::new(channel.clone());
    let listing =
        tokio::spawn(
            async move { listing.list_operations(v1::ListOperationsRequest::default()).await },
        );
    running.listing.notified().await;
    replace(&world.authority, &store);
    let renewed = async {
        while ask(channel.clone()).await.unwrap().kind != "bob (admin)" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("it is shown");
    assert!(!listing.is_finished(), "the call under way goes on");
    assert!(listing.await.unwrap().is_err(), "until its certificate ends");
    assert_eq!(ask(channel).await.unwrap().kind, "bob (admin)");
}

#[tokio::test]
async fn a_new_certificate_that_nobody_trusts_breaks_nothing_yet() {
    let world = World::new();
    let running = world.serve("m1").await;
    let store = world.store("client", &CertRequest::admin("ann"));
    let channel = PeerChannel::new(store.clone(), &running.address, member("m1"));
    ask(channel.clone()).await.unwrap();
    let foreign = Authority::create("test", Validity::days(10)).unwrap();
    replace(&foreign, &store);
    let refused = running.refuses("the peer's certificate comes from another authority");
    let asked = async {
        loop {
            assert_eq!(ask(channel.clone()).await.unwrap().kind, "ann (admin)");
        }
    };
    tokio::select! {
        () = refused => {}
        () = asked => {}
    }
    for _ in 0..200 {
        assert_eq!(ask(channel.clone()).await.unwrap().kind, "ann (admin)");
    }
}

#[tokio::test]
async fn a_service_may_end_the_connection_of_a_call_and_no_other_one() {
    let world = World::new();
    let running = world.serve("m1").await;
    let store = world.store("client", &CertRequest::admin("ann"));
    let channel = || PeerChannel::new(store.clone(), &running.address, member("m1"));
    let (ended, other) = (channel(), channel());
    let watch = async |channel: &PeerChannel| {
        let request = Request::new(v1::GetOperationRequest::default());
        let watched = OperationsClient::new(channel.clone()).watch_operation(request).await;
        watched.unwrap().into_inner()
    };
    let (mut first, mut second) = (watch(&ended).await, watch(&other).await);
    let request = Request::new(v1::GetOperationRequest::default());
    let _ = OperationsClient::new(ended).cancel_operation(request).await;
    assert!(first.message().await.is_err());
    let goes_on = tokio::time::timeout(Duration::from_millis(100), second.message()).await;
    assert!(goes_on.is_err(), "the other connection was ended, too");
}
