//! The vault at every kill point, on a full disk, and before files that it must not trust.

use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use rollcall_common::identity::Pin;
use tempfile::TempDir;

use super::*;
use crate::identity::specimen;

const TOKEN: TokenId = TokenId([7; 10]);

fn fresh() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    (dir, path)
}

fn addresses() -> Addresses {
    Addresses { revision: 1, list: vec!["192.0.2.1:7411".parse().unwrap()] }
}

/// What would have left the process before it died.
#[derive(Default)]
struct Told {
    sent_key: Option<Pin>,
    kept_next: bool,
    adopted: bool,
}

fn enroll(vault: &Vault, told: &mut Told) -> Result<(), VaultError> {
    let key = vault.enrollment_key(TOKEN)?;
    told.sent_key = Some(key.pin());
    vault.keep_first(&specimen::identity(key, "poller/p1", 1), &addresses())
}

fn renew(vault: &Vault, told: &mut Told) -> Result<(), VaultError> {
    let key = vault.renewal_key()?;
    let next = specimen::identity(key, "poller/p1", 2);
    vault.keep_next(&next)?;
    told.kept_next = true;
    vault.adopt_next()?;
    told.adopted = true;
    Ok(())
}

fn generation(identity: Option<&Identity>) -> Option<u64> {
    identity.map(|identity| identity.term().generation.0)
}

/// Runs an action that dies after ever more steps, until it survives; tells how many steps it took.
fn at_every_step(
    prepare: impl Fn(&Vault),
    action: impl Fn(&Vault, &mut Told) -> Result<(), VaultError>,
    verify: impl Fn(&Vault, &Stored, &Told, bool),
) -> u32 {
    for steps in 0.. {
        let (_dir, path) = fresh();
        let vault = Vault::open(&path).unwrap();
        prepare(&vault);
        vault.disk.faults.left.set(Some(steps));
        let mut told = Told::default();
        let survived = action(&vault, &mut told).is_ok();
        drop(vault);
        let vault = Vault::open(&path).unwrap();
        let stored = vault.load().unwrap();
        verify(&vault, &stored, &told, survived);
        let left: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "swept: {left:?}");
        if survived {
            return steps;
        }
    }
    0
}

#[test]
fn a_killed_enrollment_is_repeated_with_the_same_key_or_done() {
    let steps = at_every_step(
        |_| {},
        enroll,
        |vault, stored, told, survived| match (&stored.current, told.sent_key) {
            (Some(current), sent) => {
                assert_eq!(Some(current.key().pin()), sent);
                assert!(stored.addresses.is_some(), "an identity never comes without its addresses");
                assert!(vault.pending().unwrap().is_none(), "the enrollment is over");
            }
            (None, Some(sent)) => {
                assert!(!survived);
                assert_eq!(vault.enrollment_key(TOKEN).unwrap().pin(), sent, "the collector knows this key");
                assert_ne!(vault.enrollment_key(TokenId([8; 10])).unwrap().pin(), sent, "another token, another key");
            }
            (None, None) => assert!(!survived),
        },
    );
    assert!(steps > 20, "{steps} steps are too few to be all");
}

#[test]
fn a_killed_renewal_leaves_the_old_or_the_new_identity() {
    let steps = at_every_step(
        |vault| enroll(vault, &mut Told::default()).unwrap(),
        renew,
        |_, stored, told, survived| {
            let (current, next) = (generation(stored.current.as_ref()), generation(stored.next.as_ref()));
            match current {
                // The collector may have seen the next one only if it was kept.
                Some(1) => assert!(!told.adopted && (next == Some(2) || !told.kept_next), "{next:?}"),
                Some(2) => assert!(told.kept_next && next.is_none()),
                other => panic!("an unusable identity: {other:?}"),
            }
            assert_eq!(survived, told.adopted);
        },
    );
    assert!(steps > 15, "{steps} steps are too few to be all");
}

#[test]
fn a_killed_rejoin_is_repeated_with_the_same_key() {
    let expired = Generation(1);
    at_every_step(
        |vault| enroll(vault, &mut Told::default()).unwrap(),
        |vault, told| {
            let key = vault.rejoin_key(expired)?;
            told.sent_key = Some(key.pin());
            vault.keep_next(&specimen::identity(key, "poller/p1", 2))
        },
        |vault, stored, told, _| {
            assert_eq!(generation(stored.current.as_ref()), Some(1), "its key signs the next rejoin too");
            if let (Some(sent), None) = (told.sent_key, &stored.next) {
                assert_eq!(vault.rejoin_key(expired).unwrap().pin(), sent);
            }
        },
    );
}

/// L16: a write that fails leaves what was there, and works once there is room again.
#[test]
fn a_full_disk_keeps_the_old_and_heals() {
    let (_dir, path) = fresh();
    let vault = Vault::open(&path).unwrap();
    enroll(&vault, &mut Told::default()).unwrap();
    vault.disk.faults.left.set(Some(3));
    let error = vault.renewal_key().unwrap_err();
    assert!(matches!(error, VaultError::Write { .. }), "{error}");
    assert!(error.to_string().contains("pending: No space left on device"), "{error}");
    vault.disk.faults.left.set(None);
    renew(&vault, &mut Told::default()).unwrap();
    assert_eq!(generation(vault.load().unwrap().current.as_ref()), Some(2));
}

#[test]
fn files_are_private() {
    let (_dir, path) = fresh();
    let vault = Vault::open(&path).unwrap();
    enroll(&vault, &mut Told::default()).unwrap();
    vault.renewal_key().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o700);
    for name in [IDENTITY, PENDING, ADDRESSES, "lock"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
}

/// H16: what others could have touched is refused, and named.
#[test]
fn exposed_linked_and_strange_files_are_refused() {
    let prepared = || {
        let (dir, path) = fresh();
        let vault = Vault::open(&path).unwrap();
        enroll(&vault, &mut Told::default()).unwrap();
        (dir, path)
    };
    let refusal = |path: &Path| Vault::open(path).and_then(|vault| vault.load().map(|_| ())).unwrap_err();
    let set_mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();

    let (_dir, path) = prepared();
    set_mode(&path, 0o750);
    let words = refusal(&path).to_string();
    assert!(words.contains(&format!("{} is open to others (mode 0750)", path.display())), "{words}");
    assert!(words.contains("chmod 700"), "{words}");

    for mode in [0o644, 0o640, 0o602] {
        let (_dir, path) = prepared();
        set_mode(&path.join(IDENTITY), mode);
        let words = refusal(&path).to_string();
        assert!(words.contains("state/identity is open to others") && words.contains("chmod 600"), "{words}");
    }

    let (dir, path) = prepared();
    std::fs::rename(path.join(IDENTITY), dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), path.join(IDENTITY)).unwrap();
    assert!(matches!(refusal(&path), VaultError::NotA { wanted: "regular file", .. }));

    let (dir, path) = prepared();
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(refusal(&link), VaultError::NotA { wanted: "directory", .. }));

    let (_dir, path) = prepared();
    std::fs::remove_file(path.join(IDENTITY)).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path.join(IDENTITY), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(refusal(&path), VaultError::NotA { wanted: "regular file", .. }), "and it does not hang");
}

#[test]
fn newer_and_damaged_state_is_left_alone() {
    let (_dir, path) = fresh();
    let vault = Vault::open(&path).unwrap();
    enroll(&vault, &mut Told::default()).unwrap();
    let identity = path.join(IDENTITY);
    let good = std::fs::read(&identity).unwrap();

    let newer = br#"{"format":2,"keys":["something else"]}"#;
    std::fs::write(&identity, newer).unwrap();
    let error = vault.load().unwrap_err();
    assert!(error.to_string().ends_with("has format 2, and this version knows 1: upgrade rollcall-agent"), "{error}");
    assert_eq!(std::fs::read(&identity).unwrap(), newer);

    std::fs::write(&identity, &good[..good.len() / 2]).unwrap();
    let error = vault.load().unwrap_err();
    assert!(matches!(error, VaultError::Damaged { .. }), "{error}");

    // A next identity that does not read costs one renewal, not the service.
    std::fs::write(&identity, &good).unwrap();
    std::fs::write(path.join(NEXT), "{").unwrap();
    std::fs::set_permissions(path.join(NEXT), PermissionsExt::from_mode(0o600)).unwrap();
    let stored = vault.load().unwrap();
    assert!(stored.current.is_some() && stored.next.is_none());
}

#[test]
fn one_at_a_time() {
    let (_dir, path) = fresh();
    let vault = Vault::open(&path).unwrap();
    assert!(matches!(Vault::open(&path), Err(VaultError::Locked(_))));
    assert!(Vault::inspect(&path).unwrap().is_some(), "looking is allowed");
    drop(vault);
    assert!(Vault::open(&path).is_ok());
    assert!(Vault::inspect(&path.join("absent")).unwrap().is_none());
    assert!(!path.join("absent").exists(), "looking makes nothing");
}

proptest! {
    #[test]
    fn hostile_records_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = IdentityRecord::decode(&bytes);
        let _ = PendingRecord::decode(&bytes);
        let _ = AddressesRecord::decode(&bytes);
    }
}

fn tag(of: u8) -> MachineTag {
    let id: rollcall_common::machine::MachineId = format!("{of:032x}").parse().unwrap();
    id.tag()
}

fn opened(path: &Path, machine: u8) -> Vault {
    let mut vault = Vault::open(path).unwrap();
    vault.bind(Some(tag(machine)));
    vault
}

#[test]
fn every_record_carries_its_machine_and_renewals_keep_it() {
    let (_dir, path) = fresh();
    let vault = opened(&path, 1);
    enroll(&vault, &mut Told::default()).unwrap();
    assert_eq!(vault.load().unwrap().made_for, Some(tag(1)));
    renew(&vault, &mut Told::default()).unwrap();
    let stored = vault.load().unwrap();
    assert_eq!((generation(stored.current.as_ref()), stored.made_for), (Some(2), Some(tag(1))));
    drop(vault);
    let vault = opened(&path, 2);
    let stored = vault.load().unwrap();
    assert_eq!(stored.made_for, Some(tag(1)), "opening it elsewhere makes nothing of it");
    vault.rebind(&stored.current.unwrap()).unwrap();
    assert_eq!(vault.load().unwrap().made_for, Some(tag(2)));
}

#[test]
fn one_from_before_machines_were_told_apart_reads() {
    let (_dir, path) = fresh();
    let vault = Vault::open(&path).unwrap();
    enroll(&vault, &mut Told::default()).unwrap();
    let text = std::fs::read_to_string(path.join("identity")).unwrap();
    assert!(!text.contains("machine"), "nothing is written where nothing is known");
    assert_eq!(vault.load().unwrap().made_for, None);
}

#[test]
fn a_copied_key_is_not_enrolled_with() {
    let (_dir, path) = fresh();
    let first = opened(&path, 1).enrollment_key(TOKEN).unwrap().pin();
    assert_eq!(opened(&path, 1).enrollment_key(TOKEN).unwrap().pin(), first);
    assert_ne!(opened(&path, 2).enrollment_key(TOKEN).unwrap().pin(), first, "or two machines would be one service");
}

/// A clone enrolls over what it was copied with: killed anywhere, no old key is ever this machine's.
#[test]
fn a_killed_enrollment_over_a_copy_never_adopts_it() {
    at_every_step(
        |vault| {
            enroll(vault, &mut Told::default()).unwrap();
            let next = specimen::identity(vault.renewal_key().unwrap(), "poller/p1", 2);
            vault.keep_next(&next).unwrap();
        },
        |vault, told| {
            let key = vault.enrollment_key(TokenId([9; 10]))?;
            told.sent_key = Some(key.pin());
            let clone = Vault { disk: vault.disk.again(), machine: Some(tag(2)) };
            clone.keep_first(&specimen::identity(key, "poller/p2", 1), &addresses())
        },
        |_, stored, told, survived| {
            let current = stored.current.as_ref().unwrap();
            if stored.made_for == Some(tag(2)) {
                assert_eq!(Some(current.key().pin()), told.sent_key);
                assert!(stored.next.is_none(), "the next one of somebody else");
            } else {
                assert!(!survived && current.service().to_string() == "poller/p1");
            }
        },
    );
}

#[test]
fn what_is_forgotten_is_gone_with_all_its_bytes() {
    let (dir, path) = fresh();
    let vault = opened(&path, 1);
    enroll(&vault, &mut Told::default()).unwrap();
    let next = specimen::identity(vault.renewal_key().unwrap(), "poller/p1", 2);
    vault.keep_next(&next).unwrap();
    vault.renewal_key().unwrap();
    assert!(matches!(Vault::open_to_forget(&path), Err(VaultError::Locked(_))), "not beside a sidecar");
    drop(vault);
    // Another name of the same bytes shows what becomes of them.
    let kept = dir.path().join("kept");
    std::fs::hard_link(path.join("identity"), &kept).unwrap();
    let forgotten = Vault::open_to_forget(&path).unwrap().unwrap().forget().unwrap();
    assert_eq!(forgotten, [IDENTITY, NEXT, PENDING, ADDRESSES]);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    assert!(std::fs::read(&kept).unwrap().iter().all(|byte| *byte == 0), "overwritten before it went");
    assert!(Vault::open_to_forget(&path).unwrap().unwrap().forget().unwrap().is_empty());
    assert!(Vault::open_to_forget(&dir.path().join("none")).unwrap().is_none());
    assert!(Vault::open(&path).unwrap().load().unwrap().current.is_none());
}

#[test]
fn forgetting_follows_no_link() {
    let (dir, path) = fresh();
    drop(Vault::open(&path).unwrap());
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    symlink(&precious, path.join("identity")).unwrap();
    Vault::open_to_forget(&path).unwrap().unwrap().forget().unwrap();
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    assert!(std::fs::symlink_metadata(path.join("identity")).is_err());
}

#[test]
fn the_system_s_words_come_with_what_to_do() {
    let words = |kind: io::ErrorKind| VaultError::Write { path: "/state/next".into(), source: kind.into() }.to_string();
    assert!(words(io::ErrorKind::StorageFull).contains("make room"));
    assert!(words(io::ErrorKind::ReadOnlyFilesystem).contains("mount it for writing"));
    assert!(words(io::ErrorKind::PermissionDenied).contains("give the directory to the user"));
    let full = VaultError::Write { path: "/x".into(), source: io::ErrorKind::StorageFull.into() };
    let fixed = VaultError::Write { path: "/x".into(), source: io::ErrorKind::ReadOnlyFilesystem.into() };
    assert!(full.is_transient() && !fixed.is_transient());
}

#[test]
fn settings_are_the_old_or_the_new_ones_at_every_step() {
    use rollcall_common::{service::Pairs, wire::settings::Settings};
    let settings = |revision| Settings { revision, labels: Pairs::default(), probes: Vec::new() };
    let steps = at_every_step(
        |vault| {
            enroll(vault, &mut Told::default()).unwrap();
            vault.keep_settings(Some(&settings(1))).unwrap();
        },
        |vault, told| {
            vault.keep_settings(Some(&settings(2)))?;
            told.adopted = true;
            Ok(())
        },
        |vault, stored, told, survived| {
            let kept = vault.settings().unwrap().map(|settings| settings.revision);
            assert!(kept == Some(2) || (kept == Some(1) && !told.adopted), "{kept:?}");
            assert_eq!(survived, told.adopted);
            assert!(stored.current.is_some());
        },
    );
    assert!(steps > 5, "{steps} steps are too few to be all");
    let (_dir, path) = fresh();
    let vault = Vault::open(&path).unwrap();
    vault.keep_settings(Some(&settings(1))).unwrap();
    // They were another identity's.
    enroll(&vault, &mut Told::default()).unwrap();
    assert_eq!(vault.settings().unwrap(), None);
    vault.keep_settings(Some(&settings(1))).unwrap();
    assert!(vault.forget().unwrap().contains(&"settings"));
}
