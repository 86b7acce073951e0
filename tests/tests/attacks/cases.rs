//! The list: every case of `identity.md` §4 that this version answers, and the tests that play it.
//!
//! A case that a test beside the code covers exactly is named here and not played again.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};

const TOKENS: &str = "tests/tests/attacks/tokens.rs";
const TLS: &str = "tests/tests/attacks/tls.rs";
const LIFECYCLE: &str = "tests/tests/attacks/lifecycle.rs";
const WIRE: &str = "tests/tests/attacks/wire.rs";
const CHILDREN: &str = "tests/tests/attacks/children.rs";
const KILL: &str = "tests/tests/crash/kill.rs";
const STALL: &str = "tests/tests/crash/stall.rs";
const RESTART: &str = "tests/tests/crash/restart.rs";
const CSR: &str = "collector/src/ca/tests/requests.rs";
const SERVING: &str = "collector/src/ca/tests/serving.rs";
const CODEC: &str = "common/src/wire/codec.rs";
const VAULT: &str = "agent/src/vault/tests.rs";

/// Case, file, test.
const CASES: &[(&str, &str, &str)] = &[
    ("T1", TOKENS, "a_used_token_gives_nothing_to_another_key"),
    ("T2", TOKENS, "a_lost_reply_costs_no_use"),
    ("T3", TOKENS, "parallel_enrollments_share_no_use"),
    ("T4", TOKENS, "an_expired_token_is_told_so"),
    ("T5", TOKENS, "only_who_knows_the_secret_learns_why_a_token_does_not_pass"),
    ("T6", TOKENS, "a_token_of_another_kind_is_refused_and_not_burned"),
    ("T7", TOKENS, "a_parent_that_does_not_fit_is_refused_and_burns_nothing"),
    ("T8", TOKENS, "an_id_outside_the_rule_or_taken_is_refused_and_its_holder_undisturbed"),
    ("T9", TOKENS, "a_wrong_secret_looks_like_an_unknown_token"),
    ("T10", "common/src/token.rs", "damaged_tokens_are_refused_locally"),
    ("T10", "tests/tests/story.rs", "a_refused_token_ends_the_sidecar_with_78"),
    ("T11", TOKENS, "a_stolen_store_holds_nothing_that_enrolls"),
    ("T12", TOKENS, "a_guesser_is_slowed_down_and_nobody_else"),
    ("T13", TOKENS, "a_restarted_sidecar_ignores_its_used_token"),
    ("T14", TOKENS, "a_source_outside_the_tokens_addresses_is_denied"),
    ("T15", KILL, "what_was_acknowledged_survives_a_kill_at_any_moment"),
    ("T16", TOKENS, "a_bad_request_burns_no_token"),
    ("C1", TLS, "a_request_gets_the_tokens_identity_and_no_wish"),
    ("C1", CSR, "wishes_in_a_request_are_not_heard"),
    ("C2", CSR, "wishes_in_a_request_are_not_heard"),
    ("C3", TLS, "a_malformed_request_is_told_so"),
    ("C3", CSR, "only_p256_keys_pass"),
    ("C3", CSR, "size_remainder_and_signature_are_checked"),
    ("C4", TLS, "somebody_elses_key_gets_no_certificate"),
    ("C5", TLS, "a_proof_of_another_connection_is_denied"),
    ("C6", TLS, "a_sidecar_tells_a_false_collector_nothing"),
    ("C6", SERVING, "a_pin_of_anything_but_the_root_is_refused"),
    ("C7", TLS, "a_root_out_of_its_time_is_named_with_both_times"),
    ("C7", TLS, "a_host_clock_a_year_off_is_named_with_both_times"),
    ("C8", TLS, "each_protocol_takes_only_its_own_frames"),
    ("C9", TLS, "an_unknown_protocol_is_no_protocol"),
    ("C10", TLS, "certificates_that_are_not_ours_are_refused"),
    ("C11", TLS, "nothing_is_resumed_and_a_revoked_certificate_ends"),
    ("C11", LIFECYCLE, "a_connection_ends_with_its_certificate"),
    ("C12", TLS, "early_data_is_not_taken_and_a_replayed_first_flight_does_nothing"),
    ("C13", TLS, "other_quic_versions_are_told_the_one"),
    ("L1", LIFECYCLE, "a_revoked_sidecar_is_told_at_once"),
    ("L1", LIFECYCLE, "a_revoked_sidecar_waits_and_comes_back_without_a_token"),
    ("L2", TLS, "nothing_is_resumed_and_a_revoked_certificate_ends"),
    ("L2", LIFECYCLE, "a_revoked_identity_has_no_other_way_in"),
    ("L4", LIFECYCLE, "a_revoked_identity_has_no_other_way_in"),
    ("L4", LIFECYCLE, "a_revoked_sidecar_waits_and_comes_back_without_a_token"),
    ("L5", LIFECYCLE, "a_connection_ends_with_its_certificate"),
    ("L5", LIFECYCLE, "an_outage_of_ours_ends_no_connection"),
    ("L6", LIFECYCLE, "lost_renewals_brick_nobody"),
    ("L6", LIFECYCLE, "a_sidecar_killed_while_it_renews_keeps_its_identity"),
    ("L6", VAULT, "a_killed_renewal_leaves_the_old_or_the_new_identity"),
    ("L9", LIFECYCLE, "restarts_and_moves_are_never_refused"),
    ("L12", LIFECYCLE, "an_expired_identity_rejoins_within_its_bounds"),
    ("L12", LIFECYCLE, "an_outage_of_ours_does_not_count_against_a_rejoin"),
    ("L13", LIFECYCLE, "a_sidecars_clock_judges_nothing"),
    ("L16", LIFECYCLE, "a_sidecar_that_cannot_write_keeps_its_identity"),
    ("L16", VAULT, "a_full_disk_keeps_the_old_and_heals"),
    ("L17", STALL, "heartbeats_do_not_wait_for_a_stalled_store"),
    ("L17", LIFECYCLE, "an_outage_of_ours_ends_no_connection"),
    ("W1", WIRE, "lengths_that_lie_end_the_session"),
    ("W1", CODEC, "hostile_lengths_are_refused_before_their_bodies"),
    ("W2", WIRE, "malformed_messages_end_the_session"),
    ("W2", CODEC, "random_bytes_never_panic"),
    ("W3", WIRE, "a_body_that_names_another_is_an_attack"),
    ("W4", CHILDREN, "nobody_speaks_for_the_children_of_another"),
    ("W4", "collector/src/registry/children/tests.rs", "a_sidecar_speaks_for_its_own_subtree_only"),
    ("W5", WIRE, "a_flood_of_beats_is_throttled_and_then_ended"),
    ("W6", WIRE, "half_open_handshakes_keep_nobody_out"),
    ("W7", WIRE, "silence_drip_and_many_streams_are_bounded"),
    ("W7", WIRE, "unread_bytes_are_bounded_by_the_window"),
    ("W8", WIRE, "a_spoofed_flood_is_not_amplified"),
    ("W9", RESTART, "everybody_is_back_after_a_kill_and_nobody_was_lost"),
    ("W10", WIRE, "replayed_beats_touch_no_lease"),
    ("W11", WIRE, "noise_disturbs_nobody"),
    ("W11", WIRE, "bent_transport_parameters_end_the_handshake"),
];

/// What must be in the list: T1 to T16, C1 to C13, and of the others those without a part still to come
/// (several collectors, clones, rotation, restored backups).
fn wanted() -> BTreeSet<String> {
    let all = |letter: &str, numbers: &[u32]| -> Vec<String> {
        numbers.iter().map(|number| format!("{letter}{number}")).collect()
    };
    let to = |last: u32| (1..=last).collect::<Vec<_>>();
    let lifecycle = all("L", &[1, 2, 4, 5, 6, 9, 12, 13, 16, 17]);
    let wire = all("W", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    [all("T", &to(16)), all("C", &to(13)), lifecycle, wire].into_iter().flatten().collect()
}

#[test]
fn every_case_names_a_test_that_exists() -> Result<()> {
    let named: BTreeSet<String> = CASES.iter().map(|(case, _, _)| (*case).to_owned()).collect();
    assert_eq!(named, wanted());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    for (case, file, test) in CASES {
        let text = fs::read_to_string(workspace.join(file)).with_context(|| format!("{case}: {file}"))?;
        let at = text.find(&format!("fn {test}(")).with_context(|| format!("{case}: no test {test} in {file}"))?;
        let before = text.get(..at).unwrap_or_default();
        let marked = before.rfind("test").is_some_and(|mark| !before.get(mark..).unwrap_or_default().contains("\nfn "));
        ensure!(marked, "{case}: {test} in {file} is no test");
    }
    Ok(())
}
