//! Tests of the writer: what is answered when, and what becomes a record.

use super::*;
use keelson_types::Epoch;
use tokio::sync::oneshot;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn end(offset: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, offset) }
}

fn writer() -> Writer {
    Writer::new(Epoch::new(0, 1))
}

type Pending = oneshot::Receiver<WriteAnswer>;

fn request(body: WriteBody) -> (WriteRequest, Pending) {
    let (reply, answer) = oneshot::channel();
    (WriteRequest { body, reply: Reply::new(reply, None) }, answer)
}

fn queue(writer: &mut Writer, body: WriteBody, reads: ReadResults) -> Pending {
    let (request, answer) = request(body);
    let ticket = writer.plan(&request.body).map(|_| writer.begin_read());
    assert!(writer.queue(Prepared { request, reads, ticket }).is_none());
    answer
}

fn put(key: &str, value: &str) -> WriteBody {
    let operations = vec![Operation::Put(bytes(key), bytes(value))];
    WriteBody::Apply { conditions: Vec::new(), operations, stamp: None }
}

fn when(condition: Condition, operation: Operation) -> WriteBody {
    let (conditions, operations) = (vec![condition], vec![operation]);
    WriteBody::Apply { conditions, operations, stamp: None }
}

fn stamped(session: SessionId, sequence: u64, lowest_unanswered: u64) -> WriteBody {
    let stamp = Some(Stamp { session, sequence, lowest_unanswered });
    let operations = vec![Operation::Put(bytes("k"), bytes("v"))];
    WriteBody::Apply { conditions: Vec::new(), operations, stamp }
}

/// Frames what is queued, ending at `offset`; returns the records.
fn frame(writer: &mut Writer, offset: u64) -> Vec<Record> {
    writer.fill().into_iter().for_each(Answer::send);
    let records = writer.take_records();
    if !records.is_empty() {
        writer.framed(end(offset), HybridTime::from_unix_millis(offset));
    }
    records
}

fn commit(writer: &mut Writer, offset: u64) {
    writer.committed(Position::new(1, offset)).into_iter().for_each(Answer::send);
}

fn answer(reply: &mut Pending) -> Option<Result<(u64, bool), RefusalReason>> {
    let answer = reply.try_recv().ok()?;
    Some(match answer {
        Ok(written) => Ok((written.end.position.offset, written.repeated)),
        Err(refusal) => Err(refusal.reason),
    })
}

#[test]
fn a_write_is_answered_when_its_frame_is_committed_and_not_before() {
    let mut writer = writer();
    let mut first = queue(&mut writer, put("a", "1"), ReadResults::default());
    assert_eq!(frame(&mut writer, 100).len(), 1);
    let mut second = queue(&mut writer, put("b", "2"), ReadResults::default());
    frame(&mut writer, 200);
    assert_eq!(answer(&mut first), None);
    commit(&mut writer, 199);
    assert_eq!(answer(&mut first), Some(Ok((100, false))));
    assert_eq!(answer(&mut second), None);
    commit(&mut writer, 200);
    assert_eq!(answer(&mut second), Some(Ok((200, false))));
}

#[test]
fn a_condition_sees_what_is_in_flight_and_its_failure_waits_for_that_commit() {
    let mut writer = writer();
    queue(&mut writer, put("a", "1"), ReadResults::default());
    frame(&mut writer, 100);
    let absent = Condition::Exists(bytes("a"), false);
    let body = when(absent, Operation::Put(bytes("a"), bytes("2")));
    // The store does not have the key yet; what is in flight decides.
    let mut refused = queue(&mut writer, body, ReadResults::default());
    assert_eq!(frame(&mut writer, 200), []);
    assert_eq!(answer(&mut refused), None, "what it read may still vanish");
    commit(&mut writer, 100);
    assert_eq!(answer(&mut refused), Some(Err(RefusalReason::ConditionFailed)));
}

#[test]
fn what_was_read_for_one_epoch_is_given_back_in_the_next() {
    let (mut before, mut after) = (writer(), Writer::new(Epoch::new(0, 2)));
    let (old, now) = (before.begin_read(), after.begin_read());
    let prepared = |ticket| {
        let body = when(Condition::Exists(bytes("a"), false), Operation::Delete(bytes("a")));
        Prepared { request: request(body).0, reads: ReadResults::default(), ticket: Some(ticket) }
    };
    after.end_read(old);
    assert!(after.queue(prepared(old)).is_some(), "the key may have been written since");
    assert!(after.queue(prepared(now)).is_none());
    assert_eq!(after.queued(), 1);
}

#[test]
fn a_slow_read_does_not_bring_an_older_value_back() {
    let mut writer = writer();
    let equals = Condition::Equals(bytes("a"), bytes("new"));
    let (late, mut reply) = request(when(equals, Operation::Delete(bytes("a"))));
    let ticket = writer.begin_read();
    // While the read is under way, the key is written, committed and replayed.
    queue(&mut writer, put("a", "new"), ReadResults::default());
    frame(&mut writer, 100);
    commit(&mut writer, 100);
    writer.replayed(Position::new(1, 100));
    let mut reads = ReadResults::default();
    reads.values.insert(bytes("a"), Some(bytes("old")));
    assert!(writer.queue(Prepared { request: late, reads, ticket: Some(ticket) }).is_none());
    assert_eq!(frame(&mut writer, 200), [Record::Delete { key: bytes("a") }]);
    commit(&mut writer, 200);
    assert_eq!(answer(&mut reply), Some(Ok((200, false))));
    writer.replayed(Position::new(1, 200));
    assert!(writer.overlay.is_empty(), "no read holds the overlay back any more");
}

#[test]
fn a_retry_joins_its_original_and_an_unknown_session_is_never_executed() {
    let (mut writer, session) = (writer(), SessionId::from_u128(1));
    let mut unknown = queue(&mut writer, stamped(session, 1, 1), ReadResults::default());
    frame(&mut writer, 100);
    assert_eq!(answer(&mut unknown), Some(Err(RefusalReason::OutcomeUnknown)));
    queue(&mut writer, WriteBody::OpenSession(session), ReadResults::default());
    let mut first = queue(&mut writer, stamped(session, 1, 1), ReadResults::default());
    frame(&mut writer, 100);
    let mut retry = queue(&mut writer, stamped(session, 1, 1), ReadResults::default());
    assert_eq!(frame(&mut writer, 200), [], "nothing is written twice");
    commit(&mut writer, 100);
    assert_eq!(answer(&mut first), Some(Ok((100, false))));
    assert_eq!(answer(&mut retry), Some(Ok((100, true))));
    let mut later = queue(&mut writer, stamped(session, 1, 1), ReadResults::default());
    frame(&mut writer, 300);
    assert_eq!(answer(&mut later), Some(Ok((100, true))));
}

fn known_session() -> ReadResults {
    let state = SessionState {
        last_used: HybridTime::default(),
        applied: Vec::new(),
        lowest_unanswered: 1,
    };
    ReadResults { session: Some(Some(state)), ..ReadResults::default() }
}

/// Begins a read whose results come late.
fn slowly(writer: &mut Writer, body: WriteBody, reads: ReadResults) -> (Prepared, Pending) {
    let (request, answer) = request(body);
    let ticket = Some(writer.begin_read());
    (Prepared { request, reads, ticket }, answer)
}

/// The read of a retry began before its original was replayed; meanwhile so many other sessions
/// were used that the original's is forgotten beside the store.
#[test]
fn a_retry_that_was_read_for_early_is_not_applied_twice() {
    let mut writer = writer();
    let session = SessionId::from_u128(1);
    let (retry, mut retried) = slowly(&mut writer, stamped(session, 1, 1), known_session());
    let mut original = queue(&mut writer, stamped(session, 1, 1), known_session());
    frame(&mut writer, 100);
    commit(&mut writer, 100);
    assert_eq!(answer(&mut original), Some(Ok((100, false))));
    writer.replayed(end(100).position);
    for other in 0..=SESSIONS_MAX as u128 {
        let open = WriteBody::OpenSession(SessionId::from_u128(10 + other));
        queue(&mut writer, open, ReadResults::default());
    }
    frame(&mut writer, 200);
    commit(&mut writer, 200);
    writer.replayed(end(200).position);
    assert!(writer.queue(retry).is_none());
    frame(&mut writer, 300);
    commit(&mut writer, 300);
    assert_eq!(answer(&mut retried), Some(Ok((100, true))), "it joins its original");
}

#[test]
fn a_session_used_after_it_was_found_idle_does_not_expire() {
    let mut writer = writer();
    let session = SessionId::from_u128(1);
    let idle = ReadResults { idle_sessions: vec![session], ..ReadResults::default() };
    let open = WriteBody::OpenSession(SessionId::from_u128(2));
    let (open, _answer) = slowly(&mut writer, open, idle);
    queue(&mut writer, stamped(session, 1, 1), known_session());
    frame(&mut writer, 100);
    commit(&mut writer, 100);
    writer.replayed(end(100).position);
    assert!(writer.queue(open).is_none());
    let expires = |record: &Record| {
        matches!(record, Record::Session { session: of, change: SessionRecord::Expire }
            if *of == session)
    };
    assert!(!frame(&mut writer, 200).iter().any(expires), "it was just used");
}

#[test]
fn answers_the_client_confirmed_are_dropped() {
    let (mut writer, session) = (writer(), SessionId::from_u128(1));
    queue(&mut writer, WriteBody::OpenSession(session), ReadResults::default());
    queue(&mut writer, stamped(session, 1, 1), ReadResults::default());
    queue(&mut writer, stamped(session, 2, 2), ReadResults::default());
    frame(&mut writer, 100);
    commit(&mut writer, 100);
    let mut old = queue(&mut writer, stamped(session, 1, 1), ReadResults::default());
    frame(&mut writer, 200);
    assert_eq!(answer(&mut old), Some(Err(RefusalReason::OutcomeUnknown)));
}

#[test]
fn a_session_that_the_store_knows_goes_on_after_a_failover() {
    let (mut writer, session) = (writer(), SessionId::from_u128(1));
    let state = SessionState {
        last_used: HybridTime::default(),
        applied: vec![(7, end(70))],
        lowest_unanswered: 7,
    };
    let reads = ReadResults { session: Some(Some(state)), ..ReadResults::default() };
    let mut retry = queue(&mut writer, stamped(session, 7, 7), reads);
    frame(&mut writer, 100);
    assert_eq!(answer(&mut retry), Some(Ok((70, true))));
    let mut next = queue(&mut writer, stamped(session, 8, 8), ReadResults::default());
    assert_eq!(frame(&mut writer, 200).len(), 2, "the put and its stamp");
    commit(&mut writer, 200);
    assert_eq!(answer(&mut next), Some(Ok((200, false))));
}

#[test]
fn a_small_range_becomes_deletes_of_what_exists() {
    let mut writer = writer();
    queue(&mut writer, put("b", "1"), ReadResults::default());
    frame(&mut writer, 100);
    queue(
        &mut writer,
        when(Condition::Exists(bytes("x"), false), Operation::Delete(bytes("c"))),
        ReadResults::default(),
    );
    let range = Operation::DeleteRange(bytes("a"), Some(bytes("z")));
    let body = WriteBody::Apply { conditions: Vec::new(), operations: vec![range], stamp: None };
    let stored = vec![bytes("a"), bytes("c")];
    let reads = ReadResults { ranges: vec![Some(stored)], ..ReadResults::default() };
    queue(&mut writer, body, reads);
    let delete = |key| Record::Delete { key: bytes(key) };
    assert_eq!(frame(&mut writer, 200), [delete("c"), delete("a"), delete("b")]);
}

#[test]
fn a_large_range_stays_a_range_and_hides_what_is_in_it() {
    let mut writer = writer();
    let range = Operation::DeleteRange(bytes("a"), None);
    let body = WriteBody::Apply { conditions: Vec::new(), operations: vec![range], stamp: None };
    queue(&mut writer, body, ReadResults { ranges: vec![None], ..ReadResults::default() });
    let records = frame(&mut writer, 100);
    assert!(matches!(&records[..], [Record::DeleteRange { to, .. }] if to.is_empty()));
    let mut reads = ReadResults::default();
    reads.values.insert(bytes("b"), Some(bytes("stale")));
    let exists = Condition::Exists(bytes("b"), true);
    let mut reply = queue(&mut writer, when(exists, Operation::Delete(bytes("b"))), reads);
    frame(&mut writer, 200);
    commit(&mut writer, 100);
    assert_eq!(answer(&mut reply), Some(Err(RefusalReason::ConditionFailed)));
}

/// Frames must fit into one message between members, whatever the keys are.
#[test]
fn a_range_of_few_but_long_keys_stays_a_range() {
    let mut writer = writer();
    let range = Operation::DeleteRange(bytes("k"), None);
    let body = WriteBody::Apply { conditions: Vec::new(), operations: vec![range], stamp: None };
    let long = |n: u8| Bytes::from(vec![n; keelson_types::KEY_BYTES_MAX]);
    let stored = (100..200).map(long).collect();
    queue(&mut writer, body, ReadResults { ranges: vec![Some(stored)], ..ReadResults::default() });
    assert!(matches!(&frame(&mut writer, 100)[..], [Record::DeleteRange { .. }]));
}

#[test]
fn a_store_far_behind_makes_writers_wait_until_it_caught_up() {
    let mut writer = writer();
    let large = Bytes::from(vec![0; 8 * 1024 * 1024]);
    for end in 1..=8 {
        assert!(!writer.must_wait_for_replay());
        let put = Operation::Put(bytes("k"), large.clone());
        let operations = vec![put];
        let body = WriteBody::Apply { conditions: Vec::new(), operations, stamp: None };
        queue(&mut writer, body, ReadResults::default());
        frame(&mut writer, end * 100);
        commit(&mut writer, end * 100);
    }
    assert!(writer.must_wait_for_replay());
    writer.replayed(end(800).position);
    assert!(!writer.must_wait_for_replay());
}

#[test]
fn when_the_epoch_ends_nobody_is_told_that_a_write_stands() {
    let mut writer = writer();
    let mut flying = queue(&mut writer, put("a", "1"), ReadResults::default());
    frame(&mut writer, 100);
    let mut queued = queue(&mut writer, put("b", "1"), ReadResults::default());
    writer.into_waiting().into_iter().for_each(Answer::send);
    // The flying one may be committed by the next epoch; the queued one never.
    assert_eq!(answer(&mut flying), Some(Err(RefusalReason::StaleEpoch)));
    assert_eq!(answer(&mut queued), Some(Err(RefusalReason::NotActive)));
}
