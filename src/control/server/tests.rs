use std::fs;
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::control::fake::Fake;
use crate::control::{Client, ClientError, Request};

struct Rig {
    folder: TempDir,
    path: PathBuf,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.sock");
    Rig { folder, path }
}

fn start(path: &Path) -> Result<Server, ServerError> {
    Server::start(path, Arc::new(Fake::default()))
}

fn list() -> Request {
    Request::List {}
}

#[test]
fn answers_several_clients_in_turn_and_is_its_users_alone() {
    let rig = rig();
    let server = start(&rig.path).unwrap();
    let mode = fs::metadata(&rig.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left = fs::read_dir(rig.folder.path()).unwrap().count();
    assert_eq!(left, 1, "nothing but the socket");
    let mut first = Client::connect(&rig.path).unwrap();
    let mut second = Client::connect(&rig.path).unwrap();
    for _ in 0..2 {
        assert_eq!(first.ask(&list()).unwrap()["free_ports"][1], 2);
        assert_eq!(second.ask(&list()).unwrap()["free_ports"][0], 1);
    }
    drop(server);
    assert!(!rig.path.exists());
    assert!(matches!(first.ask(&list()), Err(ClientError::Ended(_))));
    let nobody = Client::connect(&rig.path).err().unwrap();
    assert!(nobody.to_string().contains("no machine listens"));
}

#[test]
fn a_stale_socket_is_replaced_and_anything_else_is_not() {
    let rig = rig();
    drop(UnixListener::bind(&rig.path).unwrap());
    let server = start(&rig.path).unwrap();
    assert!(matches!(
        start(&rig.path),
        Err(ServerError::Path(SocketPathError::InUse(_)))
    ));
    Client::connect(&rig.path).unwrap().ask(&list()).unwrap();
    drop(server);
    fs::write(&rig.path, "mine").unwrap();
    assert!(matches!(
        start(&rig.path),
        Err(ServerError::Path(SocketPathError::NoSocket(_)))
    ));
    assert_eq!(fs::read_to_string(&rig.path).unwrap(), "mine");
    let missing = rig.folder.path().join("no/vm.sock");
    assert!(matches!(
        start(&missing),
        Err(ServerError::Path(SocketPathError::NoFolder(_)))
    ));
    let long = rig.folder.path().join("x".repeat(120));
    assert!(matches!(
        start(&long),
        Err(ServerError::Path(SocketPathError::TooLong(_)))
    ));
}

#[test]
fn garbage_is_answered_and_the_next_request_served() {
    let rig = rig();
    let _server = start(&rig.path).unwrap();
    let mut stream = UnixStream::connect(&rig.path).unwrap();
    stream
        .write_all(b"\x00\xff{\n\n{\"do\":\"list\"}\n")
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.next().unwrap().unwrap().contains("not a request"));
    assert!(lines.next().unwrap().unwrap().starts_with("{\"ok\""));
}

#[test]
fn a_line_that_is_too_long_is_refused_and_the_next_is_not() {
    let rig = rig();
    let _server = start(&rig.path).unwrap();
    let mut stream = UnixStream::connect(&rig.path).unwrap();
    let list = r#"{"do":"list"}"#;
    let padded = |length: usize| format!("{}{list}\n", " ".repeat(length - list.len()));
    let longest = padded(MAX_LINE - 1);
    assert_eq!(longest.len(), MAX_LINE);
    for line in [&longest, &padded(MAX_LINE), &padded(64 * MAX_LINE), list] {
        stream.write_all(line.as_bytes()).unwrap();
    }
    // The last one needs no end.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let said: Vec<_> = BufReader::new(stream).lines().map(Result::unwrap).collect();
    let fine: Vec<_> = said
        .iter()
        .map(|line| line.starts_with("{\"ok\""))
        .collect();
    assert_eq!(fine, [true, false, false, true], "{said:?}");
    assert!(said[1].contains("65536 bytes at most"), "{said:?}");
}

#[test]
fn clients_that_hang_up_or_never_read_are_in_nobodys_way() {
    let rig = rig();
    let server = start(&rig.path).unwrap();
    let connect = || UnixStream::connect(&rig.path).unwrap();
    // Half a request, and a whole one, and gone before there is an answer.
    connect().write_all(br#"{"do":"#).unwrap();
    connect().write_all(b"{\"do\":\"list\"}\n").unwrap();
    // Requests without end, whose answers nobody reads: the server stops reading.
    let mut deaf = connect();
    let patience = Some(Duration::from_millis(100));
    deaf.set_write_timeout(patience).unwrap();
    let refused = (0..100_000).find_map(|_| deaf.write_all(b"{\"do\":\"list\"}\n").err());
    assert!(refused.is_some(), "all was read");
    let mut other = Client::connect(&rig.path).unwrap();
    other.ask(&list()).unwrap();
    let begin = Instant::now();
    drop(server);
    assert!(
        begin.elapsed() < WRITE_PATIENCE / 2,
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn too_many_clients_are_told_so() {
    let rig = rig();
    let _server = start(&rig.path).unwrap();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| Client::connect(&rig.path).unwrap())
        .collect();
    for client in &mut clients {
        client.ask(&list()).unwrap();
    }
    let mut extra = Client::connect(&rig.path).unwrap();
    let refused = extra.ask(&list()).unwrap_err().to_string();
    assert!(refused.contains("8 are connected already"), "{refused}");
    clients.pop();
    let deadline = Instant::now() + Duration::from_secs(20);
    while Client::connect(&rig.path).unwrap().ask(&list()).is_err() {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn an_end_waits_for_what_is_under_way_and_for_no_idle_client() {
    let rig = rig();
    let slow = Duration::from_millis(200);
    let fake = Arc::new(Fake {
        slow,
        ..Fake::default()
    });
    let server = Server::start(&rig.path, fake.clone()).unwrap();
    let _idle = UnixStream::connect(&rig.path).unwrap();
    let mut stream = UnixStream::connect(&rig.path).unwrap();
    stream
        .write_all(b"{\"do\":\"remove\",\"id\":\"x\"}\n")
        .unwrap();
    std::thread::sleep(slow / 2);
    drop(server);
    assert_eq!(fake.removals.lock().unwrap().len(), 1);
}
