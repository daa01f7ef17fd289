//! A model hub on a port of this machine: enough of the real one's interface to pull from, and the
//! faults that a test asks for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What goes wrong with one file.
#[derive(Clone)]
pub enum Fault {
    /// This many answers end after so many bytes.
    Cut { after: usize, times: usize },
    /// Answers fall silent after so many bytes.
    Stall { after: usize },
    /// The list tells a hash of other bytes.
    WrongHash,
}

/// How the hub behaves.
#[derive(Default, Clone)]
pub struct Behaviour {
    pub faults: BTreeMap<String, Fault>,
    /// Answer nobody without this token.
    pub token: Option<String>,
    /// The list names the files and nothing else.
    pub short_list: bool,
    /// Large files are so long, says the list.
    pub told_bytes: Option<u64>,
    /// Large files are sent from this server.
    pub store: String,
    /// Ignore `Range`.
    pub no_ranges: bool,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

struct State {
    id: String,
    files: BTreeMap<String, Vec<u8>>,
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Seen>>,
}

/// The server; its threads end with the test process.
pub struct TestHub {
    pub endpoint: String,
    state: Arc<State>,
}

impl TestHub {
    /// Serve these files as the model `id`. Files above 100 kB are large ones: told with their SHA-256
    /// and sent from another address.
    pub fn start(id: &str, files: BTreeMap<String, Vec<u8>>, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let (behaviour, seen) = (Mutex::new(behaviour), Mutex::default());
        let state = Arc::new(State { id: id.to_owned(), files, behaviour, seen });
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                // A client that goes away is part of what is tested.
                std::thread::spawn(move || drop(answer(&state, stream)));
            }
        });
        Self { endpoint, state }
    }

    /// Serve the small files; the large ones come from the server at `store`.
    pub fn start_elsewhere(id: &str, files: BTreeMap<String, Vec<u8>>, store: &str) -> Self {
        Self::start(id, files, Behaviour { store: store.to_owned(), ..Behaviour::default() })
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().expect("lock") = behaviour;
    }

    /// Requests for the bytes of a file so far.
    pub fn gets(&self, file: &str) -> Vec<Seen> {
        let end = format!("/{file}");
        let seen = self.state.seen.lock().expect("lock").clone();
        seen.into_iter().filter(|s| s.method == "GET" && s.path.ends_with(&end)).collect()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("lock").clone()
    }
}

/// All files of a directory, and a licence.
pub fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("directory").flatten() {
        let name = entry.file_name().to_str().expect("utf-8").to_owned();
        files.insert(name, std::fs::read(entry.path()).expect("file"));
    }
    files.insert("LICENSE".to_owned(), b"Test licence: for research only.\n\x1b[31mNot red.\n".to_vec());
    files.insert("llava_qwen.py".to_owned(), b"print('not needed')".to_vec());
    files.insert(".gitattributes".to_owned(), b"".to_vec());
    files
}

fn is_large(bytes: &[u8]) -> bool {
    bytes.len() > 100_000
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn hash(bytes: &[u8]) -> String {
    if is_large(bytes) {
        return hex(&Sha256::digest(bytes));
    }
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn answer(state: &State, mut stream: TcpStream) -> std::io::Result<()> {
    let Some(request) = read_request(&stream)? else { return Ok(()) };
    state.seen.lock().expect("lock").push(request.clone());
    let behaviour = state.behaviour.lock().expect("lock").clone();
    let path = request.path.split('?').next().unwrap_or_default().to_owned();
    let authorization = request.headers.get("authorization");
    let hub_page = !path.starts_with("/store/");
    if let Some(token) = &behaviour.token
        && hub_page
        && authorization != Some(&format!("Bearer {token}"))
    {
        return write!(stream, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if path == format!("/api/models/{}/revision/main", state.id) {
        return send(&mut stream, "200 OK", "", &list(state, &behaviour), None);
    }
    let resolve = format!("/{}/resolve/main/", state.id);
    let named = path.strip_prefix(&resolve).or_else(|| path.strip_prefix("/store/"));
    let Some((name, bytes)) = named.and_then(|name| Some((name, state.files.get(name)?))) else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let tag = hash(bytes);
    if hub_page && is_large(bytes) {
        let headers = format!(
            "Location: {}/store/{name}\r\nX-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {}\r\nETag: \"pointer\"\r\n",
            behaviour.store,
            bytes.len()
        );
        return send(&mut stream, "302 Found", &headers, b"", None);
    }
    let range = request.headers.get("range").filter(|_| !behaviour.no_ranges);
    let begin = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let (status, headers) = match begin {
        Some(begin) if begin >= bytes.len() => ("416 Range Not Satisfiable", String::new()),
        Some(begin) => (
            "206 Partial Content",
            format!("Content-Range: bytes {begin}-{}/{}\r\n", bytes.len() - 1, bytes.len()),
        ),
        None => ("200 OK", String::new()),
    };
    let headers = format!("{headers}ETag: \"{tag}\"\r\n");
    let body = &bytes[begin.unwrap_or(0).min(bytes.len())..];
    if request.method == "HEAD" {
        let length = body.len();
        return write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
    }
    let fault = take_fault(state, name);
    send(&mut stream, status, &headers, body, fault)
}

/// The fault of this answer; a cut is counted.
fn take_fault(state: &State, name: &str) -> Option<Fault> {
    let mut behaviour = state.behaviour.lock().expect("lock");
    let fault = behaviour.faults.get_mut(name)?;
    let now = fault.clone();
    if let Fault::Cut { times, .. } = fault {
        if *times == 0 {
            return None;
        }
        *times -= 1;
    }
    Some(now)
}

fn list(state: &State, behaviour: &Behaviour) -> Vec<u8> {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        if behaviour.short_list {
            return json!({"rfilename": name});
        }
        let wrong = matches!(behaviour.faults.get(name), Some(Fault::WrongHash));
        let hash = if wrong { hash(&[bytes, &b"!"[..]].concat()) } else { hash(bytes) };
        if is_large(bytes) {
            let (pointer, size) = ("0".repeat(40), behaviour.told_bytes.unwrap_or(bytes.len() as u64));
            json!({"rfilename": name, "size": size, "blobId": pointer, "lfs": {"sha256": hash, "size": size}})
        } else {
            json!({"rfilename": name, "size": bytes.len(), "blobId": hash})
        }
    };
    let siblings: Vec<_> = state.files.iter().map(sibling).collect();
    let sha = "c0ffee".repeat(7)[..40].to_owned();
    let list =
        json!({"id": state.id, "sha": sha, "cardData": {"license": "apple-amlr"}, "siblings": siblings});
    list.to_string().into_bytes()
}

fn send(
    stream: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &[u8],
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    match fault {
        Some(Fault::Cut { after, .. }) => stream.write_all(&body[..after.min(length)]),
        Some(Fault::Stall { after }) => {
            stream.write_all(&body[..after.min(length)])?;
            stream.flush()?;
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        _ => stream.write_all(body),
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Seen { method, path, headers }))
}
