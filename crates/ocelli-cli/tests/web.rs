//! `search --web`, as a user starts and ends it.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{assert_exit, ocelli, path, run, stderr};

fn get(host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(host).expect("connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Wait for the end; a server that does not end is a failure, not a test without end.
fn end_of(mut child: Child) -> std::process::Output {
    let start = Instant::now();
    while child.try_wait().expect("status").is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().expect("killed");
            child.wait().expect("status");
            panic!("the server did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("output")
}

#[test]
fn the_page_is_served_until_ctrl_c() {
    let home = tempfile::tempdir().expect("home");
    let photos = home.path().join("photos");
    std::fs::create_dir(&photos).expect("folder");
    for name in ["rgb_160x120.png", "wide_300x41.png"] {
        std::fs::copy(path(&format!("images/{name}")), photos.join(name)).expect("copy");
    }
    let (dir, model, tokenizer) =
        (photos.to_str().expect("utf-8"), path("mobileclip-s0"), path("clip-tokenizer"));
    let indexed =
        run(home.path(), &["index", dir, "--model", &model, "--tokenizer", &tokenizer, "--dtype", "f32"]);
    assert_exit(&indexed, 0);

    let mut child = ocelli(home.path())
        .args(["search", "--web", "--port", "0", "--dtype", "f32"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ocelli runs");
    let mut address = String::new();
    BufReader::new(child.stdout.as_mut().expect("stdout")).read_line(&mut address).expect("address");
    let host = address.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    assert!(host.starts_with("127.0.0.1:") && !host.ends_with(":7878"), "{address}");
    assert!(get(&host, "/").contains("<title>Ocelli photo search</title>"));
    let found = get(&host, "/api/search?q=a+dog&min_score=0");
    assert!(found.contains("rgb_160x120.png") && found.contains("\"searched\":2"), "{found}");

    // A second one on the same port says what to do.
    let port = host.rsplit(':').next().expect("port");
    let second = run(home.path(), &["search", "--web", "--port", port]);
    assert_exit(&second, 1);
    assert!(stderr(&second).contains("--port 0"), "{}", stderr(&second));

    if cfg!(unix) {
        let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(interrupt.expect("kill runs").success());
        let output = end_of(child);
        assert_exit(&output, 0);
        assert!(stderr(&output).contains("for this machine alone"), "{}", stderr(&output));
        assert!(TcpStream::connect(&host).is_err());
    } else {
        child.kill().expect("killed");
        end_of(child);
    }
}
