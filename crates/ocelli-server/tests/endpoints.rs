//! Every endpoint over a real socket, with pictures and a model of the right shape.

mod support;

use std::time::{Duration, Instant};

use ocelli_image::{DecodeOptions, decode};
use ocelli_server::{MAX_PICTURE_BYTES, ServeError, Server};
use serde_json::Value;
use support::{GONE, OTHERS, Page, SCAN, STRIPES, stripes};

fn ids(json: &Value) -> Vec<i64> {
    json["found"].as_array().expect("found").iter().map(|found| found["id"].as_i64().expect("id")).collect()
}

#[test]
fn words_find_pictures_and_all_that_is_known_of_them() {
    let page = Page::start();
    let answer = page.get("/api/search?q=a+red+square");
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let json = answer.json();
    assert_eq!(ids(&json), [1, 2, 3]);
    assert_eq!(json["searched"], OTHERS + 6);
    let scores: Vec<f64> = json["found"]
        .as_array()
        .expect("found")
        .iter()
        .map(|f| f["score"].as_f64().expect("score"))
        .collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores[2] >= 0.8 && scores[0] <= 1.0, "{scores:?}");
    assert_eq!(json["best_score"].as_f64(), Some(scores[0]));
    assert!(json["embed_ms"].as_f64() > Some(0.0) && json["search_ms"].as_f64() > Some(0.0), "{json}");
    let first = &json["found"][0];
    assert!(first["similarity"].as_f64().is_some_and(|s| s > 0.9), "{first}");
    let details = (&first["captured_at"], &first["camera"], &first["width"], &first["height"]);
    assert_eq!(details, (&"2024-05-17 18:30:00".into(), &"Canon EOS R5".into(), &400.into(), &240.into()));
    assert_eq!(first["gps"], serde_json::json!([48.137, 11.575]));
    let dir = page.dir.path();
    let files = [
        dir.join("a copy of red-1 under a name that no phone is wide enough for.jpg"),
        dir.join("red-1.jpg"),
    ]
    .map(|file| file.display().to_string());
    assert_eq!(first["files"], serde_json::json!(files));
    assert_eq!(first["path"], files[0]);

    let weak = page.get("/api/search?q=a+red+square&min_score=0&n=100").json();
    assert_eq!((weak["found"].as_array().map(Vec::len), &ids(&weak)[..3]), (Some(100), &[1, 2, 3][..]));
    // Arithmetic as on the command line: without what it is, it is far away.
    let without = page.get("/api/search?q=-+a+red+square").json();
    assert!(!ids(&without).contains(&1), "{without}");
}

#[test]
fn filters_limit_what_is_searched() {
    let page = Page::start();
    for (filter, expected) in [
        ("since=2024-05-18", vec![2, 3]),
        ("since=2024-05&until=2024-05-17", vec![1]),
        ("camera=canon+eos+r6", vec![2, 3]),
        ("near=48.1,11.6,10", vec![1]),
        ("path=red-3", vec![3]),
        ("since=&until=&near=&camera=&path=&n=", vec![1, 2, 3]),
        ("n=1", vec![1]),
    ] {
        let json = page.get(&format!("/api/search?q=a+red+square&min_score=0.01&{filter}")).json();
        let found = ids(&json);
        assert_eq!(found[..expected.len().min(found.len())], expected, "{filter}: {json}");
    }
    let json = page.get("/api/search?q=a+red+square&path=nowhere").json();
    assert_eq!((json["searched"].as_u64(), ids(&json).len()), (Some(0), 0));
}

#[test]
fn a_picture_that_is_sent_finds_its_like() {
    let page = Page::start();
    let picture = stripes(10, [[20, 90, 200], [240, 240, 220]]);
    let json = page.post("/api/search?n=3", &picture).json();
    assert_eq!(ids(&json)[0], STRIPES, "{json}");
    assert!(json["found"][0]["similarity"].as_f64().is_some_and(|s| s > 0.999), "{json}");

    page.post("/api/search", b"no picture at all").assert_error(400, "not an image");
    page.post("/api/search", &picture[..500]).assert_error(400, "JPEG");
    page.post("/api/search", b"").assert_error(400, "empty");
    page.post("/api/search?q=x", &picture).assert_error(400, "not for both");
}

#[test]
fn too_large_a_picture_is_refused_before_and_while_it_is_read() {
    let page = Page::start();
    let origin = format!("http://{}", page.host());
    let body = vec![0; MAX_PICTURE_BYTES + 1];
    page.post("/api/search", &body[..MAX_PICTURE_BYTES]).assert_error(400, "not an image");
    // Only the length is told.
    let told = [("Origin", origin.as_str()), ("Host", page.host()), ("Expect", "100-continue")];
    let refused = page.ask_without_body("POST", "/api/search", &told, body.len());
    refused.assert_error(413, "more than 64 MB");
    // The length is not told.
    let chunked = [("Origin", origin.as_str()), ("Transfer-Encoding", "chunked")];
    page.ask_in_chunks("/api/search", &chunked, &body).assert_error(413, "more than 64 MB");
}

#[test]
fn like_a_picture_of_the_index_but_not_itself() {
    let page = Page::start();
    let json = page.get("/api/similar/1?n=2&min_score=0").json();
    assert_eq!(ids(&json), [2, 3], "{json}");
    page.get("/api/similar/99999").assert_error(404, "no picture 99999");
    page.get("/api/similar/first").assert_error(400, "whole number");
}

#[test]
fn one_picture_and_the_whole_index_are_described() {
    let page = Page::start();
    let json = page.get("/api/picture/1").json();
    let bytes = std::fs::metadata(page.dir.path().join("red-1.jpg")).expect("file").len();
    assert_eq!((json["id"].as_i64(), json["file_bytes"].as_u64()), (Some(1), Some(bytes)));
    assert_eq!(json["camera"], "Canon EOS R5");
    assert_eq!(page.get(&format!("/api/picture/{GONE}")).json()["file_bytes"], Value::Null);
    page.get("/api/picture/0").assert_error(404, "no picture 0");
    page.get("/api/picture/1e3").assert_error(400, "whole number");

    let stats = page.get("/api/stats").json();
    assert_eq!((stats["pictures"].as_u64(), stats["dated"].as_u64()), (Some(OTHERS as u64 + 6), Some(3)));
    assert_eq!(
        (&stats["first"], &stats["last"]),
        (&"2024-05-17 18:30:00".into(), &"2024-05-19 18:30:00".into())
    );
    let cameras = stats["cameras"].as_array().expect("cameras");
    assert_eq!(cameras.iter().map(|c| c["pictures"].as_u64()).collect::<Vec<_>>(), [Some(2), Some(1)]);
    assert_eq!(cameras[1]["name"], "Canon EOS R5");
    // The page offers the names as filters.
    for camera in cameras {
        let name = camera["name"].as_str().expect("name").replace(' ', "+");
        let json = page.get(&format!("/api/search?q=x&min_score=0&camera={name}")).json();
        assert_eq!(json["searched"], camera["pictures"], "{name}");
    }
}

#[test]
fn thumbnails_are_small_and_files_are_what_a_browser_can_show() {
    let page = Page::start();
    let size = |jpeg: &[u8]| {
        let picture = decode(jpeg, &DecodeOptions::default()).expect("picture");
        (picture.width, picture.height)
    };
    for _ in 0..2 {
        let thumb = page.get("/thumb/1");
        assert_eq!((thumb.status, thumb.header("content-type")), (200, Some("image/jpeg")));
        assert_eq!(thumb.header("cache-control"), Some("private, max-age=3600"));
        assert_eq!(size(&thumb.body), (320, 192));
    }
    let file = page.get("/file/1");
    assert_eq!((file.status, file.header("content-type")), (200, Some("image/jpeg")));
    assert_eq!(file.body, std::fs::read(page.dir.path().join("red-1.jpg")).expect("file"));
    let scan = page.get(&format!("/file/{SCAN}"));
    assert_eq!((scan.header("content-type"), size(&scan.body)), (Some("image/jpeg"), (160, 120)));
    // A thumbnail that was made stays, a file that is gone is told.
    for name in ["red-1.jpg", "a copy of red-1 under a name that no phone is wide enough for.jpg"] {
        std::fs::remove_file(page.dir.path().join(name)).expect("removed");
    }
    assert_eq!(page.get("/thumb/1").status, 200);
    page.get("/file/1").assert_error(404, "red-1.jpg");
    for path in ["/thumb", "/file"] {
        page.get(&format!("{path}/{GONE}")).assert_error(404, "gone.jpg");
        page.get(&format!("{path}/99999")).assert_error(404, "no picture 99999");
        page.get(&format!("{path}/..%2F..%2Fetc%2Fpasswd")).assert_error(400, "whole number");
    }
}

#[test]
fn what_cannot_be_understood_is_explained() {
    let page = Page::start();
    for (path, message) in [
        ("/api/search", "q is empty"),
        ("/api/search?q=%20", "q is empty"),
        ("/api/search?q=a+%2B", "missing"),
        ("/api/search?q=0:cat", "weight"),
        ("/api/search?q=x&since=yesterday", "no date"),
        ("/api/search?q=x&until=2024-13", "no date"),
        ("/api/search?q=x&near=here", "LATITUDE"),
        ("/api/search?q=x&n=0", "1 to 1000"),
        ("/api/search?q=x&n=many", "1 to 1000"),
        ("/api/search?q=x&min_score=2", "0 to 1"),
        ("/api/search?q=x&min_score=NaN", "0 to 1"),
        ("/api/search?q=x&colour=red", "colour"),
        ("/api/search?q=./nowhere.jpg", "nowhere.jpg"),
    ] {
        page.get(path).assert_error(400, message);
    }
    page.get("/nowhere").assert_error(404, "/nowhere");
    assert_eq!(page.ask("DELETE", "/api/picture/1", &[], b"").status, 405);
}

#[test]
fn only_the_page_itself_may_ask() {
    let page = Page::start();
    let host = format!("localhost:{}", page.port());
    let (own, other) = (format!("http://{host}"), "http://evil.example");
    for (expected, method, path, headers) in [
        (200, "GET", "/", vec![("Host", host.as_str())]),
        (403, "GET", "/", vec![("Host", "evil.example")]),
        (403, "GET", "/api/stats", vec![("Host", "192.168.0.7:7878")]),
        (403, "GET", "/thumb/1", vec![("Host", "localhost.evil.example")]),
        (200, "GET", "/", vec![("Sec-Fetch-Site", "cross-site")]),
        (403, "GET", "/thumb/1", vec![("Sec-Fetch-Site", "cross-site")]),
        (403, "GET", "/api/stats", vec![("Sec-Fetch-Site", "same-site")]),
        (200, "GET", "/api/stats", vec![("Sec-Fetch-Site", "same-origin")]),
        (403, "POST", "/api/search", vec![]),
        (403, "POST", "/api/search", vec![("Origin", other)]),
        (403, "POST", "/api/search", vec![("Origin", "null")]),
        (400, "POST", "/api/search", vec![("Host", host.as_str()), ("Origin", own.as_str())]),
    ] {
        let answer = page.ask(method, path, &headers, b"");
        assert_eq!(answer.status, expected, "{method} {path} {headers:?}");
        let policy = answer.header("content-security-policy").expect("policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

#[test]
fn the_page_names_no_other_address() {
    let page = Page::start();
    for (path, content_type) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg"),
    ] {
        let answer = page.get(path);
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").is_some_and(|found| found.starts_with(content_type)), "{path}");
        let text = String::from_utf8(answer.body).expect("utf-8").replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
    }
}

#[test]
fn a_taken_port_is_explained_and_a_stopped_server_frees_it() {
    let mut page = Page::start();
    let open = || {
        let load = || Err(ocelli_photos::PhotoError::Load("not needed".into()));
        ocelli_photos::PhotoSearch::open(&page.dir.path().join("photos.sqlite"), Box::new(load))
            .expect("index")
    };
    let Err(error) = Server::bind(open(), page.port()) else { panic!("two servers on one port") };
    assert!(matches!(error, ServeError::PortTaken(_)), "{error:?}");
    assert!(error.to_string().contains("--port"), "{error}");
    // A client that never ends its request does not hold the end up.
    let mut slow = std::net::TcpStream::connect(page.host()).expect("connection");
    std::io::Write::write_all(&mut slow, b"GET / HTTP/1.1\r\nHost:").expect("half a request");
    std::thread::sleep(Duration::from_millis(100));
    let (start, port, photos) = (Instant::now(), page.port(), open());
    page.stop();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(slow);
    assert!(Server::bind(photos, port).is_ok());
}
