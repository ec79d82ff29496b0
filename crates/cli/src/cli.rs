//! The command tree: noun, then verb.

use clap::{Parser, Subcommand};

use crate::block_on;
use crate::commands::{
    audit, bench, certs, cluster, completions, config, copy, database, decision, event, guarantee,
    health, kv, log, member, network, operation, redistribute, search, server, site, switchover,
    token, volume,
};
use crate::context::Global;
use crate::failure::Outcome;

/// Exit codes, for the end of the long help.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 refused (fix what \
    the hint says), 4 unavailable or outcome unknown (retry), 5 partly done (an import with bad \
    lines).";

/// Keelson keeps several copies of databases on several servers and moves the active one.
#[derive(Parser, Debug)]
#[command(name = "keelson", version, after_long_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a member of a cluster
    Server(server::Server),
    /// Run a witness: a vote in a cluster, without data
    Witness(server::Witness),
    /// The data process of a member; started by its control process
    #[command(hide = true)]
    DataProcess(server::DataProcess),
    /// Run a whole cluster on this machine, for trying things out
    Dev(server::Dev),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Members (servers)
    #[command(subcommand)]
    Member(member::Command),
    /// Sites (datacenters)
    #[command(subcommand)]
    Site(site::Command),
    /// Networks between members
    #[command(subcommand)]
    Network(network::Command),
    /// Databases
    #[command(subcommand)]
    Database(database::Command),
    /// Copies of databases
    #[command(subcommand)]
    Copy(copy::Command),
    /// Move the active role of a database to another member
    Switchover(switchover::Switchover),
    /// Spread active databases over members and sites
    Redistribute(redistribute::Redistribute),
    /// The named tests of members
    Health(health::Health),
    /// Whether databases have enough copies that could serve, and that hold what was written
    Redundancy(health::Redundancy),
    /// Whether enough copies follow closely enough for a writer of much
    #[command(subcommand)]
    Guarantee(guarantee::Command),
    /// Recorded decisions of the active manager
    #[command(subcommand)]
    Decision(decision::Command),
    /// Events of the cluster
    #[command(subcommand)]
    Event(event::Command),
    /// Who changed what at a member, who was refused, who logged in
    Audit(audit::Audit),
    /// Long work and its progress
    #[command(subcommand)]
    Operation(operation::Command),
    /// Read and write databases
    #[command(subcommand)]
    Kv(kv::Command),
    /// Search the content index of a database
    Search(search::Search),
    /// Volumes of members that have several
    #[command(subcommand)]
    Volume(volume::Command),
    /// Look into log files, offline
    #[command(subcommand)]
    Log(log::Command),
    /// Certificates
    #[command(subcommand)]
    Certs(certs::Command),
    /// Access tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Configuration files
    #[command(subcommand)]
    Config(config::Command),
    /// Measure speed
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print or write the manual pages
    Man(completions::Man),
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> Outcome {
        let global = &self.global;
        match self.command {
            Command::Server(command) => command.run(global),
            Command::Witness(command) => command.run(global),
            Command::DataProcess(command) => command.run(),
            Command::Dev(command) => command.run(global),
            Command::Cluster(command) => block_on(command.run(global)),
            Command::Member(command) => block_on(command.run(global)),
            Command::Site(command) => block_on(command.run(global)),
            Command::Network(command) => block_on(command.run(global)),
            Command::Database(command) => block_on(command.run(global)),
            Command::Copy(command) => block_on(command.run(global)),
            Command::Switchover(command) => block_on(command.run(global)),
            Command::Redistribute(command) => block_on(command.run(global)),
            Command::Health(command) => block_on(command.run(global)),
            Command::Redundancy(command) => block_on(command.run(global)),
            Command::Guarantee(command) => block_on(command.run(global)),
            Command::Decision(command) => block_on(command.run(global)),
            Command::Event(command) => block_on(command.run(global)),
            Command::Audit(command) => block_on(command.run(global)),
            Command::Operation(command) => block_on(command.run(global)),
            Command::Kv(command) => block_on(command.run(global)),
            Command::Search(command) => block_on(command.run(global)),
            Command::Volume(command) => block_on(command.run(global)),
            Command::Log(command) => command.run(global),
            Command::Certs(command) => command.run(global),
            Command::Token(command) => block_on(command.run(global)),
            Command::Config(command) => command.run(global),
            Command::Bench(command) => command.run(global),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let line = ["keelson", "database", "list", "-o", "json", "--client", "c.toml"];
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(cli.global.output.is_data());
        assert_eq!(cli.global.client.as_deref(), Some("c.toml".as_ref()));
    }
}
