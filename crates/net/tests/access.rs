//! Every call of every service against every role.

use keelson_net::{Role, may_call};
use prost::Message;
use prost_types::FileDescriptorSet;

fn roles() -> [Role; 6] {
    let other = Role::Other("ops".into());
    [Role::Member, Role::Admin, Role::Operator, Role::Writer, Role::Reader, other]
}

/// All calls as the compiled descriptors have them.
fn calls() -> Vec<(String, String)> {
    let set = FileDescriptorSet::decode(keelson_wire::DESCRIPTORS).expect("they decode");
    let services = set.file.into_iter().flat_map(|file| file.service);
    let calls = services.flat_map(|service| {
        let name = service.name().to_owned();
        service.method.into_iter().map(move |method| (name.clone(), method.name().to_owned()))
    });
    calls.collect()
}

/// What each role may do in each service, as a letter per role: member, admin, operator, writer,
/// reader, anybody else.
fn letters(service: &str, method: &str) -> String {
    let letter = |(role, letter): (&Role, char)| match may_call(role, service, method) {
        true => letter,
        false => '-',
    };
    roles().iter().zip("maowrx".chars()).map(letter).collect()
}

#[test]
fn every_call_has_its_roles() {
    let changes = "ma----";
    for (service, method) in calls() {
        let expected = match (service.as_str(), method.as_str()) {
            ("Kv", "Get" | "Scan" | "Watch" | "Search" | "Durability") => "-a-wr-",
            ("Kv", "OpenSession" | "Put" | "Delete" | "DeleteRange" | "Write") => "-a-w--",
            ("Kv", _) => "-a----",
            ("Admin", "Topology") => "maowr-",
            ("Admin", "GuaranteeHealth" | "GuaranteeFlush") => "maow--",
            ("Admin", "IssueToken" | "ListTokens" | "RevokeToken") => "-a----",
            ("Admin", name) if name.starts_with("List") || name.starts_with("Preview") => "mao---",
            ("Admin", "ClusterStatus" | "ShowDatabase" | "CopyStatus" | "CompareDigests") => {
                "mao---"
            }
            ("Admin", "MountDatabase" | "DismountDatabase" | "Switchover") => "mao---",
            ("Admin", "SuspendCopy" | "ResumeCopy" | "SeedCopy") => "mao---",
            ("Admin", "RepairCopy" | "ScrubCopies") => "mao---",
            ("Admin", "ExplainDecision" | "Health" | "Redundancy") => "mao---",
            ("Admin", "MoveDatabases" | "Redistribute") => "mao---",
            ("Admin", "BeginMaintenance" | "EndMaintenance" | "ChangeSite") => "mao---",
            ("Admin", _) => changes,
            ("Operations", _) => "mao---",
            ("Cluster", "MemberFacts") => "mao---",
            ("Cluster" | "Replication", _) => "m-----",
            other => panic!("nobody decided who may call {other:?}"),
        };
        // A question that was added and not decided on is closed to operators, which is safe.
        let found = letters(&service, &method);
        let closed = service == "Admin" && found == changes && expected == "mao---";
        assert!(found == expected || closed, "{service}.{method}: {found}, not {expected}");
    }
}
