//! `onboard --ssh` against a real SSH server, and `--wait` until the host is in or was turned away.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::{
    peer::{Ask, Phone, SOON, enroll},
    until::until,
    world::{self, Plan, Process, World},
};

use super::operator::Operator;

/// Where the server of distributions is: it must be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

/// A host that is reached over SSH: a server of its own on loopback, with keys of its own. What is installed there goes
/// below a directory, as `/etc` and `/var/lib` of a mount namespace.
struct Remote {
    dir: PathBuf,
    server: Process,
}

fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn made(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Remote {
    async fn start(world: &World) -> Result<Self> {
        let dir = world.dir().join("host");
        for sub in ["", "root/etc", "root/lib", "bin", "operator"] {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(dir.join(sub))?;
        }
        for key in ["host-key", "user-key"] {
            let key = dir.join(key);
            made(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
        }
        let text = |name: &str| dir.join(name).display().to_string();
        write(&dir.join("authorized"), 0o600, &fs::read_to_string(dir.join("user-key.pub"))?)?;
        // What a host has and this one need not have: sudo without a password, and a service manager.
        write(&dir.join("bin/sudo"), 0o755, "#!/bin/sh\nexec \"$@\"\n")?;
        let calls = dir.join("root/lib/calls");
        write(&dir.join("bin/systemctl"), 0o755, "#!/bin/sh\necho \"$@\" >> /var/lib/calls\n")?;
        ensure!(!calls.exists());
        let session = format!(
            "#!/bin/sh\nset -eu\nexport PATH={bin}:/usr/sbin:/usr/bin:/sbin:/bin\n\
             exec unshare --user --map-root-user --mount sh -euc 'mount --bind {root}/lib /var/lib\n\
             mount --bind {root}/etc /etc\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"'\n",
            bin = text("bin"),
            root = text("root"),
        );
        write(&dir.join("session"), 0o755, &session)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let settings = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nPidFile {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             ForceCommand {}\n",
            text("host-key"),
            text("sshd.pid"),
            text("authorized"),
            text("session"),
        );
        fs::write(dir.join("sshd_config"), settings)?;
        let mut server = Process::installed("sshd", "sshd", world.dir())?;
        server.args(["-D".into(), "-e".into(), "-f".into(), text("sshd_config")]);
        if rustix::process::geteuid().is_root() {
            // The distribution's unit makes it; without one nobody does.
            fs::create_dir_all("/run/sshd")?;
        }
        server.start()?;
        // The operator's own ssh, told where this server and its keys are.
        let host_key = fs::read_to_string(dir.join("host-key.pub"))?;
        fs::write(dir.join("known"), format!("[127.0.0.1]:{port} {host_key}"))?;
        let client = format!(
            "Host edge-17\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {}\n  StrictHostKeyChecking yes\n  BatchMode yes\n",
            text("user-key"),
            text("known"),
        );
        fs::write(dir.join("ssh_config"), client)?;
        let ssh = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", text("ssh_config"));
        write(&dir.join("operator/ssh"), 0o755, &ssh)?;
        until(SOON, "the SSH server answers", async || {
            let mut said = Command::new(dir.join("operator/ssh"));
            made(said.args(["edge-17", "sudo", "true"])).with_context(|| server.said().unwrap_or_default())
        })
        .await?;
        Ok(Self { dir, server })
    }

    /// Where the operator's programs are.
    fn path(&self) -> PathBuf {
        self.dir.join("operator")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join("root").join(name)
    }
}

/// One line on the operator's side, and the host is in: its files are in place with their modes, its service was
/// started, and `--wait` ends when the sidecar lives.
#[tokio::test]
async fn one_command_brings_a_host_in_over_ssh() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        ensure!(Path::new(SSHD).exists(), "sshd is not installed: apt-get install openssh-server");
        let mut remote = Remote::start(world).await?;
        let operator = Operator::of(world)?;
        let line = "onboard agent edge-17 --parent site-3 --create-parents --yes --local --ssh edge-17 --wait 50s";
        let path = remote.path();
        let bring_in = operator.follows(line, &path);
        let live = async {
            let token = remote.file("etc/rollcall/agent/token");
            let calls = remote.file("lib/calls");
            let called = until(SOON, "the service is started there", async || {
                let called = fs::read_to_string(&calls)?;
                ensure!(called.contains("restart rollcall-agent.service"), "{called}");
                Ok(called)
            })
            .await?;
            ensure!(called.contains("enable rollcall-agent.service"), "{called}");
            ensure!(fs::metadata(&token)?.permissions().mode() & 0o777 == 0o600, "the token is open to others");
            let config = fs::read_to_string(remote.file("etc/rollcall/agent.toml"))?;
            let mut sidecar = world.sidecar("edge-17", &config)?;
            sidecar.give_token(&fs::read_to_string(token)?)?;
            sidecar.start()?;
            anyhow::Ok(sidecar)
        };
        let ((code, said), mut sidecar) = tokio::try_join!(bring_in, live)?;
        ensure!(code == 0, "{code}: {said}");
        for word in ["registered as a placeholder", "is pending, never", "agent/edge-17 is active, alive"] {
            ensure!(said.contains(word), "{word}: {said}");
        }
        ensure!(!said.contains("rollcall_enr1_"), "the token was shown: {said}");
        let token = fs::read_to_string(remote.file("etc/rollcall/agent/token"))?;
        world.keep_secret("token", token.trim());
        world.api().wait_alive("agent/edge-17").await?;

        // A host that has an identity is left alone, and the operator hears why.
        fs::create_dir_all(remote.file("lib/rollcall-agent/identity"))?;
        let (code, said) = operator.follows("onboard poller site-9 --local --ssh edge-17", &remote.path()).await?;
        ensure!(
            code == 69 && said.contains("has an identity already") && said.contains("ssh edge-17"),
            "{code}: {said}"
        );
        // Nobody is there: no script ran, and that is what is said.
        remote.server.kill9().await?;
        let (code, said) = operator.follows("onboard poller site-8 --local --ssh edge-17", &remote.path()).await?;
        ensure!(code == 69 && said.contains("ssh edge-17: "), "{code}: {said}");
        let (code, said) =
            operator.follows("onboard poller site-7 --local --ssh edge-17", Path::new("/nowhere")).await?;
        ensure!(code == 69 && said.contains("ssh edge-17: "), "without ssh: {code}: {said}");
        sidecar.terminate().await.map(drop)
    })
    .await
}

/// `--wait` says at once who was turned away, why and what to do, and ends with 69 when its time is over.
#[tokio::test]
async fn waiting_tells_who_was_turned_away() -> Result<()> {
    world::run(Plan::calm(), async |world| {
        let operator = Operator::of(world)?;
        let package = world.dir().join("edge-17.tar.gz");
        let line = format!("onboard poller edge-17 --local --package {} --wait 30s", package.display());
        let follow = operator.follows(&line, Path::new("/usr/bin:/bin"));
        let knock = async {
            until(SOON, "the package is there", async || Ok(fs::metadata(&package)?)).await?;
            // Somebody who knows a token's name and not its secret.
            let id = until(SOON, "its token", async || {
                let tokens = world.api().tokens().await?;
                let token = tokens.first().context("no token")?;
                Ok(rollcall_tests::world::api::word(token, "id")?.to_owned())
            })
            .await?;
            let files = world.dir().join("unpacked");
            fs::create_dir_all(&files)?;
            made(Command::new("tar").arg("-xzf").arg(&package).arg("-C").arg(&files))?;
            let text = fs::read_to_string(files.join("etc/rollcall/agent/token"))?;
            let token: rollcall_common::token::Token = text.trim().parse()?;
            ensure!(token.id.to_string() == id, "another token");
            let mut ask = Ask::poller("edge-17")?;
            ask.secret = Some(rollcall_common::token::Secret::random()?);
            enroll(&Phone::new()?, world.quic(), &token, &ask).await?.refusal()?;
            anyhow::Ok(text)
        };
        let ((code, said), token) = tokio::try_join!(follow, knock)?;
        ensure!(code == 69, "{code}: {said}");
        for word in ["turned away: 127.0.0.1, who proved nothing, WRONG_SECRET: ", "has not come alive within 30s"] {
            ensure!(said.contains(word), "{word}: {said}");
        }
        ensure!(said.contains("knocks list") && !said.contains("nobody knocked"), "{said}");
        world.keep_secret("token", token.trim());
        // Where nobody came, that is said, with what to look at.
        let (code, said) =
            operator.follows("onboard poller edge-18 --local --output raw --wait 1s", Path::new("/usr/bin")).await?;
        ensure!(code == 69 && said.contains("nobody knocked with its token"), "{code}: {said}");
        Ok(())
    })
    .await
}
