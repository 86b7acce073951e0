use super::*;

#[test]
fn a_burst_passes_and_then_so_many_a_second() {
    let mut bucket = Bucket { left: WRITES_AT_ONCE, at: BootTime(0) };
    let burst = (0..1_000).filter(|_| bucket.take(BootTime(5))).count();
    assert_eq!(burst, 100);
    let later = (1..=10_000).filter(|ms| bucket.take(BootTime(*ms))).count();
    assert_eq!(later, 200, "twenty a second, and no rounding away of what is earned");
}

#[test]
fn only_loopback_is_loopback() {
    for host in ["localhost", "LOCALHOST:7412", "127.0.0.1", "127.8.8.8:1", "[::1]", "[::1]:7412"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["", "localhost.example", "127.0.0.1.example", "10.0.0.1", "[2001:db8::1]:1", "::1", "0.0.0.0"] {
        assert!(!is_loopback(host), "{host}");
    }
}
