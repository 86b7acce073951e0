//! The list: every case of `identity.md` §4 that this version answers, and the tests that play it.
//!
//! A case that a test beside the code covers exactly is named here and not played again.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};

const TOKENS: &str = "tests/tests/attacks/tokens.rs";
const TLS: &str = "tests/tests/attacks/tls.rs";
const LIFECYCLE: &str = "tests/tests/attacks/lifecycle.rs";
const WIRE: &str = "tests/tests/attacks/wire.rs";
const TCP: &str = "tests/tests/attacks/tcp.rs";
const BLOCKED: &str = "tests/tests/blocked.rs";
const CHILDREN: &str = "tests/tests/attacks/children.rs";
const KILL: &str = "tests/tests/crash/kill.rs";
const STALL: &str = "tests/tests/crash/stall.rs";
const RESTART: &str = "tests/tests/crash/restart.rs";
const CSR: &str = "collector/src/ca/tests/requests.rs";
const SERVING: &str = "collector/src/ca/tests/serving.rs";
const CODEC: &str = "common/src/wire/codec.rs";
const VAULT: &str = "agent/src/vault/tests.rs";
const LIFE: &str = "tests/tests/lifecycle.rs";
const IDENTITIES: &str = "collector/src/registry/identities/tests.rs";
const ACCESS: &str = "collector/src/http/access/tests.rs";
const OIDC: &str = "collector/src/http/oidc/tests.rs";
const ISSUERS: &str = "collector/src/http/oidc/issuers/tests.rs";
const SHELF: &str = "collector/src/http/oidc/shelf.rs";
const ROUTER: &str = "collector/src/http/tests.rs";
const REFUSALS: &str = "collector/src/http/tests/refusals.rs";
const SERVED: &str = "collector/src/http/tests/served.rs";
const BOOTSTRAP: &str = "collector/src/http/bootstrap/tests.rs";
const EXTRACT: &str = "collector/src/http/extract.rs";
const LOG: &str = "common/src/log/tests.rs";
const STATEDIR: &str = "collector/src/statedir.rs";
const CALLERS: &str = "tests/tests/access/tokens.rs";
const ROUTES: &str = "tests/tests/access/routes.rs";
const WAYS: &str = "tests/tests/access/ways.rs";
const ENDS: &str = "tests/tests/access/ends.rs";
const HOSTILE: &str = "tests/tests/access/hostile.rs";
const LOGS: &str = "tests/tests/access/logs.rs";
const SECRETS: &str = "tests/tests/access/secrets.rs";
const HTTPS: &str = "tests/tests/doors/https.rs";
const LOGIN: &str = "tests/tests/doors/login.rs";

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
    ("C5", TCP, "an_enrollment_over_tcp_is_bound_to_its_connection"),
    ("C8", TLS, "each_protocol_takes_only_its_own_frames"),
    ("C8", TCP, "an_enrollment_over_tcp_is_bound_to_its_connection"),
    ("C9", TLS, "an_unknown_protocol_is_no_protocol"),
    ("C10", TLS, "certificates_that_are_not_ours_are_refused"),
    ("C11", TLS, "nothing_is_resumed_and_a_revoked_certificate_ends"),
    ("C11", LIFECYCLE, "a_connection_ends_with_its_certificate"),
    ("C12", TLS, "early_data_is_not_taken_and_a_replayed_first_flight_does_nothing"),
    ("C13", TLS, "other_quic_versions_are_told_the_one"),
    ("C13", TCP, "strangers_on_the_tcp_port_are_bounded_and_keep_nobody_out"),
    ("L1", LIFECYCLE, "a_revoked_sidecar_is_told_at_once"),
    ("L1", TCP, "a_revocation_reaches_over_tcp"),
    ("L1", BLOCKED, "over_tcp_a_killed_collector_and_a_revocation_are_met_as_over_quic"),
    ("L1", LIFECYCLE, "a_revoked_sidecar_waits_and_comes_back_without_a_token"),
    ("L2", TLS, "nothing_is_resumed_and_a_revoked_certificate_ends"),
    ("L2", LIFECYCLE, "a_revoked_identity_has_no_other_way_in"),
    ("L2", TCP, "a_revocation_reaches_over_tcp"),
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
    ("L15", LIFE, "a_registration_from_its_first_word_to_its_last"),
    ("L15", IDENTITIES, "a_re_enrollment_unbinds_and_refuses_the_old_certificate"),
    ("L16", LIFECYCLE, "a_sidecar_that_cannot_write_keeps_its_identity"),
    ("L16", VAULT, "a_full_disk_keeps_the_old_and_heals"),
    ("L17", STALL, "heartbeats_do_not_wait_for_a_stalled_store"),
    ("L17", LIFECYCLE, "an_outage_of_ours_ends_no_connection"),
    ("W1", WIRE, "lengths_that_lie_end_the_session"),
    ("W1", TCP, "lies_and_floods_over_tcp_end_the_session"),
    ("W1", CODEC, "hostile_lengths_are_refused_before_their_bodies"),
    ("W2", WIRE, "malformed_messages_end_the_session"),
    ("W2", CODEC, "random_bytes_never_panic"),
    ("W3", WIRE, "a_body_that_names_another_is_an_attack"),
    ("W4", CHILDREN, "nobody_speaks_for_the_children_of_another"),
    ("W4", "collector/src/registry/children/tests.rs", "a_sidecar_speaks_for_its_own_subtree_only"),
    ("W5", WIRE, "a_flood_of_beats_is_throttled_and_then_ended"),
    ("W5", TCP, "lies_and_floods_over_tcp_end_the_session"),
    ("W6", WIRE, "half_open_handshakes_keep_nobody_out"),
    ("W6", TCP, "strangers_on_the_tcp_port_are_bounded_and_keep_nobody_out"),
    ("W7", WIRE, "silence_drip_and_many_streams_are_bounded"),
    ("W7", TCP, "strangers_on_the_tcp_port_are_bounded_and_keep_nobody_out"),
    ("W7", TCP, "lies_and_floods_over_tcp_end_the_session"),
    ("W7", WIRE, "unread_bytes_are_bounded_by_the_window"),
    ("W8", WIRE, "a_spoofed_flood_is_not_amplified"),
    ("W9", RESTART, "everybody_is_back_after_a_kill_and_nobody_was_lost"),
    ("W10", WIRE, "replayed_beats_touch_no_lease"),
    ("W11", WIRE, "noise_disturbs_nobody"),
    ("W11", WIRE, "bent_transport_parameters_end_the_handshake"),
    ("H1", HOSTILE, "strangers_make_no_series"),
    ("H1", ROUTER, "credentials_elsewhere_and_foreign_hosts_are_refused"),
    ("H1", ACCESS, "only_one_bearer_header_is_read"),
    ("H2", CALLERS, "a_bent_token_is_nobodys"),
    ("H2", OIDC, "headers_choose_nothing"),
    ("H2", SHELF, "a_flood_of_unknown_keys_is_one_fetch_each_half_minute"),
    ("H3", CALLERS, "a_bent_token_is_nobodys"),
    ("H3", OIDC, "claims_are_strict"),
    ("H4", CALLERS, "a_bent_token_is_nobodys"),
    ("H4", OIDC, "claims_are_strict"),
    ("H5", CALLERS, "a_bent_token_is_nobodys"),
    ("H5", OIDC, "signatures_are_for_these_bytes"),
    ("H6", ROUTES, "every_route_demands_what_it_declares"),
    ("H6", ROUTER, "every_route_lets_in_exactly_its_roles"),
    ("H6", REFUSALS, "every_refusal_is_counted_by_its_code"),
    ("H6", REFUSALS, "denied_acts_are_on_record_and_a_flood_of_them_is_not"),
    ("H7", CALLERS, "claims_give_no_more_than_is_configured"),
    ("H7", OIDC, "roles_do_not_escalate"),
    ("H8", ROUTES, "a_key_for_one_site_sees_no_other"),
    ("H9", CALLERS, "a_provider_rotates_goes_down_and_misleads"),
    ("H9", ISSUERS, "a_provider_that_turns_bad_is_not_believed_and_not_forgotten"),
    ("H9", SHELF, "keys_outlive_an_outage_up_to_the_hard_limit"),
    ("H10", WAYS, "a_closed_bootstrap_credential_is_nobodys"),
    ("H10", BOOTSTRAP, "it_ends_after_a_day_and_a_restart_makes_another"),
    ("H10", ENDS, "the_socket_is_for_administrators_of_the_host"),
    ("H10", ENDS, "open_streams_end_with_their_credential"),
    ("H10", ENDS, "an_open_stream_ends_when_its_credential_expires"),
    ("H10", ENDS, "guesses_of_login_codes_are_braked"),
    ("H10", LOGIN, "from_setup_to_a_session_and_out_again"),
    ("H11", HOSTILE, "hostile_names_are_refused"),
    ("H11", ROUTER, "hostile_ids_and_queries_are_refused_as_problems"),
    ("H12", HOSTILE, "answers_are_inert"),
    ("H13", HOSTILE, "hostile_names_are_refused"),
    ("H14", LOGS, "nothing_that_callers_write_forges_a_line_of_json"),
    ("H14", LOGS, "nothing_that_callers_write_moves_a_terminal"),
    ("H14", HTTPS, "every_event_is_one_line_of_json"),
    ("H14", LOG, "nothing_from_outside_makes_a_second_line"),
    ("H15", LOG, "a_secret_is_masked_wherever_it_stands"),
    ("H15", SECRETS, "no_secret_is_told_anywhere"),
    ("H15", LOGIN, "from_setup_to_a_session_and_out_again"),
    ("H16", WAYS, "files_that_are_open_to_others_are_named"),
    ("H16", HTTPS, "a_pair_that_does_not_hold_ends_the_start"),
    ("H16", VAULT, "exposed_linked_and_strange_files_are_refused"),
    ("H16", STATEDIR, "refuses_what_belongs_to_another_user"),
    ("H17", HOSTILE, "large_and_deep_bodies_are_refused"),
    ("H17", HOSTILE, "idle_connections_keep_nobody_out"),
    ("H17", SERVED, "the_oldest_idle_connection_yields_to_a_newcomer"),
    ("H17", SERVED, "an_endless_head_is_refused"),
    ("H17", ROUTER, "bodies_are_bounded_and_must_be_json"),
    ("H17", EXTRACT, "bodies_fail_with_words_that_help"),
    ("H18", HOSTILE, "other_origins_and_hosts_are_refused"),
    ("H18", ACCESS, "a_loopback_listener_serves_addresses_and_known_names"),
    ("H19", HOSTILE, "strangers_make_no_series"),
    ("H19", ACCESS, "the_brake_remembers_a_bounded_number_of_addresses"),
];

/// What must be in the list: T1 to T16, C1 to C13, H1 to H19, and of the others those without a part still to come
/// (several collectors, clones, rotation, restored backups).
fn wanted() -> BTreeSet<String> {
    let all = |letter: &str, numbers: &[u32]| -> Vec<String> {
        numbers.iter().map(|number| format!("{letter}{number}")).collect()
    };
    let to = |last: u32| (1..=last).collect::<Vec<_>>();
    let lifecycle = all("L", &[1, 2, 4, 5, 6, 9, 12, 13, 15, 16, 17]);
    let wire = all("W", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    [all("T", &to(16)), all("C", &to(13)), lifecycle, wire, all("H", &to(19))].into_iter().flatten().collect()
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
