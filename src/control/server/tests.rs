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
    assert!(matches!(start(&rig.path), Err(ServerError::Taken(_))));
    Client::connect(&rig.path).unwrap().ask(&list()).unwrap();
    drop(server);
    fs::write(&rig.path, "mine").unwrap();
    assert!(matches!(start(&rig.path), Err(ServerError::NoSocket(_))));
    assert_eq!(fs::read_to_string(&rig.path).unwrap(), "mine");
    let missing = rig.folder.path().join("no/vm.sock");
    assert!(matches!(start(&missing), Err(ServerError::Make { .. })));
    let long = rig.folder.path().join("x".repeat(120));
    assert!(matches!(start(&long), Err(ServerError::TooLong(_))));
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
fn a_line_without_end_is_refused() {
    let rig = rig();
    let _server = start(&rig.path).unwrap();
    let mut stream = UnixStream::connect(&rig.path).unwrap();
    stream.write_all(&vec![b'x'; MAX_LINE + 1]).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("65536 bytes at most"), "{said}");
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
