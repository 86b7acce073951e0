//! `rollcall-agent reset`: forgets who this host is, before it becomes an image of others.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;

use super::{Exit, complain, print};
use crate::{
    config::Config,
    token::wipe,
    vault::{Vault, VaultError},
};

const EXAMPLES: &str = "\
For golden images, as the last step before the snapshot:
  systemctl disable --now rollcall-agent
  rollcall-agent reset --yes --token
  systemctl enable rollcall-agent
Every machine started from it then enrolls with a token of its own, laid down at first boot.
Without a shell in the image (virt-sysprep empties /etc/machine-id by itself):
  virt-sysprep -a image.qcow2 --run-command 'rollcall-agent reset --yes --token'
The token of a machine, by cloud-init; a waiting sidecar goes on when it is there:
  #cloud-config
  write_files:
    - path: /etc/rollcall/agent/token
      permissions: '0600'
      content: TOKEN
For a scaling group one token may do for all: rollcall-collector tokens create --id-pattern
'web-*' --max-uses 500 --ephemeral-after 1h, and no `id` in the image's configuration.

A copy that was forgotten is noticed: it stops with 78 before it dials, as the machine-id is
another one, and `reset` on it is what mends it. Where the machine-id was copied too, nobody
can tell: the collector then closes one session for the other again and again (SUPERSEDED).

Keys are overwritten before they are removed; on flash and on file systems that copy on write
older copies may remain, so that an identity which was in an image should be revoked at the
collector too:
  rollcall-collector services revoke KIND/ID

Configuration stays. The token file stays unless --token is given.

Exit codes: 0 nothing is left; 64 nobody confirmed; 78 a sidecar runs, or the directory is
not ours.";

/// What `reset` takes.
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = EXAMPLES)]
pub struct ResetArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Forget the onboarding token's file too
    #[arg(long)]
    token: bool,
}

impl ResetArgs {
    pub(super) fn reset(self, config: &Config) -> Exit {
        let dir = config.state_dir.display();
        let vault = match Vault::open_to_forget(&config.state_dir) {
            Ok(vault) => vault,
            Err(error @ VaultError::Locked(_)) => {
                return complain(&format!("{error}\nstop it first: systemctl stop rollcall-agent"), Exit::Config);
            }
            Err(error) => return complain(&error, Exit::Config),
        };
        if let Some(vault) = vault {
            if !self.yes && !confirmed(&format!("Forget the identity in {dir}? It cannot be brought back.")) {
                return complain(&"nothing was changed: confirm on a terminal, or give --yes", Exit::Usage);
            }
            match vault.forget() {
                Ok(forgotten) if forgotten.is_empty() => print(&format!("{dir} held no identity")),
                Ok(forgotten) => print(&format!("forgotten in {dir}: {}", forgotten.join(", "))),
                Err(error) => {
                    let exit = if error.is_transient() { Exit::Failed } else { Exit::Config };
                    return complain(&error, exit);
                }
            }
        } else {
            print(&format!("{dir} is not there: no identity to forget"));
        }
        if self.token {
            let file = &config.token.file;
            match wipe(file) {
                Ok(true) => print(&format!("forgotten: {}", file.display())),
                Ok(false) => {}
                Err(error) => return complain(&format!("cannot remove {}: {error}", file.display()), Exit::Config),
            }
        }
        Exit::Well
    }
}

/// Asks on a terminal; elsewhere nobody is there to say yes.
fn confirmed(question: &str) -> bool {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return false;
    }
    let mut line = String::new();
    let asked = write!(std::io::stderr(), "{question} [y/N] ").and_then(|()| stdin.lock().read_line(&mut line));
    asked.is_ok() && ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}
