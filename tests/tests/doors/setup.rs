//! `setup` at a terminal: questions, defaults, answers that do not work, and hands that are taken away half-way.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use rollcall_tests::world::{
    Dialog,
    dialog::{CTRL_C, CTRL_D},
    process::find,
};

use super::place::{Place, code_in};

/// What is asked, in order, where the API stays on this host.
const QUESTIONS: [&str; 5] =
    ["Name of this collector", "Trust domain", "Addresses that sidecars dial", "Which [", "Address for the API"];

fn setup(place: &Place) -> Result<Dialog> {
    let (config, state) = (place.text("collector.toml")?, place.text("state")?);
    let line = ["setup", "--config", &config, "--state-dir", &state];
    Dialog::start(&find("rollcall-collector")?, &line, &[("XDG_CONFIG_HOME", &place.path("home"))])
}

/// Answers the questions, each when it is asked; what stood in its brackets.
async fn answer(dialog: &mut Dialog, answers: [&str; 5]) -> Result<Vec<String>> {
    let mut usual = Vec::new();
    for (question, answer) in QUESTIONS.into_iter().zip(answers) {
        dialog.sees(question).await.with_context(|| format!("the question {question:?}"))?;
        let rest = dialog.sees("]:").await?.trim_end_matches("]:").to_owned();
        usual.push(rest.rsplit('[').next().unwrap_or_default().to_owned());
        dialog.types(&format!("{answer}\n")).await?;
    }
    Ok(usual)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Wrong answers are told and asked again, Enter takes what was said before, and what comes of it runs: a collector
/// that takes the login code.
#[tokio::test]
async fn questions_make_a_configuration_that_runs() -> Result<()> {
    let mut place = Place::new()?;
    let mut dialog = setup(&place)?;
    dialog.sees("Enter takes what stands in brackets").await?;
    answer(&mut dialog, ["No Name!", "", "127.0.0.1", "1", "127.0.0.1:0"]).await?;
    dialog.sees("That does not work yet").await?;
    dialog.sees("name").await?;
    // Asked again: the good answers stand in the brackets, and so does the bad one, to be mended.
    let usual = answer(&mut dialog, ["main", "fleet.test", "", "", "0.0.0.0:7410"]).await?;
    ensure!(usual[0] == "No Name!" && usual[1] == "rollcall.local", "{usual:?}");
    ensure!(usual[2].contains("127.0.0.1:7411") && usual[3] == "1" && usual[4] == "127.0.0.1:0", "{usual:?}");
    // In the clear beyond this host is no answer either.
    dialog.sees("That does not work yet").await?;
    dialog.sees("http_listen").await?;
    let usual = answer(&mut dialog, ["", "", "", "", "127.0.0.1:0"]).await?;
    ensure!(usual[0] == "main" && usual[1] == "fleet.test", "{usual:?}");
    ensure!(!place.path("collector.toml").exists(), "nothing is written before it is agreed to");
    dialog.sees("Write ").await?;
    dialog.types("\n").await?;
    let (code, said) = dialog.ends().await?;
    ensure!(code == 0, "{code}: {said}");
    ensure!(place.mode("collector.toml")? == 0o644 && place.mode("state")? == 0o700, "modes");
    let login = code_in(&said)?;

    // Without a certificate the API speaks plainly on loopback; the code opens it.
    let http = place.start_speaking("http").await?;
    let done = place.cli(&["login", "--as", "here", "--api", &format!("http://{http}")], &login).await?.expect(0)?;
    ensure!(!done.contains("rollcall_api1_"), "{done}");
    place.cli(&["services", "list"], "").await?.expect(0)?;
    let whoami = place.cli(&["whoami", "--output", "json"], "").await?.expect(0)?;
    ensure!(whoami.contains("\"admin\""), "{whoami}");
    place.cli(&["login", "--as", "again", "--api", &format!("http://{http}")], &login).await?.expect(77)?;
    Ok(())
}

/// A menu is asked until one of its numbers comes; a certificate that is not there is asked for again.
#[tokio::test]
async fn a_choice_that_is_none_is_asked_again() -> Result<()> {
    let place = Place::new()?;
    let mut dialog = setup(&place)?;
    for (question, answer) in [
        ("Name of this collector", "main"),
        ("Trust domain", "fleet.test"),
        ("Addresses that sidecars dial", "127.0.0.1"),
        ("Which [", "https"),
        ("is none of them: 1, 2 or 3", ""),
        ("Which [", "2"),
        ("Certificate, the server's own first", "/nowhere/web.pem"),
        ("Its private key", "/nowhere/web.key"),
        ("Address for the API", "127.0.0.1:0"),
        ("That does not work yet", ""),
        ("/nowhere/web.pem", ""),
    ] {
        dialog.sees(question).await?;
        if !answer.is_empty() {
            dialog.types(&format!("{answer}\n")).await?;
        }
    }
    dialog.sees("Name of this collector").await?;
    dialog.types(CTRL_D).await?;
    let (code, said) = dialog.ends().await?;
    ensure!(code == 64 && said.contains("no answer: nothing was written"), "{code}: {said}");
    ensure!(!place.path("collector.toml").exists() && !place.path("state").exists(), "something was left");
    Ok(())
}

/// Ctrl-C at any question leaves nothing, neither a file nor half of one.
#[tokio::test]
async fn an_interrupt_leaves_nothing_half() -> Result<()> {
    for stop in 0..=QUESTIONS.len() {
        let place = Place::new()?;
        let before = names(&place.path(""))?;
        let mut dialog = setup(&place)?;
        for (n, question) in QUESTIONS.into_iter().chain(["Write "]).enumerate() {
            dialog.sees(question).await?;
            if n == stop {
                dialog.types(CTRL_C).await?;
                break;
            }
            dialog.types(["main\n", "fleet.test\n", "127.0.0.1\n", "1\n", "127.0.0.1:0\n"][n]).await?;
        }
        let (code, said) = dialog.ends().await?;
        ensure!(code == 130, "at question {stop} it ended with {code}: {said}");
        let after = names(&place.path(""))?;
        ensure!(after == before, "at question {stop} it left {after:?} of {before:?}");
    }
    Ok(())
}

/// A file that somebody wrote stays, byte for byte, whatever is answered; one of setup's own is replaced when that is
/// agreed to, and only then.
#[tokio::test]
async fn a_file_is_never_overwritten_unasked() -> Result<()> {
    let place = Place::new()?;
    let config = place.path("collector.toml");
    let answers = ["main", "fleet.test", "127.0.0.1", "1", "127.0.0.1:0"];
    let own = "# mine\nname = \"mine\"\ntrust_domain = \"mine.test\"\n";
    fs::write(&config, own)?;
    let mut dialog = setup(&place)?;
    let usual = answer(&mut dialog, answers).await?;
    ensure!(usual[0] == "mine" && usual[1] == "mine.test", "what it says already is offered: {usual:?}");
    let (code, said) = dialog.ends().await?;
    ensure!(code == 78 && said.contains("was edited and stays as it is"), "{code}: {said}");
    ensure!(said.contains("+ name = \"main\""), "the difference is shown: {said}");
    ensure!(fs::read_to_string(&config)? == own, "it was touched");
    fs::remove_file(&config)?;

    let agree = async |answers: [&'static str; 5], word: &str| {
        let mut dialog = setup(&place)?;
        answer(&mut dialog, answers).await?;
        dialog.sees("Write ").await?;
        dialog.types(&format!("{word}\n")).await?;
        anyhow::Ok((dialog.ends().await?, fs::read_to_string(&config).unwrap_or_default()))
    };
    let ((code, said), written) = agree(answers, "no").await?;
    ensure!(code == 0 && said.contains("nothing was written") && written.is_empty(), "{code}: {said}");
    let ((code, said), first) = agree(answers, "yes").await?;
    ensure!(code == 0 && first.contains("\"main\""), "{code}: {said}");
    let other = ["other", "", "", "", ""];
    let ((_, said), kept) = agree(other, "no").await?;
    ensure!(kept == first && said.contains("- name = \"main\""), "{said}");
    let ((code, said), second) = agree(other, "y").await?;
    ensure!(code == 0 && second.contains("\"other\"") && second != first, "{code}: {said}");
    Ok(())
}
