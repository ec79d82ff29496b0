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

/// Every call, by who may make it. A call that is missing here is one that nobody decided on.
const EXPECTED: &[(&str, &str, &[&str])] = &[
    ("-a-wr-", "Kv", &["Get", "Scan", "Watch", "Search", "Durability"]),
    ("-a-w--", "Kv", &["OpenSession", "Put", "Delete", "DeleteRange", "Write"]),
    ("-a----", "Kv", &["ListSalvage", "ReadSalvage", "DeleteSalvage"]),
    ("maowr-", "Admin", &["Topology"]),
    ("maow--", "Admin", &["GuaranteeHealth", "GuaranteeFlush"]),
    (
        "mao---",
        "Admin",
        &[
            "ClusterStatus",
            "ShowDatabase",
            "CopyStatus",
            "PreviewMount",
            "PreviewActivation",
            "ListForks",
            "ListSettings",
            "ListNetworks",
            "ListVolumes",
            "ListEvents",
            "ListAudit",
            "ListDecisions",
            "ExplainDecision",
            "Health",
            "Redundancy",
            "CompareDigests",
        ],
    ),
    (
        "mao---",
        "Admin",
        &[
            "MountDatabase",
            "DismountDatabase",
            "Switchover",
            "MoveDatabases",
            "Redistribute",
            "BeginMaintenance",
            "EndMaintenance",
            "ChangeSite",
            "SuspendCopy",
            "ResumeCopy",
            "SeedCopy",
            "RepairCopy",
            "ScrubCopies",
            "ReplaceVolume",
        ],
    ),
    (
        "ma----",
        "Admin",
        &[
            "InitCluster",
            "AddMember",
            "RemoveMember",
            "SetMember",
            "CreateDatabase",
            "RemoveDatabase",
            "SetDatabase",
            "NoteBackup",
            "AddCopy",
            "RemoveCopy",
            "SetCopy",
            "ActivateCopy",
            "CreateFork",
            "DropFork",
            "SetSetting",
            "SetNetwork",
        ],
    ),
    ("-a----", "Admin", &["IssueToken", "ListTokens", "RevokeToken"]),
    (
        "mao---",
        "Operations",
        &["GetOperation", "ListOperations", "WatchOperation", "CancelOperation"],
    ),
    ("mao---", "Cluster", &["MemberFacts"]),
];

fn expected(service: &str, method: &str) -> &'static str {
    if matches!(service, "Cluster" | "Replication") && method != "MemberFacts" {
        return "m-----";
    }
    let mut rows = EXPECTED.iter();
    let row = rows.find(|(_, of, methods)| *of == service && methods.contains(&method));
    row.unwrap_or_else(|| panic!("nobody decided who may call {service}.{method}")).0
}

#[test]
fn every_call_has_its_roles() {
    for (service, method) in calls() {
        let found = letters(&service, &method);
        assert_eq!(found, expected(&service, &method), "{service}.{method}");
    }
}
