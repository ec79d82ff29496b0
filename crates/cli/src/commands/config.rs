//! `keelson config`: check and explain configuration files.

use std::path::PathBuf;

use clap::Subcommand;
use keelson_client::ClientConfig;
use serde_json::json;

use crate::context::Global;
use crate::failure::Outcome;
use crate::output;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Check the configuration of a member, strictly: unknown keys are errors
    Check {
        /// Configuration file
        file: PathBuf,
        /// It is a client configuration
        #[arg(long)]
        for_client: bool,
    },
    /// Explain every key of a member's configuration
    Explain {
        /// Print a complete sample file instead
        #[arg(long)]
        sample: bool,
    },
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Check { file, for_client: true } => {
                let config = ClientConfig::load(&file)?;
                let sentence = format!("{}: usable", file.display());
                let data = json!({ "file": file, "endpoints": config.endpoints, "warnings": [] });
                output::print_done(global.output, &sentence, &data);
            }
            Self::Check { file, for_client: false } => {
                let report = keelson_server::config::check(&file)?;
                let config = report.config;
                let mut sentence = format!("{}: member {}, usable", file.display(), config.name());
                for warning in &report.warnings {
                    sentence += &format!("\nwarning: {warning}");
                }
                let data = json!({
                    "file": file,
                    "member": config.name().as_str(),
                    "warnings": report.warnings,
                });
                output::print_done(global.output, &sentence, &data);
            }
            Self::Explain { sample: true } => output::emit(&keelson_server::config::sample()),
            Self::Explain { sample: false } => output::emit(&keelson_server::config::explain()),
        }
        Ok(())
    }
}
