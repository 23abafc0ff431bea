//! `tidemill config show`: the resolved configuration, secrets hidden.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Subcommand;

use super::Failure;
use crate::config::{self, KEYS};

const EXAMPLES: &str = "\
EXAMPLES:
    tidemill config show --origin                     what is set, and by whom
    tidemill config show --all                        every setting with its meaning
    TIDEMILL__KAFKA__BROKERS=kafka:9092 tidemill config show";

/// Look at the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(Show),
}

/// Print the resolved configuration; secrets are hidden.
///
/// Precedence: flag > environment (TIDEMILL__SECTION__KEY) > file > default.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct Show {
    /// Also say who set each value.
    #[arg(long)]
    origin: bool,
    /// Also list the settings that are not set, with their meaning.
    #[arg(long)]
    all: bool,
    /// Configuration file [default: ./tidemill.toml if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEMILL_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let Action::Show(show) = args.action;
    let config = config::load(show.config.as_deref(), &[])?;
    let mut out = io::stdout().lock();
    for (path, value, origin) in config.entries() {
        if show.origin {
            writeln!(out, "{path} = {value:?}  # {origin}")?;
        } else {
            writeln!(out, "{path} = {value:?}")?;
        }
    }
    if show.all {
        writeln!(out)?;
        for key in KEYS {
            let set = if config.get(key.path).is_some() { "" } else { " (not set)" };
            writeln!(out, "# {}{set}: {}", key.path, key.help)?;
        }
    }
    Ok(())
}
