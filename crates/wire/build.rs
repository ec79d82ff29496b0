//! Compiles the protobuf files with a pure-Rust compiler, so that no `protoc` is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let names = ["common", "kv", "replication", "cluster", "link", "admin"];
    let files: Vec<_> = names.iter().map(|n| format!("keelson/v1/{n}.proto")).collect();
    println!("cargo:rerun-if-changed={}", root.display());
    let set = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&set))?;
    tonic_prost_build::configure().bytes(".").out_dir(&out).compile_fds(set)?;
    Ok(())
}
