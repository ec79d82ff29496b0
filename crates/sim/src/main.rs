//! `keelson-sim`: runs seeds, prints a summary, and on a failure the line that replays it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use keelson_sim::{ManagerParams, ManagerWorld, Params, Probes, World};
use keelson_types::Weakness;

const USAGE: &str = "usage: keelson-sim [--seeds N] [--from S] [--steps K]
       [--replay SEED] [--trace]
       [--scale MEMBERS,DATABASES]   the loss of a site of so large a cluster, instead
       [--managers N [--from S]]   N seeds of the world of the whole manager, instead
       [--managers 1 --replay SEED --trace]
       [--without RULE]   RULE is switched off on purpose: a name of keelson_types::Weakness";

struct Options {
    seeds: u64,
    from: u64,
    steps: Option<u64>,
    replay: Option<u64>,
    trace: bool,
    weakness: Weakness,
    scale: Option<(usize, usize)>,
    managers: Option<u64>,
}

/// Every rule that can be switched off.
const WEAKNESSES: [Weakness; 13] = [
    Weakness::RuleChangeAtOnce,
    Weakness::ProofWithNewestRuleOnly,
    Weakness::EndsByPosition,
    Weakness::ForgetfulCopyCounts,
    Weakness::SealBeforeSync,
    Weakness::RenewWithoutQuorum,
    Weakness::AttemptsShareEpoch,
    Weakness::ResumeAfterRestart,
    Weakness::AdmitBeforeCaughtUp,
    Weakness::TrustBeforeQ,
    Weakness::KeepFetchedAcrossEpochs,
    Weakness::ExpiryDismounts,
    Weakness::NewIncarnationEndsLease,
];

fn weakness(name: &str) -> Result<Weakness, String> {
    let found = WEAKNESSES.into_iter().find(|weakness| format!("{weakness:?}") == name);
    found.ok_or_else(|| format!("{name:?} is none of {WEAKNESSES:?}"))
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seeds: 200,
        from: 1,
        steps: None,
        replay: None,
        trace: false,
        weakness: Weakness::None,
        scale: None,
        managers: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            value.parse::<u64>().map_err(|error| format!("{arg} {value}: {error}"))
        };
        match arg.as_str() {
            "--seeds" => options.seeds = number()?,
            "--managers" => options.managers = Some(number()?),
            "--from" => options.from = number()?,
            "--steps" => options.steps = Some(number()?),
            "--replay" => options.replay = Some(number()?),
            "--scale" => {
                let sizes = args.next().ok_or("--scale needs MEMBERS,DATABASES")?;
                options.scale = Some(scale(&sizes)?);
            }
            "--trace" => options.trace = true,
            "--without" => {
                let name = args.next().ok_or("--without needs a name")?;
                options.weakness = weakness(&name)?;
            }
            _ => return Err(format!("{arg:?} is not an option")),
        }
    }
    Ok(options)
}

fn scale(sizes: &str) -> Result<(usize, usize), String> {
    let bad = || format!("--scale {sizes:?} is not MEMBERS,DATABASES, with 4 members or more");
    let (members, databases) = sizes.split_once(',').ok_or_else(bad)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
    let (members, databases) = (number(members)?, number(databases)?);
    if members < 4 { Err(bad()) } else { Ok((members, databases)) }
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some((members, databases)) = options.scale {
        let report = keelson_sim::scale::lose_a_site(members, databases);
        println!("{report}");
        return if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(count) = options.managers {
        return managers(count, &options);
    }
    let seeds = match options.replay {
        Some(seed) => seed..seed + 1,
        None => options.from..options.from + options.seeds,
    };
    let count = seeds.end - seeds.start;
    let (mut probes, mut total, mut failed, mut waiting) = (Probes::default(), [0; 8], 0, 0);
    for seed in seeds {
        let params = Params { weakness: options.weakness, ..Params::from_seed(seed) };
        let report = World::new(params, options.trace).run(options.steps);
        probes.add(&report.probes);
        waiting += report.waiting;
        let c = report.counts;
        let figures = [
            c.events,
            c.elections,
            c.activations,
            c.crashes,
            c.cuts,
            c.acknowledged,
            c.unknown,
            c.reads,
        ];
        total.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
        if let Some(violation) = report.violation {
            failed += 1;
            println!("seed {seed} after {} events: {violation}", c.events);
            println!("    cargo run -p keelson-sim -- --replay {seed}");
        }
    }
    let [events, elections, activations, crashes, cuts, acknowledged, unknown, reads] = total;
    println!("{count} seeds, {events} events, {failed} failed, {waiting} databases wait rightly");
    println!("{elections} elections, {activations} activations, {crashes} crashes, {cuts} cuts");
    println!("{acknowledged} writes acknowledged, {unknown} with unknown outcome, {reads} reads");
    for probe in keelson_sim::Probe::ALL {
        println!("{:>10}  {}", probes.count(*probe), probe.name());
    }
    let silent = probes.silent();
    if count >= 200 && options.steps.is_none() && !silent.is_empty() {
        println!("never met: {}", silent.join(", "));
        failed += 1;
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seeds of the world of the whole manager.
fn managers(count: u64, options: &Options) -> ExitCode {
    let seeds = match options.replay {
        Some(seed) => seed..seed + 1,
        None => options.from..options.from + count,
    };
    let (mut failed, mut events, mut rare) = (0, 0, BTreeMap::new());
    for seed in seeds {
        let params = ManagerParams { weakness: options.weakness, ..ManagerParams::from_seed(seed) };
        let report = ManagerWorld::new(params, options.trace).run();
        events += report.counts.events;
        for (what, times) in report.counts.rare {
            *rare.entry(what).or_insert(0_u64) += times;
        }
        if let Some(violation) = report.violation {
            failed += 1;
            println!("seed {seed}: {violation}");
            println!("    cargo run -p keelson-sim -- --managers 1 --replay {seed} --trace");
        }
    }
    println!("{events} events, {failed} seeds failed");
    for (what, times) in rare {
        println!("{times:>10}  {what}");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
