//! `keelson-profile`: what a request costs, by kind of thread, on three members of this machine.

use std::process::ExitCode;
use std::time::Duration;

use keelson_testkit::{profile, until_interrupted};

/// How long each load runs, unless the first argument says so many seconds.
const TIME: Duration = Duration::from_secs(10);

/// Less is over before it is looked at.
const SECONDS_MIN: u64 = 5;

#[tokio::main]
async fn main() -> ExitCode {
    let time = match std::env::args().nth(1).map(|text| text.parse()) {
        None => TIME,
        Some(Ok(seconds)) if seconds >= SECONDS_MIN => Duration::from_secs(seconds),
        Some(_) => {
            eprintln!("usage: keelson-profile [SECONDS], {SECONDS_MIN} at least");
            return ExitCode::from(2);
        }
    };
    match until_interrupted(profile::run(time)).await {
        Ok(profiles) => {
            print!("{}", profile::page(&profiles));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("profile FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}
