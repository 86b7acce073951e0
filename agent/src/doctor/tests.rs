use super::{
    host::judge_unit,
    network::{OverQuic, Tcp, Unmet, judge, judge_tcp},
    udp::{Echo, ask},
    *,
};

fn judged(unmet: Unmet, echo: Option<Echo>, tcp: Option<Tcp>) -> (Grade, String) {
    let address = "c.example:7411".parse().unwrap();
    let finding = judge(&address, &Err(unmet), echo.as_ref(), tcp);
    assert!(finding.fix.is_some(), "{finding:?}");
    (finding.grade, finding.words)
}

#[test]
fn blocked_refused_and_wrong_are_told_apart() {
    let (grade, words) = judged(Unmet::Silent, Some(Echo::Silent), Some(Tcp::Open));
    assert!(grade == Grade::Fail && words.contains("UDP alone is blocked"), "{words}");
    let (_, words) = judged(Unmet::Silent, Some(Echo::Silent), Some(Tcp::Silent));
    assert!(words.contains("the host is down, or all of it is blocked"), "{words}");
    let (_, words) = judged(Unmet::Silent, Some(Echo::Refused), Some(Tcp::Refused));
    assert!(words.contains("refuses UDP"), "{words}");
    let (_, words) = judged(Unmet::Distrusted("x: no root with the pinned key".into()), None, None);
    assert!(words.contains("is not the collector that was pinned"), "{words}");
    let (_, words) = judged(Unmet::Distrusted("x: certificate expired".into()), None, None);
    assert!(words.contains("does not hold now"), "{words}");
    let (_, words) = judged(Unmet::Silent, Some(Echo::Answered), Some(Tcp::Refused));
    assert!(words.contains("handshake is not completed"), "{words}");
    assert_eq!(judged(Unmet::Unchecked, None, None).0, Grade::Note);
}

#[test]
fn tcp_is_told_by_what_quic_does_and_by_what_is_allowed() {
    use crate::carriage::Policy;
    let told = |outcome: Result<(), Unmet>, quic, policy| {
        let finding = judge_tcp(&"c.example:7411".parse().unwrap(), &outcome, quic, policy);
        assert_eq!(finding.grade == Grade::Ok, finding.fix.is_none(), "{finding:?}");
        (finding.grade, format!("{} {}", finding.words, finding.fix.unwrap_or_default()))
    };
    let lost = || Err(Unmet::Lost("connection refused".into()));
    let (grade, words) = told(Ok(()), OverQuic::Unanswered, Policy::Auto);
    assert!(grade == Grade::Ok && words.contains("how heartbeats go while UDP is blocked"), "{words}");
    let (grade, words) = told(Ok(()), OverQuic::Unanswered, Policy::Quic);
    assert!(grade == Grade::Warn && words.contains("transport = \"auto\""), "{words}");
    assert_eq!(told(Ok(()), OverQuic::Works, Policy::Auto).0, Grade::Ok);
    // A sidecar whose QUIC is answered by a stranger stays there.
    let (grade, words) = told(Ok(()), OverQuic::Answered, Policy::Auto);
    assert!(grade == Grade::Warn && words.contains("not used") && words.contains("transport = \"tcp\""), "{words}");
    assert_eq!(told(Ok(()), OverQuic::Answered, Policy::Tcp).0, Grade::Ok);
    let (grade, words) = told(lost(), OverQuic::Works, Policy::Auto);
    assert!(grade == Grade::Note && words.contains("let TCP 7411 out") && words.contains("tcp_fallback"), "{words}");
    let (grade, words) = told(lost(), OverQuic::Unanswered, Policy::Auto);
    assert!(grade == Grade::Fail && words.contains("connection refused") && words.contains("TCP 7411"), "{words}");
    let (grade, words) = told(Err(Unmet::Distrusted("other root".into())), OverQuic::Works, Policy::Auto);
    assert!(grade == Grade::Warn && words.contains("somebody else"), "{words}");
}

#[tokio::test]
async fn a_port_where_nobody_listens_refuses_and_a_deaf_one_is_silent() {
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(deaf.local_addr().unwrap()).await, Echo::Silent);
    let gone = deaf.local_addr().unwrap();
    drop(deaf);
    assert_eq!(ask(gone).await, Echo::Refused);
}

#[test]
fn the_service_manager_is_understood() {
    let shown = |active: &str, restarts: u32, file: &str| {
        judge_unit(
            "rollcall-agent@blue.service",
            &format!(
                "LoadState=loaded\nActiveState={active}\nSubState=running\nResult=exit-code\nNRestarts={restarts}\n\
             UnitFileState={file}\nStatusText=waiting for an onboarding token\n"
            ),
        )
    };
    assert_eq!(shown("active", 0, "enabled").grade, Grade::Ok);
    assert!(shown("active", 0, "enabled").words.contains("waiting for an onboarding token"));
    assert_eq!(shown("active", 3, "enabled").grade, Grade::Warn);
    assert_eq!(shown("active", 0, "disabled").grade, Grade::Warn);
    assert_eq!(shown("failed", 0, "enabled").grade, Grade::Fail);
    assert!(shown("failed", 0, "enabled").fix.unwrap().contains("systemctl restart rollcall-agent@blue.service"));
    assert_eq!(judge_unit("x.service", "LoadState=not-found\n").grade, Grade::Note);
    assert_eq!(judge_unit("x.service", "").grade, Grade::Note);
}

#[test]
fn a_certificate_is_judged_by_its_dates() {
    let at = Timestamp::from_secs;
    assert_eq!(certificate(at(100), at(50), at(10), true).grade, Grade::Ok);
    assert_eq!(certificate(at(100), at(50), at(60), true).grade, Grade::Warn, "overdue");
    assert_eq!(certificate(at(100), at(50), at(60), false).grade, Grade::Ok, "nobody was there to renew it");
    let ended = certificate(at(100), at(50), at(100), true);
    assert!(ended.grade == Grade::Warn && ended.fix.unwrap().contains("rejoins"));
}

#[test]
fn what_fails_decides_how_it_ends() {
    let of = |checks: &[(&'static str, Grade)]| {
        Diagnosis::of(checks.iter().map(|(check, grade)| Finding::new(check, *grade, "x")).collect())
    };
    assert_eq!(of(&[("quic", Grade::Ok), ("token", Grade::Warn)]).outcome(), Outcome::Well);
    assert_eq!(of(&[("quic", Grade::Fail), ("token", Grade::Warn)]).outcome(), Outcome::Unreachable);
    assert_eq!(of(&[("quic", Grade::Fail), ("token", Grade::Fail)]).outcome(), Outcome::Ill);
    let text = of(&[("quic", Grade::Fail), ("token", Grade::Warn)]).text();
    assert!(text.ends_with("1 to mend, 1 to look at.\n"), "{text}");
}
