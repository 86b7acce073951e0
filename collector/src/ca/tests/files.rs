//! What lies on disk: first start, every point at which it can be killed, wrong modes, damage, clocks.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use super::*;

const FILES: [&str; 3] = ["root.key", "root.crt", "intermediate.pem"];

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_first_start_makes_private_files_and_the_second_changes_nothing() {
    let world = World::new();
    let pin = world.open().pin();
    let before = contents(&world.state().join("ca"));
    assert_eq!(before.keys().map(String::as_str).collect::<Vec<_>>(), ["intermediate.pem", "root.crt", "root.key"]);
    for name in FILES {
        assert_eq!(fs::metadata(world.file(name)).unwrap().mode() & 0o7777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(world.state().join("ca")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(world.open().pin(), pin);
    assert_eq!(contents(&world.state().join("ca")), before);
}

/// Files are written by rename in the order of `FILES`, so a kill leaves a prefix of them and perhaps one
/// half-written temporary file. Each such state is completed with the root key that is there.
#[test]
fn a_kill_at_any_point_of_the_first_start_is_completed() {
    for written in 0..=FILES.len() {
        for half_written in [false, true] {
            let world = World::new();
            let pin = world.open().pin();
            let kept = fs::read(world.file("root.key")).unwrap();
            for name in FILES.iter().skip(written) {
                fs::remove_file(world.file(name)).unwrap();
            }
            if let (true, Some(next)) = (half_written, FILES.get(written)) {
                fs::write(world.file(&format!("{next}.tmp")), "-----BEGIN").unwrap();
            }
            let ca = world.open();
            if written > 0 {
                assert_eq!(ca.pin(), pin, "{written} files were there");
                assert_eq!(fs::read(world.file("root.key")).unwrap(), kept);
            }
            enroll(&ca);
            let names: Vec<String> = contents(&world.state().join("ca")).into_keys().collect();
            assert_eq!(names, ["intermediate.pem", "root.crt", "root.key"], "{written} files were there");
        }
    }
}

#[test]
fn what_no_kill_leaves_is_an_error_that_destroys_nothing() {
    type Harm = fn(&World);
    let harms: [(&str, &str, Harm); 9] = [
        ("root.crt", "missing", |w| fs::remove_file(w.file("root.crt")).unwrap()),
        ("root.crt", "damaged", |w| fs::write(w.file("root.crt"), "").unwrap()),
        ("root.crt", "not one of a CA", |w| {
            let mut params = CertificateParams::default();
            params.is_ca = rcgen::IsCa::ExplicitNoCa;
            fs::write(w.file("root.crt"), params.self_signed(&new_key()).unwrap().pem()).unwrap();
        }),
        ("root.key", "no private key", |w| fs::write(w.file("root.key"), "-----BEGIN PRIVATE").unwrap()),
        ("root.key", "not the key of root.crt", |w| {
            fs::write(w.file("root.key"), new_key().serialize_pem()).unwrap();
        }),
        ("root.key", "not an ECDSA P-256 key", |w| {
            let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            fs::write(w.file("root.key"), other.serialize_pem()).unwrap();
        }),
        ("intermediate.pem", "damaged", |w| {
            let bytes = fs::read(w.file("intermediate.pem")).unwrap();
            fs::write(w.file("intermediate.pem"), &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("intermediate.pem", "do not belong together", |w| {
            let text = fs::read_to_string(w.file("intermediate.pem")).unwrap();
            let cert = &text[text.find("-----BEGIN CERTIFICATE").unwrap()..];
            fs::write(w.file("intermediate.pem"), new_key().serialize_pem() + cert).unwrap();
        }),
        ("intermediate.pem", "not signed by the root", |w| {
            let other = World::new();
            other.open();
            fs::copy(other.file("intermediate.pem"), w.file("intermediate.pem")).unwrap();
        }),
    ];
    for (name, reason, harm) in harms {
        let world = World::new();
        world.open();
        harm(&world);
        let before = contents(&world.state().join("ca"));
        let error = world.try_open(World::settings()).unwrap_err().to_string();
        let path = world.file(name).display().to_string();
        assert!(error.starts_with(&path) && error.contains(reason), "{name}, {reason}: {error}");
        assert_eq!(contents(&world.state().join("ca")), before, "{name}, {reason}");
    }
}

#[test]
fn files_that_others_may_reach_are_refused_by_name() {
    for name in FILES {
        let world = World::new();
        world.open();
        set_mode(&world.file(name), 0o644);
        let error = world.try_open(World::settings()).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 {}", world.file(name).display())), "{error}");
        set_mode(&world.file(name), 0o600);
        let elsewhere = world.outer.path().join("elsewhere");
        fs::rename(world.file(name), &elsewhere).unwrap();
        symlink(&elsewhere, world.file(name)).unwrap();
        let error = world.try_open(World::settings()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} is a symbolic link", world.file(name).display())), "{error}");
    }
    let world = World::new();
    world.open();
    set_mode(&world.state().join("ca"), 0o755);
    let error = world.try_open(World::settings()).unwrap_err().to_string();
    assert!(error.contains(&format!("chmod 700 {}", world.state().join("ca").display())), "{error}");
}

#[test]
fn another_trust_domain_is_refused() {
    let world = World::new();
    world.open();
    let settings = CaSettings { trust_domain: "other.example".parse().unwrap(), ..World::settings() };
    let error = world.try_open(settings).unwrap_err().to_string();
    assert!(error.contains("fleet.example") && error.contains("other.example"), "{error}");
    // The collector's name may change: it is only in its own leaf and in the next intermediate.
    let settings = CaSettings { collector: "second".parse().unwrap(), ..World::settings() };
    world.try_open(settings).unwrap();
}

#[test]
fn the_root_key_may_be_away_until_the_next_intermediate() {
    let world = World::new();
    let pin = world.open().pin();
    let away = world.outer.path().join("safe");
    fs::rename(world.file("root.key"), &away).unwrap();
    let ca = world.open();
    assert_eq!(ca.pin(), pin);
    enroll(&ca);
    drop(ca);
    // Past half of its life the intermediate still works, with a warning; past its end nothing does.
    world.clock.advance(DAY * 200);
    let ca = world.open();
    enroll(&ca);
    assert!(!ca.refresh().unwrap().intermediate);
    world.clock.advance(DAY * 166);
    let key = Ca::read_csr(&honest_csr(&new_key())).unwrap();
    assert!(matches!(ca.issue(&poller(), &key, Generation(1)), Err(CaError::IntermediateEnded { .. })));
    assert!(matches!(ca.refresh(), Err(CaError::RootKeyAway { .. })));
    drop(ca);
    let error = world.try_open(World::settings()).unwrap_err().to_string();
    assert!(error.contains(&world.file("root.key").display().to_string()), "{error}");
    fs::rename(&away, world.file("root.key")).unwrap();
    let ca = world.open();
    assert_eq!(ca.pin(), pin);
    enroll(&ca);
}

#[test]
fn a_wrong_clock_is_named_with_both_times() {
    let world = World::new();
    world.clock.step_wall(-START.0);
    let error = world.try_open(World::settings()).unwrap_err();
    assert!(matches!(error, CaError::ClockUnset { .. }), "{error}");
    assert!(contents(&world.state().join("ca")).is_empty(), "no root is made under such a clock");

    world.clock.step_wall(START.0);
    world.open();
    let before = contents(&world.state().join("ca"));
    // Less than the day by which the root is dated back does no harm.
    world.clock.step_wall(-23 * 60 * 60 * 1000);
    world.open();
    world.clock.step_wall(-2 * 60 * 60 * 1000);
    let error = world.try_open(World::settings()).unwrap_err().to_string();
    assert!(error.contains("begins at 2026-11-20T") && error.contains("clock says 2026-11-20T"), "{error}");
    world.clock.step_wall(25 * 60 * 60 * 1000 + 11 * 365 * 24 * 60 * 60 * 1000);
    let error = world.try_open(World::settings()).unwrap_err().to_string();
    assert!(error.contains("ended at 2036-") && error.contains("clock says 2037-"), "{error}");
    assert_eq!(contents(&world.state().join("ca")), before);
}
