//! What every command shares: the global options, the client, and the two guards `--what-if` and
//! `--yes`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use keelson_client::{Client, ClientConfig, ClientOptions};
use keelson_types::RefusalReason;
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::output::{self, Format};

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Client configuration (endpoints, and certificates or a token). Default: `client.toml` in the
    /// directory `keelson` of the user's configuration directory.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KEELSON_CLIENT",
        help_heading = "Global"
    )]
    pub(crate) client: Option<PathBuf>,

    /// File with the secret of an access token, to be shown instead of the certificate.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KEELSON_TOKEN_FILE",
        help_heading = "Global"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Global")]
    pub(crate) output: Format,

    /// Do not ask before something is removed.
    #[arg(short, long, global = true, help_heading = "Global")]
    pub(crate) yes: bool,

    /// Say what would be done, and change nothing.
    #[arg(long, global = true, help_heading = "Global")]
    pub(crate) what_if: bool,
}

impl Global {
    /// A client that has seen the cluster.
    pub(crate) async fn connect(&self) -> Outcome<Client> {
        let client = self.client()?;
        client.refresh_topology().await?;
        Ok(client)
    }

    /// A client that has contacted nobody yet.
    pub(crate) fn client(&self) -> Outcome<Client> {
        self.client_with(ClientOptions::default())
    }

    /// The same with other bounds.
    pub(crate) fn client_with(&self, options: ClientOptions) -> Outcome<Client> {
        Ok(Client::new(self.config()?, options)?)
    }

    /// A client of the servers at `endpoints` instead of those of the configuration.
    pub(crate) fn client_at(
        &self,
        endpoints: Vec<String>,
        options: ClientOptions,
    ) -> Outcome<Client> {
        Ok(Client::new(ClientConfig { endpoints, ..self.config()? }, options)?)
    }

    fn config(&self) -> Outcome<ClientConfig> {
        let config = ClientConfig::load(&self.client_file()?)?;
        Ok(match &self.token_file {
            Some(file) => config.with_token_file(file.clone()),
            None => config,
        })
    }

    fn client_file(&self) -> Outcome<PathBuf> {
        if let Some(path) = &self.client {
            return Ok(path.clone());
        }
        let directory = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
        let path = directory.map(|directory| directory.join("keelson/client.toml"));
        path.filter(|path| path.exists()).ok_or_else(|| {
            Failure::usage(
                "no client configuration",
                "name one with --client FILE or KEELSON_CLIENT, or put client.toml into the \
                 directory keelson of the user's configuration directory; keelson dev writes one",
            )
        })
    }

    /// With `--what-if`: says what would be done, and returns true.
    pub(crate) fn only_shows(&self, plan: &str) -> bool {
        if self.what_if {
            output::print_done(self.output, &format!("would {plan}"), &json!({ "would": plan }));
        }
        self.what_if
    }

    /// Asks before `plan`, which cannot be undone easily; without a terminal `--yes` is required.
    pub(crate) fn confirm(&self, plan: &str) -> Outcome {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::usage(
                format!("to {plan} needs a confirmation"),
                "repeat the command with --yes; --what-if shows what would be done",
            ));
        }
        eprint!("{plan}? [y/N] ");
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => {
                Err(Failure::new(RefusalReason::Precondition, "not confirmed; nothing was changed"))
            }
        }
    }
}
