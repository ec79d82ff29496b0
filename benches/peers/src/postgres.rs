//! PostgreSQL: a primary and two streaming standbys, the first of them synchronous.
//!
//! It refuses to run as root, so where we are root its programs run as the user `postgres`, which
//! the distribution's package makes. It has no failover and no switchover of its own.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use keelson_testkit::{eventually, eventually_for, free_port};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tokio_postgres::{NoTls, Statement};

use crate::place::Place;
use crate::process::{Server, last_lines, says, succeed};
use crate::target::{Abilities, Connection, Connections, Fault, Purpose, Target};

pub(crate) const SETTINGS: &str = "a primary and two standbys; fsync on, synchronous_commit on, \
    synchronous_standby_names 'FIRST 1 (s1, s2)': a commit waits for the sync of the primary \
    and of s1; shared_buffers 512 MB, max_wal_size 4 GB, wal_keep_size 2 GB, all else as initdb \
    leaves it; no TLS, a connection per client over TCP; table (key bytea primary key, value \
    bytea), prepared INSERT ... ON CONFLICT DO UPDATE, batches as one such statement over \
    unnest; reads of the primary; a whole copy is pg_basebackup with WAL, synced";

/// Where the distribution puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
const USER: &str = "keelson";
/// The superuser of the system's package, as whom the programs run if we are root.
const SYSTEM_USER: &str = "postgres";
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

const TABLE: &str = "CREATE TABLE kv (key bytea PRIMARY KEY, value bytea NOT NULL)";
const PUT: &str = "INSERT INTO kv (key, value) VALUES ($1, $2) \
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value";
const BATCH: &str = "INSERT INTO kv (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[]) \
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value";
const GET: &str = "SELECT value FROM kv WHERE key = $1";

pub(crate) struct Postgres {
    // Before the directory is left, standbys first.
    standbys: Vec<Option<Server>>,
    _primary: Server,
    host: Host,
    port: u16,
    ports: Vec<u16>,
    version: String,
}

/// Where programs and data are, and whose they are.
struct Host {
    programs: PathBuf,
    directory: PathBuf,
    owner: Option<(u32, u32)>,
}

impl Postgres {
    pub(crate) async fn start(place: &Place) -> Result<Self> {
        let host = Host::prepare(place)?;
        let version = says(&host.programs.join("postgres"), "--version")?;
        let user = format!("--username={USER}");
        let arguments = ["-D", "primary", &user, "--auth=trust", "--encoding=UTF8", "--locale=C"];
        host.succeed("initdb", &arguments)?;
        let port = free_port()?;
        let primary = host.serve("primary", port, None)?;
        let mut new = Self {
            standbys: Vec::new(),
            _primary: primary,
            host,
            port,
            ports: vec![free_port()?, free_port()?],
            version,
        };
        eventually("the primary answers", || async { new.admin().await }).await.with_context(
            || format!("it says: {}", last_lines(&new.host.directory.join("primary.log"))),
        )?;
        for number in 0..new.ports.len() {
            let name = standby_name(number);
            new.copy_to(&name)?;
            new.host.own(&new.host.touch(&format!("{name}/standby.signal"))?)?;
            let server = new.serve_standby(number)?;
            new.standbys.push(Some(server));
        }
        let standbys = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' \
            AND sync_state IN ('sync', 'potential')";
        new.wait_for_count(standbys, 2, Duration::from_secs(60)).await?;
        new.admin().await?.batch_execute(TABLE).await?;
        Ok(new)
    }

    fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(USER).dbname("postgres");
        config
    }

    async fn admin(&self) -> Result<tokio_postgres::Client> {
        let (client, connection) = self.config().connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn wait_for_count(&self, query: &str, count: i64, limit: Duration) -> Result<()> {
        let admin = self.admin().await?;
        eventually_for(limit, "the standbys are there", || async {
            let found: i64 = admin.query_one(query, &[]).await?.try_get(0)?;
            ensure!(found == count, "{found} of {count}");
            Ok(())
        })
        .await
    }

    /// A copy of the primary in the directory `name`, synced.
    fn copy_to(&self, name: &str) -> Result<()> {
        let from = format!("host=127.0.0.1 port={} user={USER}", self.port);
        let arguments =
            ["-D", name, "-d", &from, "--wal-method=stream", "--checkpoint=fast", "--no-password"];
        self.host.succeed("pg_basebackup", &arguments)
    }

    fn serve_standby(&self, number: usize) -> Result<Server> {
        let name = standby_name(number);
        let primary = format!(
            "primary_conninfo=host=127.0.0.1 port={} user={USER} application_name={name}",
            self.port
        );
        self.host.serve(&name, self.ports[number], Some(&primary))
    }
}

fn standby_name(number: usize) -> String {
    format!("s{}", number + 1)
}

impl Host {
    fn prepare(place: &Place) -> Result<Self> {
        let programs = programs(Path::new(VERSIONS))?;
        let owner = match Uid::effective().is_root() {
            false => None,
            true => {
                let user = User::from_name(SYSTEM_USER)?;
                let user = user.context("there is no user postgres, as whom root runs it")?;
                Some((user.uid.as_raw(), user.gid.as_raw()))
            }
        };
        let host = Self { programs, directory: place.fresh("postgres")?, owner };
        host.own(&host.directory)?;
        Ok(host)
    }

    fn own(&self, path: &Path) -> Result<()> {
        if let Some((user, group)) = self.owner {
            chown(path, Some(user), Some(group))
                .with_context(|| format!("give {} to {SYSTEM_USER}", path.display()))?;
        }
        Ok(())
    }

    fn touch(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::write(&path, "").with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).current_dir(&self.directory).env("LC_ALL", "C");
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    fn succeed(&self, program: &str, arguments: &[&str]) -> Result<()> {
        succeed(self.command(program, arguments), &self.directory.join(format!("{program}.log")))
    }

    fn serve(&self, name: &str, port: u16, setting: Option<&str>) -> Result<Server> {
        let port = format!("port={port}");
        let settings = [
            port.as_str(),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=on",
            "synchronous_commit=on",
            "synchronous_standby_names=FIRST 1 (s1, s2)",
            "max_connections=200",
            "shared_buffers=512MB",
            "max_wal_size=4GB",
            "wal_keep_size=2GB",
        ];
        let mut command = self.command("postgres", &["-D", name]);
        for setting in settings.into_iter().chain(setting) {
            command.args(["-c", setting]);
        }
        // An immediate shutdown: what a kill does, but its children go, too.
        Server::start(command, &self.directory.join(format!("{name}.log")), Signal::SIGQUIT)
    }
}

/// The programs of the newest version below `versions`.
fn programs(versions: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(versions).into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let found = entries.map(|entry| entry.path()).filter(|path| path.join("bin/initdb").is_file());
    let newest = found.max_by_key(|path| version(path));
    let newest = newest.context("there is no PostgreSQL server; package postgresql brings it")?;
    Ok(newest.join("bin"))
}

fn size_of(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
        bytes += match kind?.is_dir() {
            true => size_of(&path)?,
            false => path.metadata()?.len(),
        };
    }
    Ok(bytes)
}

#[async_trait(?Send)]
impl Target for Postgres {
    fn version(&self) -> String {
        self.version.clone()
    }

    async fn connect(&self, clients: usize, _: Purpose) -> Result<Connections> {
        let mut connections = Connections::new();
        for _ in 0..clients {
            let client = self.admin().await?;
            let put = client.prepare(PUT).await?;
            let get = client.prepare(GET).await?;
            let batch = client.prepare(BATCH).await?;
            connections.push(Box::new(Session { client, put, get, batch }));
        }
        Ok(connections)
    }

    fn abilities(&self) -> Abilities {
        Abilities { catches_up: true, seeds: true, ..Abilities::default() }
    }

    async fn switch_over(&mut self) -> Result<()> {
        bail!("PostgreSQL moves the active role only with tools around it")
    }

    async fn kill(&mut self, _: Fault) -> Result<()> {
        bail!("PostgreSQL fails over only with tools around it")
    }

    async fn recover(&mut self) -> Result<()> {
        Ok(())
    }

    async fn stop_passive(&mut self) -> Result<()> {
        // s2, for which no commit waits.
        self.standbys[1] = None;
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<()> {
        self.standbys[1] = Some(self.serve_standby(1)?);
        let equal = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 's2' \
            AND flush_lsn >= pg_current_wal_lsn()";
        self.wait_for_count(equal, 1, CATCH_UP_MAX).await
    }

    async fn seed(&mut self) -> Result<(u64, f64)> {
        let begun = Instant::now();
        self.copy_to("seeded")?;
        let seconds = begun.elapsed().as_secs_f64();
        let directory = self.host.directory.join("seeded");
        let bytes = size_of(&directory)?;
        std::fs::remove_dir_all(&directory)?;
        Ok((bytes, seconds))
    }
}

struct Session {
    client: tokio_postgres::Client,
    put: Statement,
    get: Statement,
    batch: Statement,
}

#[async_trait]
impl Connection for Session {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.client.execute(&self.put, &[&&*key, &&*value]).await?;
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>> {
        let row = self.client.query_opt(&self.get, &[&&*key]).await?;
        row.map(|row| Ok(row.try_get::<_, &[u8]>(0)?.len())).transpose()
    }

    async fn batch(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<()> {
        let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) =
            records.iter().map(|(key, value)| (&**key, &**value)).unzip();
        self.client.execute(&self.batch, &[&keys, &values]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_with_a_server_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        assert!(programs(directory.path()).is_err());
        for (version, program) in [("9", "initdb"), ("15", "initdb"), ("17", "psql")] {
            let bin = directory.path().join(version).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            std::fs::write(bin.join(program), "").unwrap();
        }
        assert_eq!(programs(directory.path()).unwrap(), directory.path().join("15/bin"));
        assert_eq!(size_of(directory.path()).unwrap(), 0);
    }
}
