//! The listener itself, over real sockets.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

const WITHIN: Duration = Duration::from_secs(5);

async fn started() -> (World, Server) {
    let world = world();
    let server = bind(world.parts(world.registry()), settings()).await.unwrap();
    (world, server)
}

fn head(world: &World, method: &str, path: &str, more: &str) -> String {
    let credential = &world.credentials["admin"];
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {credential}\r\n{more}\r\n")
}

/// Reads until the other side closes, or the time is up.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = tokio::time::timeout(WITHIN, stream.read_to_end(&mut text)).await.expect("the server closes");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn it_listens_when_bind_returns_and_tells_the_real_address() {
    let (world, server) = started().await;
    assert_ne!(server.address().port(), 0);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = head(&world, "GET", "/api/admin/services/agents/a", "Connection: close\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\"id\":\"a\""), "{answer}");
    server.stop(WITHIN).await;
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line() {
    let (world, server) = started().await;
    let again = Settings { listen: server.address(), ..settings() };
    let error = bind(world.parts(world.registry()), again).await.unwrap_err().to_string();
    assert!(error.contains(&server.address().to_string()), "{error}");
    assert!(error.contains("another process has it"), "{error}");
}

/// A request that is under way when the stop begins still gets its answer.
#[tokio::test]
async fn a_stop_lets_requests_finish() {
    let (world, server) = started().await;
    let address = server.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = r#"{"id":"new","parent":"p"}"#;
    let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n", body.len());
    let request = head(&world, "POST", "/api/admin/services/agents", &more);
    stream.write_all(request.as_bytes()).await.unwrap();
    // The server asks for the body once the handler waits for it.
    let mut go_on = [0; 25];
    tokio::time::timeout(WITHIN, stream.read_exact(&mut go_on)).await.unwrap().unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100"));
    let stopping = server.stop(WITHIN);
    let finishing = async {
        // The listener closes first; then the body is sent.
        tokio::time::timeout(WITHIN, async { while TcpStream::connect(address).await.is_ok() {} }).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        rest(&mut stream).await
    };
    let ((), answer) = tokio::join!(stopping, finishing);
    assert!(answer.starts_with("HTTP/1.1 503"), "the registry's own answer arrives: {answer}");
    assert!(answer.contains("\"code\":\"draining\""), "{answer}");
}

#[tokio::test]
async fn a_stop_cuts_off_at_its_deadline() {
    let (world, server) = started().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let more = "Content-Type: application/json\r\nContent-Length: 10\r\nExpect: 100-continue\r\n";
    let request = head(&world, "POST", "/api/admin/services/agents", more);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    tokio::time::timeout(WITHIN, stream.read_exact(&mut go_on)).await.unwrap().unwrap();
    tokio::time::timeout(WITHIN, server.stop(Duration::from_millis(50))).await.expect("it does not wait for ever");
    assert!(!rest(&mut stream).await.contains("HTTP/1.1 2"));
}

/// H17: with every place taken, the oldest connection that keeps us waiting yields to a newcomer, and no other does.
#[tokio::test]
async fn the_oldest_idle_connection_yields_to_a_newcomer() {
    let (world, server) = started().await;
    let alive = head(&world, "GET", "/livez", "");
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(alive.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            answer.push(tokio::time::timeout(WITHIN, stream.read_u8()).await.unwrap().unwrap());
        }
    };
    let mut held = Vec::new();
    for _ in 0..settings().connections {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        ask(&mut stream).await;
        held.push(stream);
    }
    let mut newcomer = TcpStream::connect(server.address()).await.unwrap();
    ask(&mut newcomer).await;
    let mut gone = held.remove(0);
    let end = tokio::time::timeout(WITHIN, gone.read(&mut [0])).await.unwrap();
    assert!(!end.is_ok_and(|read| read > 0), "it is closed");
    for stream in held.iter_mut().chain([&mut newcomer]) {
        ask(stream).await;
    }
    drop((held, newcomer));
    server.stop(WITHIN).await;
}

/// H17: a head without end does not take memory without end.
#[tokio::test]
async fn an_endless_head_is_refused() {
    let (world, server) = started().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let long = format!("X-Long: {}\r\n", "x".repeat(64 * 1024));
    // The server may close before everything is written.
    let _ = stream.write_all(head(&world, "GET", "/livez", &long).as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    server.stop(WITHIN).await;
}
