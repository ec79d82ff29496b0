//! A member is gone for good, and another server takes its place.

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cli, Cluster, Writer, WriterOptions, eventually};
use serde_json::Value;

use crate::data::cluster;

/// The names of the members, as the cluster has them.
async fn members(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.cli().json(["member", "list"]).await?;
    let list = list.as_array().context("a list")?;
    Ok(list.iter().map(|row| row["member"].clone()).collect())
}

/// Adds a server that may be just starting.
async fn add(cluster: &Cluster, name: &str, address: &str) -> Result<()> {
    eventually(&format!("{name} is added"), || async {
        cluster.cli().succeed(["member", "add", name, address]).await?;
        Ok(())
    })
    .await
}

/// All is well: nothing that `cluster status` or `health` complains of.
async fn healthy(cluster: &Cluster, name: &str) -> Result<()> {
    eventually("nothing is wrong", || async {
        let status = cluster.cli().json(["cluster", "status"]).await?;
        let problems = status["problems"].as_array().context("a list")?;
        ensure!(problems.is_empty(), "{problems:?}");
        cluster.cli().succeed(["health", name]).await?;
        Ok(())
    })
    .await
}

/// DB1 and DB2 on three members, both active on m3, which dies under writers and never returns. The
/// databases go on elsewhere by themselves.
async fn gone_for_good() -> Result<(Cluster, [Writer; 2])> {
    let mut cluster = cluster().await?;
    cluster.create_database("DB2", &["m3", "m1", "m2"]).await?;
    let mut writers = Vec::new();
    for name in ["DB1", "DB2"] {
        cluster.wait_until_counting(name).await?;
        if cluster.active_of(name).await? != "m3" {
            cluster.cli().succeed(["switchover", name, "--to", "m3"]).await?;
        }
        let writer = Writer::start(cluster.client().database(name), WriterOptions::default());
        writer.progress(200).await?;
        writers.push(writer);
    }
    cluster.member("m3").kill()?;
    for (name, writer) in ["DB1", "DB2"].into_iter().zip(&writers) {
        writer.progress(200).await?;
        ensure!(cluster.active_of(name).await? != "m3", "{name} did not move");
    }
    let writers: [Writer; 2] = writers.try_into().ok().context("two writers")?;
    Ok((cluster, writers))
}

/// What a person tries first is refused, and the refusals name the way.
async fn remove_the_dead(cluster: &Cluster) -> Result<()> {
    let cli = cluster.cli();
    let plain = cli.run(["member", "remove", "m3", "--yes"]).await?;
    assert_eq!(plain.error_code(), Some("in_use"), "{plain:?}");
    ensure!(plain.hint().is_some_and(|hint| hint.contains("--with-copies")), "{plain:?}");
    let remove = ["member", "remove", "m3", "--with-copies"];
    assert_eq!(cli.run(remove).await?.code, Some(2), "it asks first");
    let plan = cli.succeed(remove.iter().chain(&["--what-if"])).await?;
    ensure!(plan.contains("with its copies of DB1, DB2"), "{plan}");
    assert_eq!(members(cluster).await?, ["m1", "m2", "m3"]);
    let removed = cli.json(remove.iter().chain(&["--yes"])).await?;
    let of = |index: usize| {
        let copy = &removed["copies"][index];
        (copy["database"].clone(), copy["activation_preference"].clone())
    };
    assert_eq!([of(0), of(1)], [("DB1".into(), 3.into()), ("DB2".into(), 1.into())], "{removed}");
    assert_eq!(members(cluster).await?, ["m1", "m2"]);
    Ok(())
}

/// The certificate of a member that was removed lasts for a year, and opens nothing any more.
async fn certificate_opens_nothing(cluster: &Cluster, member: &str) -> Result<()> {
    let home = cluster.path().join(member);
    let text = std::fs::read_to_string(cluster.client_toml())?;
    let shown = |ending: &str| home.join(format!("{member}.{ending}")).display().to_string();
    let text = text.replace("certs/client.pem", &shown("pem"));
    let text = text.replace("certs/client.key", &shown("key"));
    let path = cluster.path().join("removed.toml");
    std::fs::write(&path, text)?;
    let cli = Cli::new(cluster.binary(), Some(&path));
    for args in [
        &["cluster", "status"][..],
        &["database", "remove", "DB1", "--yes"],
        &["operation", "list"],
    ] {
        let refused = cli.run(args).await?;
        ensure!(refused.error_code() == Some("unknown_member"), "{args:?}: {refused:?}");
    }
    Ok(())
}

/// Copies on the new member by the usual command, seeded by themselves, then everything as before.
async fn copies_again(cluster: &Cluster, name: &str, writers: [Writer; 2]) -> Result<()> {
    for (database, preference) in [("DB1", "3"), ("DB2", "1")] {
        let add = ["copy", "add", database, "--on", name, "--preference", preference];
        cluster.cli().succeed(add).await?;
        cluster.wait_until_counting(database).await?;
    }
    healthy(cluster, name).await?;
    for (database, writer) in ["DB1", "DB2"].into_iter().zip(writers) {
        let oracle = writer.stop().await?;
        oracle.verify(&cluster.client().database(database)).await?;
        cluster.wait_until_caught_up(database).await?;
        cluster.equal_digest(database, 3).await?;
        cluster.cli().succeed(["switchover", database, "--to", name]).await?;
        oracle.verify(&cluster.client().database(database)).await?;
    }
    Ok(())
}

/// The successor has another name; when the dead one is started after all it belongs to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced_by_one_of_another_name() -> Result<()> {
    let (mut cluster, writers) = gone_for_good().await?;
    remove_the_dead(&cluster).await?;
    certificate_opens_nothing(&cluster, "m3").await?;
    let name = cluster.start_server().await?;
    add(&cluster, &name, &cluster.control_address(4)?).await?;
    copies_again(&cluster, &name, writers).await?;
    cluster.member("m3").start()?;
    cluster.client().database("DB1").put("after", "1").await?;
    healthy(&cluster, &name).await?;
    assert_eq!(members(&cluster).await?, ["m1", "m2", "m4"]);
    assert_eq!(cluster.active_of("DB1").await?, name);
    Ok(())
}

/// The successor has the name, the address and the certificate of the dead one, and an empty
/// directory. Added too early it is refused, with the way in the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_replaced_by_one_of_the_same_name() -> Result<()> {
    let (mut cluster, writers) = gone_for_good().await?;
    let home = cluster.path().join("m3");
    std::fs::rename(home.join("data"), home.join("data-of-the-dead"))?;
    cluster.member("m3").start()?;
    let address = cluster.control_address(3)?;
    eventually("its predecessor must be removed first", || async {
        let early = cluster.cli().run(["member", "add", "m3", &address]).await?;
        ensure!(early.error_code() == Some("second_holder"), "{early:?}");
        ensure!(early.stderr.contains("keelson member remove m3 --with-copies"), "{early:?}");
        Ok(())
    })
    .await?;
    remove_the_dead(&cluster).await?;
    add(&cluster, "m3", &address).await?;
    copies_again(&cluster, "m3", writers).await
}
