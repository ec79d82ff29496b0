//! `keelson-chaos`: random faults on a cluster of real processes, from a seed.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use keelson_testkit::chaos::{self, ChaosOptions, Kind, Victim, Where};

const USAGE: &str = "usage: keelson-chaos [--seed NUMBER] [--faults NUMBER] [--only KIND,...]\n\
    \x20      [--victim any|active|leader] [--writers NUMBER] [--pause-ms NUMBER]\n\
    \x20      [--containers FILE]\n\
    default: a seed of its own, 50 faults, every kind, any victim, 6 writers that pause 2 ms\n\
    KEELSON_OTHER_BIN names another version of keelson, for rolling-upgrade; FILE is written by\n\
    cargo xtask chaos --docker";

fn options() -> Result<ChaosOptions> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut options = ChaosOptions {
        seed: since.subsec_nanos().into(),
        faults: 50,
        kinds: Kind::ALL.to_vec(),
        victim: Victim::Any,
        writers: 6,
        pause: Duration::from_millis(2),
        place: Where::Processes { other: std::env::var_os("KEELSON_OTHER_BIN").map(Into::into) },
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seed" => options.seed = value.parse().context("--seed is a number")?,
            "--faults" => options.faults = value.parse().context("--faults is a number")?,
            "--only" => {
                options.kinds = value.split(',').map(str::parse).collect::<Result<_>>()?;
            }
            "--victim" => options.victim = value.parse()?,
            "--writers" => options.writers = value.parse().context("--writers is a number")?,
            "--pause-ms" => {
                let millis = value.parse().context("--pause-ms is a number")?;
                options.pause = Duration::from_millis(millis);
            }
            "--containers" => options.place = Where::Containers(value.into()),
            _ => bail!("{name} is not understood"),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match chaos::run(&options).await {
        Ok(outcome) => {
            println!("\n{}", outcome.table);
            println!("chaos: {:?}", outcome.verified);
            println!(
                "chaos: {} operations in {} histories, all linearizable; {:.0?} in all",
                outcome.operations, outcome.histories, outcome.took
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nchaos FAILED (seed {}): {error:#}", options.seed);
            ExitCode::FAILURE
        }
    }
}
