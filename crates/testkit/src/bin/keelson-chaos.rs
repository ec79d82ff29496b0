//! `keelson-chaos`: random faults on a cluster of real processes, from a seed.

use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Error, Result, bail, ensure};
use keelson_testkit::chaos::{self, ChaosOptions, Kind, Script, Victim, Where};
use keelson_testkit::until_interrupted;

const USAGE: &str = "usage: keelson-chaos [--seed NUMBER] [--faults NUMBER] [--only KIND,...]\n\
    \x20      [--victim any|active|leader] [--writers NUMBER] [--pause-ms NUMBER]\n\
    \x20      [--hold FROM..TO] [--script FILE] [--containers FILE]\n\
    default: a seed of its own, 50 faults, every kind, any victim, held for 300ms..3s, 6 writers\n\
    that pause 2 ms. A script has a fault on each line instead, KIND [VICTIM [OTHER]] [TIME]\n\
    [SECONDS], as `cut active m3 40s` or `clock-jump m2 5s -120`; victims are members, active,\n\
    passive, leader. KEELSON_OTHER_BIN names another version of keelson, for rolling-upgrade;\n\
    FILE of --containers is written by cargo xtask chaos --docker; keelson-chaos --prepare FILE\n\
    makes volumes and a library for its members before they start";

fn options(arguments: Vec<String>) -> Result<ChaosOptions> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut options = ChaosOptions {
        seed: since.subsec_nanos().into(),
        faults: 50,
        kinds: Kind::ALL.to_vec(),
        victim: Victim::Any,
        hold_millis: chaos::HOLD_MILLIS,
        script: None,
        writers: 6,
        pause: Duration::from_millis(2),
        place: Where::Processes { other: std::env::var_os("KEELSON_OTHER_BIN").map(Into::into) },
    };
    let mut arguments = arguments.into_iter();
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seed" => options.seed = value.parse().context("--seed is a number")?,
            "--faults" => options.faults = value.parse().context("--faults is a number")?,
            "--only" => {
                options.kinds = value.split(',').map(str::parse).collect::<Result<_>>()?;
            }
            "--victim" => options.victim = value.parse()?,
            "--hold" => options.hold_millis = hold(&value)?,
            "--script" => {
                let text = std::fs::read_to_string(&value).context(value)?;
                let script: Script = text.parse()?;
                options.kinds = script.kinds().collect();
                options.script = Some(script);
            }
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

/// `300ms..3s` in milliseconds.
fn hold(text: &str) -> Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("--hold is a span, as 300ms..3s")?;
    let millis = |word| Ok::<_, Error>(u64::try_from(chaos::time(word)?.as_millis())?);
    let span = millis(from)?..millis(to)?;
    ensure!(!span.is_empty(), "--hold ends before it begins");
    Ok(span)
}

/// Makes what members in containers have of this machine.
async fn prepare(file: &Path) -> ExitCode {
    match chaos::prepare(file).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [name, file] = arguments.as_slice()
        && name == "--prepare"
    {
        return prepare(Path::new(file)).await;
    }
    let options = match options(arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match until_interrupted(chaos::run(&options)).await {
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
