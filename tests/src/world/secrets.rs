//! What must never be said: every secret of a run, in every form in which it could slip out.

use anyhow::{Result, bail};
use rollcall_common::token::Token;

/// Shortest piece that is looked for: shorter ones occur by chance.
const SHORTEST: usize = 16;

/// The secrets of one run.
#[derive(Debug, Default)]
pub struct Secrets {
    forms: Vec<(String, Vec<u8>)>,
}

impl Secrets {
    /// Adds a secret text: a credential, or the private half of one.
    pub fn add(&mut self, what: &str, text: &str) {
        // The part after the last separator is the secret; what comes before may be said.
        let secret = text.rsplit('_').next().unwrap_or(text);
        self.add_form(what, secret.as_bytes().to_vec());
    }

    /// Adds an onboarding token: its text and the secret bytes inside, raw, in hex and in base32.
    ///
    /// # Errors
    /// When it is no token.
    pub fn add_token(&mut self, text: &str) -> Result<()> {
        self.add("token", text);
        let token: Token = text.parse()?;
        let secret = postcard::to_allocvec(&token.secret)?;
        self.add_form("token secret, hex", hex(&secret).into_bytes());
        self.add_form("token secret, HEX", hex(&secret).to_uppercase().into_bytes());
        self.add_form("token secret, decimal", format!("{secret:?}").into_bytes());
        self.add_form("token secret", secret);
        Ok(())
    }

    fn add_form(&mut self, what: &str, form: Vec<u8>) {
        if form.len() >= SHORTEST && !self.forms.iter().any(|(_, known)| *known == form) {
            self.forms.push((what.into(), form));
        }
    }

    /// Looks for all of them.
    ///
    /// # Errors
    /// The first that occurs; the error does not repeat it.
    pub fn check(&self, text: &[u8]) -> Result<()> {
        for (what, form) in &self.forms {
            // A prefix of a secret is a leak too.
            let head = form.get(..SHORTEST.max(form.len() / 2)).unwrap_or(form);
            if text.windows(head.len()).any(|window| window == head) {
                bail!("a secret was said: {what}");
            }
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_found_in_every_form() {
        let mut secrets = Secrets::default();
        secrets.add("credential", "rollcall_adm1_aaaaaaaaaaaaaaaa_bcdefghijklmnopqrstuvwxyz234567");
        secrets.check(b"credential rollcall_adm1_aaaaaaaaaaaaaaaa is all right").unwrap();
        secrets.check(b"cut: bcdefghijklmnopq").unwrap_err();
        secrets.check(b"whole: bcdefghijklmnopqrstuvwxyz234567").unwrap_err();
    }
}
