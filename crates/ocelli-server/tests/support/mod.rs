//! A search page over generated pictures and a tiny model, and a plain HTTP client.
#![allow(dead_code)] // Each test file uses a part.

pub mod browser;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ocelli::{ClipOptions, DType, DecodeOptions, MobileClip};
use ocelli_image::{Rgb8, thumbnail};
use ocelli_index::{Candidate, Config, Content, Details, Encoding, Found, Writer};
use ocelli_photos::PhotoSearch;
use ocelli_server::{ServeError, Server, Stopper};
use ocelli_testing::{Rng, fixture};
use serde_json::Value;

/// A query that the pictures 1 to 3 answer.
pub const QUERY: &str = "a red square";
/// Ids of the index of [`Page::start`], in the order of its commits.
pub const STRIPES: i64 = 4;
pub const GONE: i64 = 5;
pub const SCAN: i64 = 6;
/// Pictures that have nothing to do with any query.
pub const OTHERS: usize = 150;

pub fn model() -> MobileClip {
    let options =
        ClipOptions { dtype: DType::F32, tokenizer: Some(fixture("clip-tokenizer")), ..Default::default() };
    MobileClip::load(&fixture("mobileclip-s0"), &options).expect("model")
}

/// A running page and the folder of its pictures.
pub struct Page {
    pub dir: tempfile::TempDir,
    pub address: String,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Page {
    /// Generated pictures: three of [`QUERY`], stripes, one whose file is gone, a TIFF, and many others.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        write_index(dir.path());
        Self::serve(dir)
    }

    /// Serve `photos.sqlite` of this folder.
    pub fn serve(dir: tempfile::TempDir) -> Self {
        let photos =
            PhotoSearch::open(&dir.path().join("photos.sqlite"), Box::new(|| Ok(model()))).expect("index");
        let server = Server::bind(photos, 0).expect("port");
        let (address, stopper) = (server.address(), server.stopper());
        let thread = Some(std::thread::spawn(move || server.run()));
        Self { dir, address, stopper, thread }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        self.address.trim_start_matches("http://").trim_end_matches('/')
    }

    pub fn port(&self) -> u16 {
        self.host().rsplit(':').next().and_then(|port| port.parse().ok()).expect("port")
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    /// As the page itself sends it.
    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        let origin = format!("http://{}", self.host());
        self.ask("POST", path, &[("Origin", &origin)], body)
    }

    /// `Host` may be among the headers.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let length = body.len().to_string();
        let headers: Vec<_> = headers.iter().copied().chain([("Content-Length", length.as_str())]).collect();
        self.exchange(method, path, &headers, &mut |stream| stream.write_all(body))
    }

    /// Tell of a body, and wait with it.
    pub fn ask_without_body(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> Answer {
        let length = length.to_string();
        let headers: Vec<_> = headers.iter().copied().chain([("Content-Length", length.as_str())]).collect();
        self.exchange(method, path, &headers, &mut |_| Ok(()))
    }

    /// Send a body whose length is not told.
    pub fn ask_in_chunks(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.exchange("POST", path, headers, &mut |stream| {
            for chunk in body.chunks(1 << 20) {
                write!(stream, "{:x}\r\n", chunk.len())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")
        })
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        send: &mut dyn FnMut(&mut TcpStream) -> std::io::Result<()>,
    ) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text += &format!("Host: {}\r\n", self.host());
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(self.host()).expect("connection");
        stream.write_all(format!("{text}\r\n").as_bytes()).expect("request");
        // A server that refuses a body need not read it.
        let _ = send(&mut stream);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        assert!(!bytes.is_empty(), "no answer: {read:?}");
        Answer::parse(&bytes)
    }

    /// End as Ctrl-C does.
    pub fn stop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic").expect("a clean end");
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("end of the headers");
        let headers = String::from_utf8(bytes[..end].to_vec()).expect("utf-8");
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("status");
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The status must be this one, and the message say this.
    pub fn assert_error(&self, status: u16, message: &str) {
        let json = self.json();
        assert_eq!(self.status, status, "{json}");
        assert!(json["error"].as_str().is_some_and(|error| error.contains(message)), "{json}");
    }
}

/// Stripes of a width, in two colours.
pub fn stripes(width: usize, colours: [[u8; 3]; 2]) -> Vec<u8> {
    let pixel = |y: usize, x: usize| colours[(x + y) / width % 2];
    let pixels = (0..240).flat_map(|y| (0..400).flat_map(move |x| pixel(y, x))).collect();
    thumbnail(&Rgb8 { height: 240, width: 400, pixels }, 400)
}

/// One picture of an index, with its file.
pub fn found(path: PathBuf, bytes: &[u8], details: Details, vector: Vec<f32>) -> Found {
    std::fs::write(&path, bytes).expect("picture");
    let content = Content::New { hash: ocelli_index::hash(bytes), details, vector };
    Found { file: Candidate { path, size: bytes.len() as u64, modified_ns: 0 }, content }
}

/// A direction that nothing else has.
pub fn noise(rng: &mut Rng, dim: usize) -> Vec<f32> {
    rng.values(dim)
}

/// Near a vector, but not the same.
pub fn near(vector: &[f32], step: f32, rng: &mut Rng) -> Vec<f32> {
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt() / (vector.len() as f32).sqrt();
    vector.iter().map(|v| v + step * length * rng.uniform()).collect()
}

fn write_index(dir: &Path) {
    let model = model();
    let dim = model.config().embed_dim;
    let config = Config { model: model.identity(), dim, encoding: Encoding::F16 };
    let mut writer = Writer::open(&dir.join("photos.sqlite"), &config).expect("index");
    let mut rng = Rng::new(7);
    let text = model.embed_texts(&[QUERY]).expect("embedding").remove(0);
    let mut batch = Vec::new();
    for i in 1..=3_usize {
        let details = Details {
            width: Some(400),
            height: Some(240),
            // 2024-05-17 18:30:00 and each a day later.
            captured_at: Some(1_715_970_600 + 86_400 * (i as i64 - 1)),
            camera_make: Some("Canon".into()),
            camera_model: Some(if i == 1 { "Canon EOS R5" } else { "Canon EOS R6" }.into()),
            gps: (i == 1).then_some((48.137, 11.575)),
            ..Details::default()
        };
        let bytes = stripes(40 * i, [[200, 30, 30], [150, 20, 30]]);
        let vector = near(&text, 0.05 * i as f32, &mut rng);
        batch.push(found(dir.join(format!("red-{i}.jpg")), &bytes, details, vector));
    }
    let bytes = stripes(10, [[20, 90, 200], [240, 240, 220]]);
    let pixels = ocelli_image::decode(&bytes, &DecodeOptions::default()).expect("picture");
    let vector = model.embed_images(&[model.prepare_image(&pixels)]).expect("embedding").remove(0);
    batch.push(found(dir.join("stripes.jpg"), &bytes, Details::default(), vector));
    batch.push(found(dir.join("gone.jpg"), b"soon gone", Details::default(), noise(&mut rng, dim)));
    let scan = std::fs::read(fixture("images/rgb_160x120.png")).expect("fixture");
    let scan = tiff(&ocelli_image::decode(&scan, &DecodeOptions::default()).expect("picture"));
    batch.push(found(dir.join("scan.tiff"), &scan, Details::default(), noise(&mut rng, dim)));
    for i in 0..OTHERS {
        let bytes = stripes(5 + i, [[90, (i % 250) as u8, 90], [160, 170, (i % 250) as u8]]);
        batch.push(found(
            dir.join(format!("other-{i}.jpg")),
            &bytes,
            Details::default(),
            noise(&mut rng, dim),
        ));
    }
    writer.commit(&batch).expect("commit");
    let copy = dir.join("a copy of red-1 under a name that no phone is wide enough for.jpg");
    std::fs::copy(dir.join("red-1.jpg"), &copy).expect("copy");
    let same = Found { file: Candidate { path: copy, size: 1, modified_ns: 0 }, content: Content::Known(1) };
    writer.commit(&[same]).expect("commit");
    std::fs::remove_file(dir.join("gone.jpg")).expect("removed");
}

/// An index of real pictures, copied without the two digits and space that their names begin with. Below 10 they are
/// put near `query`, the smaller the nearer; above, and among many others, anywhere.
pub fn arranged(pictures: &Path, query: &str) -> Page {
    let dir = tempfile::tempdir().expect("directory");
    let model = model();
    let dim = model.config().embed_dim;
    let config = Config { model: model.identity(), dim, encoding: Encoding::F16 };
    let mut writer = Writer::open(&dir.path().join("photos.sqlite"), &config).expect("index");
    let mut rng = Rng::new(11);
    let text = model.embed_texts(&[query]).expect("embedding").remove(0);
    let mut batch = Vec::new();
    let entries = std::fs::read_dir(pictures).expect("pictures").flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("utf-8");
        let (number, name) = (name[..2].parse::<usize>().expect("two digits"), &name[3..]);
        let bytes = std::fs::read(&path).expect("picture");
        let pixels = ocelli_image::decode(&bytes, &DecodeOptions::default()).expect("picture");
        let details = Details {
            width: Some(pixels.width as u32),
            height: Some(pixels.height as u32),
            captured_at: Some(1_715_970_600 - 5_000_000 * number as i64),
            gps: Some((28.608, -80.604)),
            ..Details::default()
        };
        let vector =
            if number < 10 { near(&text, 0.32 * number as f32, &mut rng) } else { noise(&mut rng, dim) };
        batch.push(found(dir.path().join(name), &bytes, details, vector));
    }
    for i in 0..1200 {
        let bytes = format!("no picture {i}");
        let path = dir.path().join(format!("other-{i}.jpg"));
        batch.push(found(path, bytes.as_bytes(), Details::default(), noise(&mut rng, dim)));
    }
    writer.commit(&batch).expect("commit");
    Page::serve(dir)
}

/// A picture as an uncompressed TIFF, which browsers do not show.
fn tiff(picture: &Rgb8) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    let entries: [(u16, u16, u32, u32); 9] = [
        (256, 4, 1, picture.width as u32),
        (257, 4, 1, picture.height as u32),
        (258, 3, 3, 8 + 2 + 9 * 12 + 4),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8 + 2 + 9 * 12 + 4 + 6),
        (277, 3, 1, 3),
        (278, 4, 1, picture.height as u32),
        (279, 4, 1, picture.pixels.len() as u32),
    ];
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend([8, 0, 8, 0, 8, 0]);
    bytes.extend(&picture.pixels);
    bytes
}
