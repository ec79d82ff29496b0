//! `keelson completions` and `keelson man`: generated from the command tree.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// Shell to complete in
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        clap_complete::generate(self.shell, &mut Cli::command(), "keelson", &mut io::stdout());
        Ok(())
    }
}

#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Directory for one page per command; without it the page of `keelson` goes to standard output
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Outcome {
        let command = Cli::command();
        match self.dir {
            None => clap_mangen::Man::new(command).render(&mut io::stdout())?,
            Some(dir) => {
                std::fs::create_dir_all(&dir).map_err(|error| Failure::file(&dir, &error))?;
                clap_mangen::generate_to(command, &dir)?;
            }
        }
        Ok(())
    }
}
