//! The crate graph as data: layers, permitted edges, pure crates, and packages with one owner.
//!
//! A new edge changes this table in the same commit and explains itself there. Edges point to
//! strictly lower layers, which a test checks; so the graph cannot grow a cycle.

/// One crate of ours.
pub(super) struct CrateRow {
    /// The package's name in its manifest.
    pub(super) name: &'static str,
    /// The height in the graph; edges lead to lower numbers.
    pub(super) layer: u8,
    /// No clock, randomness, I/O or async.
    pub(super) pure: bool,
    /// The complete list of our crates that it may depend on.
    pub(super) may_use: &'static [&'static str],
}

const fn row(
    name: &'static str,
    layer: u8,
    pure: bool,
    may_use: &'static [&'static str],
) -> CrateRow {
    CrateRow { name, layer, pure, may_use }
}

const PURE: bool = true;
const DRIVER: bool = false;

/// Every package of the workspace.
pub(super) const CRATES: &[CrateRow] = &[
    row("keelson-types", 0, PURE, &[]),
    row("keelson-format", 1, PURE, &["keelson-types"]),
    row("keelson-env", 1, PURE, &["keelson-types"]),
    row("keelson-wire", 1, DRIVER, &["keelson-types"]),
    row("keelson-copy-core", 2, PURE, &["keelson-types"]),
    row("keelson-cluster-core", 2, PURE, &["keelson-types"]),
    row("keelson-log", 3, DRIVER, &["keelson-types", "keelson-format", "keelson-env"]),
    row("keelson-store", 3, DRIVER, &["keelson-types", "keelson-format", "keelson-env"]),
    row("keelson-catalog", 3, DRIVER, &["keelson-types"]),
    row("keelson-net", 3, DRIVER, &["keelson-types", "keelson-wire"]),
    row(
        "keelson-replication",
        4,
        DRIVER,
        &[
            "keelson-types",
            "keelson-format",
            "keelson-env",
            "keelson-wire",
            "keelson-copy-core",
            "keelson-log",
            "keelson-store",
            "keelson-catalog",
            "keelson-net",
        ],
    ),
    row(
        "keelson-cluster",
        4,
        DRIVER,
        &["keelson-types", "keelson-wire", "keelson-cluster-core", "keelson-net"],
    ),
    row("keelson-client", 5, DRIVER, &["keelson-types", "keelson-wire", "keelson-net"]),
    // Its snapshot is made of the messages that the services of a member answer with.
    row("keelson-status", 4, PURE, &["keelson-types", "keelson-wire"]),
    // Pages are made of the same messages.
    row("keelson-console", 5, PURE, &["keelson-types", "keelson-wire", "keelson-status"]),
    row(
        "keelson-server",
        6,
        DRIVER,
        &[
            "keelson-types",
            "keelson-wire",
            "keelson-net",
            "keelson-status",
            // The console acts for whoever is logged in as any other client does.
            "keelson-client",
            "keelson-console",
            "keelson-log",
            "keelson-store",
            "keelson-replication",
            "keelson-cluster",
            "keelson-cluster-core",
        ],
    ),
    row(
        "keelson-cli",
        7,
        DRIVER,
        &[
            "keelson-types",
            "keelson-wire",
            "keelson-net",
            "keelson-client",
            "keelson-server",
            // Decision records in one line, as the console shows them.
            "keelson-status",
            // How a writer of much paces itself (F113): a pure rule.
            "keelson-cluster-core",
            // The offline commands `keelson log dump` and `keelson log verify` read files
            // themselves.
            "keelson-log",
            "keelson-format",
        ],
    ),
    row(
        "keelson-sim",
        8,
        DRIVER,
        &[
            "keelson-types",
            "keelson-format",
            "keelson-env",
            "keelson-copy-core",
            "keelson-cluster-core",
            "keelson-log",
        ],
    ),
    row("keelson-testkit", 8, DRIVER, &["keelson-types", "keelson-client"]),
    // Black box: real processes through the public client, and no crate from inside the server but
    // the store: only with it can a stopped member's content be made wrong under right checksums.
    row(
        "keelson-tests",
        9,
        DRIVER,
        &["keelson-types", "keelson-env", "keelson-store", "keelson-client", "keelson-testkit"],
    ),
    row(
        "keelson-benches",
        9,
        DRIVER,
        &[
            "keelson-types",
            "keelson-format",
            "keelson-env",
            "keelson-log",
            "keelson-store",
            "keelson-client",
            "keelson-testkit",
        ],
    ),
    // Sees a cluster from outside, as the black-box tests do, beside other systems.
    row("keelson-peers", 9, DRIVER, &["keelson-client", "keelson-testkit"]),
    row("xtask", 9, DRIVER, &[]),
];

/// Families of packages that no pure crate may name, except in its tests.
pub(super) const IMPURE: &[&str] = &[
    "async-trait",
    "futures",
    "getrandom",
    "hyper",
    "libc",
    "nix",
    "openraft",
    "rand",
    "redb",
    "rocksdb",
    "rustls",
    "tempfile",
    "tokio",
    "tonic",
    "tracing",
];

/// Packages that only these crates may name, in tests too: the first is the one that uses it.
pub(super) const OWNED: &[(&str, &str)] = &[
    ("librocksdb-sys", "keelson-store"),
    ("rocksdb", "keelson-store"),
    ("tantivy", "keelson-catalog"),
    ("rcgen", "keelson-net"),
    ("rustls", "keelson-net"),
    ("tokio-rustls", "keelson-net"),
    // Clients that misbehave are made of bare connections.
    ("rustls", "keelson-tests"),
    ("tokio-rustls", "keelson-tests"),
    ("openraft", "keelson-cluster"),
    ("redb", "keelson-cluster"),
    ("opentelemetry", "keelson-server"),
    ("opentelemetry-otlp", "keelson-server"),
    ("opentelemetry_sdk", "keelson-server"),
    ("tracing-opentelemetry", "keelson-server"),
];
