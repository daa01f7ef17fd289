//! Metadata in every container, previews of raw files, and both with damaged bytes. The files are made here.

mod common;

use common::{Random, fixtures, name, pictures};
use ocelli_image::{
    CapturedAt, DecodeOptions, Orientation, PhotoMetadata, Rgb8, decode, raw_preview, thumbnail,
};

/// A value of a TIFF directory.
#[derive(Clone)]
enum Value {
    Ascii(&'static str),
    Short(u16),
    Long(u32),
    Bytes(Vec<u8>),
    Rationals(Vec<(u32, u32)>),
    /// Sub-directories; their places are filled in.
    Directories(Vec<Directory>),
    /// Data elsewhere in the file; its place is filled in.
    Data(Vec<u8>),
}
use Value::*;

type Directory = Vec<(u16, Value)>;

/// Writes TIFF directories one after the other, each followed by what it points at.
struct Writer {
    little: bool,
    bytes: Vec<u8>,
}

impl Writer {
    fn u16(&self, value: u16) -> Vec<u8> {
        if self.little { value.to_le_bytes().to_vec() } else { value.to_be_bytes().to_vec() }
    }

    fn u32(&self, value: u32) -> Vec<u8> {
        if self.little { value.to_le_bytes().to_vec() } else { value.to_be_bytes().to_vec() }
    }

    fn append(&mut self, data: &[u8]) -> u32 {
        let at = self.bytes.len() as u32;
        self.bytes.extend(data);
        at
    }

    fn directory(&mut self, directory: &Directory, chain: &[Directory]) -> u32 {
        let at = self.bytes.len();
        self.bytes.extend(self.u16(directory.len() as u16));
        self.bytes.resize(at + 2 + directory.len() * 12 + 4, 0);
        for (i, (tag, value)) in directory.iter().enumerate() {
            let (kind, count, mut data) = match value {
                Ascii(text) => (2, text.len() + 1, [text.as_bytes(), &[0]].concat()),
                Short(value) => (3, 1, self.u16(*value)),
                Long(value) => (4, 1, self.u32(*value)),
                Bytes(bytes) => (1, bytes.len(), bytes.clone()),
                Rationals(parts) => {
                    let bytes = parts.iter().flat_map(|(a, b)| [self.u32(*a), self.u32(*b)].concat());
                    (5, parts.len(), bytes.collect())
                }
                Directories(children) => {
                    let places: Vec<u32> = children.iter().map(|child| self.directory(child, &[])).collect();
                    (4, places.len(), places.iter().flat_map(|place| self.u32(*place)).collect())
                }
                Data(data) => {
                    let place = self.append(data);
                    (4, 1, self.u32(place))
                }
            };
            if data.len() > 4 {
                let place = self.append(&data);
                data = self.u32(place);
            }
            data.resize(4, 0);
            let entry = [self.u16(*tag), self.u16(kind), self.u32(count as u32), data].concat();
            self.bytes[at + 2 + i * 12..at + 14 + i * 12].copy_from_slice(&entry);
        }
        if let Some((next, rest)) = chain.split_first() {
            let place = self.directory(next, rest);
            let link = at + 2 + directory.len() * 12;
            let place = self.u32(place);
            self.bytes[link..link + 4].copy_from_slice(&place);
        }
        at as u32
    }
}

/// A TIFF file whose header is followed by `mark`.
fn tiff(little: bool, mark: &[u8], chain: &[Directory]) -> Vec<u8> {
    let mut writer = Writer { little, bytes: if little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() } };
    let first = writer.u32(8 + mark.len() as u32);
    writer.bytes.extend(first);
    writer.bytes.extend(mark);
    writer.directory(&chain[0], &chain[1..]);
    writer.bytes
}

fn photo_exif(little: bool) -> Vec<u8> {
    let exif = vec![
        (0x9003, Ascii("2024:02:29 23:30:00")),
        (0x9011, Ascii("+02:00")),
        (0xa002, Long(4000)),
        (0xa003, Long(3000)),
    ];
    let gps = vec![
        (1, Ascii("S")),
        (2, Rationals(vec![(33, 1), (51, 1), (3540, 100)])),
        (3, Ascii("E")),
        (4, Rationals(vec![(151, 1), (12, 1), (40, 1)])),
    ];
    let first = vec![
        (0x10f, Ascii("Canon  ")),
        (0x110, Ascii("Canon EOS R5")),
        (0x112, Short(6)),
        (0x8769, Directories(vec![exif])),
        (0x8825, Directories(vec![gps])),
    ];
    tiff(little, b"", &[first])
}

fn in_jpeg(exif: &[u8]) -> Vec<u8> {
    let jpeg = thumbnail(&scene(40, 60), 60);
    let length = (exif.len() + 8) as u16;
    [&[0xff, 0xd8, 0xff, 0xe1], &length.to_be_bytes()[..], b"Exif\0\0", exif, &jpeg[2..]].concat()
}

fn in_png(exif: &[u8]) -> Vec<u8> {
    let png = std::fs::read(fixtures().join("images/six_3x2.png")).unwrap();
    let header = 8 + 25; // signature and IHDR
    // The checksum is not looked at by readers of metadata.
    let chunk = [&(exif.len() as u32).to_be_bytes()[..], b"eXIf", exif, &[0; 4]].concat();
    [&png[..header], &chunk, &png[header..]].concat()
}

fn in_webp(exif: &[u8]) -> Vec<u8> {
    let webp = std::fs::read(fixtures().join("images/lossless_57x43.webp")).unwrap();
    let extended = [b"VP8X".as_slice(), &10u32.to_le_bytes(), &[8, 0, 0, 0, 56, 0, 0, 42, 0, 0]].concat();
    let padding = vec![0; exif.len() % 2];
    let chunk = [b"EXIF".as_slice(), &(exif.len() as u32).to_le_bytes(), exif, &padding].concat();
    let body = [b"WEBP".as_slice(), &extended, &webp[12..], &chunk].concat();
    [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
}

/// The boxes of HEIC (ISO 23008-12) that lead to the metadata; no picture.
fn in_heic(exif: &[u8]) -> Vec<u8> {
    let boxed = |kind: &[u8], body: &[u8]| [&(body.len() as u32 + 8).to_be_bytes()[..], kind, body].concat();
    let item = boxed(b"infe", b"\x02\0\0\0\0\x01\0\0Exif\0");
    let items = boxed(b"iinf", &[b"\0\0\0\0\0\x01", &item[..]].concat());
    let data = [&[0, 0, 0, 0], exif].concat();
    let file_type = boxed(b"ftyp", b"heic\0\0\0\0mif1heic");
    let location = |at: u32| {
        let extent = [&at.to_be_bytes()[..], &(data.len() as u32).to_be_bytes()].concat();
        boxed(b"iloc", &[b"\0\0\0\0\x44\0\0\x01\0\x01\0\0\0\x01", &extent[..]].concat())
    };
    let meta = |at| boxed(b"meta", &[b"\0\0\0\0", &items[..], &location(at)].concat());
    let at = file_type.len() + meta(0).len() + 8;
    [file_type, meta(at as u32), boxed(b"mdat", &data)].concat()
}

fn scene(height: usize, width: usize) -> Rgb8 {
    let pixel = |y: usize, x: usize| [(x * 255 / width) as u8, (y * 255 / height) as u8, 60];
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(y, x))).collect();
    Rgb8 { height, width, pixels }
}

#[test]
fn reads_the_same_from_every_container() {
    for little in [true, false] {
        let exif = photo_exif(little);
        let files = [
            ("jpeg", in_jpeg(&exif), Some((60, 40))),
            ("png", in_png(&exif), Some((3, 2))),
            ("webp", in_webp(&exif), Some((57, 43))),
            ("heic", in_heic(&exif), Some((4000, 3000))),
            ("tiff", exif, Some((4000, 3000))),
        ];
        for (kind, bytes, size) in files {
            let found = PhotoMetadata::read(&bytes);
            // 21:30 UTC.
            let captured_at = CapturedAt { unix_seconds: 1_709_242_200, offset_minutes: Some(120) };
            assert_eq!(found.captured_at, Some(captured_at), "{kind}");
            assert_eq!(found.camera_make.as_deref(), Some("Canon"), "{kind}");
            assert_eq!(found.camera_model.as_deref(), Some("Canon EOS R5"), "{kind}");
            assert_eq!(found.orientation, Some(6), "{kind}");
            assert_eq!(found.width.zip(found.height), size, "{kind}");
            let (latitude, longitude) = found.gps.unwrap();
            assert!((latitude + 33.859_833).abs() < 1e-6 && (longitude - 151.211_111).abs() < 1e-6, "{kind}");
        }
    }
}

#[test]
fn reads_the_size_of_every_fixture() {
    for path in [pictures("images"), pictures("image-cases")].concat() {
        let bytes = std::fs::read(&path).unwrap();
        let options = DecodeOptions { orientation: Orientation::Ignore, ..Default::default() };
        let picture = decode(&bytes, &options).unwrap();
        let found = PhotoMetadata::read(&bytes);
        let size = (found.width.unwrap() as usize, found.height.unwrap() as usize);
        // Some frames of a GIF stick out of its canvas.
        let grown = name(&path) == "frame_sticks_out.gif";
        assert!(size == (picture.width, picture.height) || grown, "{}: {size:?}", name(&path));
    }
}

#[test]
fn a_file_without_metadata_says_nothing() {
    assert_eq!(PhotoMetadata::read(b""), PhotoMetadata::default());
    assert_eq!(PhotoMetadata::read(b"no picture"), PhotoMetadata::default());
    let zeros = vec![(2, Rationals(vec![(0, 0)])), (4, Rationals(vec![(1, 0)]))];
    let first = vec![
        (0x112, Short(9)),
        (0x10f, Ascii("   ")),
        (0x132, Ascii("0000:00:00 00:00:00")),
        (0x8825, Directories(vec![zeros])),
    ];
    assert_eq!(PhotoMetadata::read(&tiff(true, b"", &[first])), PhotoMetadata::default());
}

/// The four layouts: where the largest preview stands, beside smaller ones and the sensor's data, which in
/// CR2 and DNG is lossless JPEG.
fn raw_files() -> Vec<(&'static str, Vec<u8>)> {
    let large = thumbnail(&scene(80, 120), 120);
    let small = thumbnail(&scene(20, 30), 30);
    let mut lossless = thumbnail(&scene(200, 300), 300);
    let frame = lossless.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    lossless[frame + 1] = 0xc3;

    let strip = |compression: u16, data: &[u8]| -> Directory {
        vec![(0x103, Short(compression)), (0x111, Data(data.to_vec())), (0x117, Long(data.len() as u32))]
    };
    let pointed =
        |data: &[u8]| -> Directory { vec![(0x201, Data(data.to_vec())), (0x202, Long(data.len() as u32))] };
    let sensor = |compression: u16, data: &[u8]| -> Directory {
        let mut directory = strip(compression, data);
        directory.insert(1, (0x106, Short(32_803)));
        directory
    };
    let turned = |mut directory: Directory| -> Directory {
        directory.push((0x112, Short(6)));
        directory
    };
    let cr2 = [turned(strip(6, &large)), pointed(&small), sensor(6, &lossless)];
    let nef = [turned(vec![(0x14a, Directories(vec![pointed(&large), sensor(34_713, &[1; 99])]))])];
    let arw =
        [turned([pointed(&large), vec![(0x14a, Directories(vec![sensor(32_767, &[1; 99])]))]].concat())];
    let children = Directories(vec![sensor(7, &lossless), strip(7, &large), strip(7, &small)]);
    let dng = [turned(vec![(0x14a, children), (0xc612, Bytes(vec![1, 4, 0, 0]))])];
    vec![
        ("cr2", tiff(true, b"CR\x02\0\0\0\0\0", &cr2)),
        ("nef", tiff(false, b"", &nef)),
        ("arw", tiff(true, b"", &arw)),
        ("dng", tiff(true, b"", &dng)),
    ]
}

#[test]
fn finds_the_largest_preview_of_a_raw_file_and_turns_it() {
    let expected = decode(&thumbnail(&scene(80, 120), 120), &DecodeOptions::default()).unwrap();
    for (kind, bytes) in raw_files() {
        let preview = raw_preview(&bytes).unwrap_or_else(|| panic!("no preview in {kind}"));
        assert_eq!((preview.width, preview.height, preview.orientation), (120, 80, 6), "{kind}");
        let found = PhotoMetadata::read(&bytes);
        assert_eq!((found.width, found.height, found.orientation), (Some(120), Some(80), Some(6)), "{kind}");

        let stored = DecodeOptions { orientation: Orientation::Ignore, ..Default::default() };
        assert!(decode(&bytes, &stored).unwrap() == expected, "{kind}");
        let upright = decode(&bytes, &DecodeOptions::default()).unwrap();
        assert_eq!((upright.height, upright.width), (120, 80), "{kind}");
        // The lower left corner comes to the upper left.
        assert_eq!(upright.pixels[..3], expected.pixels[79 * 120 * 3..79 * 120 * 3 + 3], "{kind}");
    }
}

#[test]
fn an_ordinary_tiff_is_not_raw() {
    for path in pictures("image-cases").iter().filter(|path| name(path).ends_with(".tif")) {
        assert_eq!(raw_preview(&std::fs::read(path).unwrap()), None, "{}", name(path));
    }
    assert_eq!(raw_preview(&photo_exif(true)), None);
}

#[test]
fn damaged_metadata_never_panic() {
    let exif = photo_exif(true);
    let mut files: Vec<Vec<u8>> = raw_files().into_iter().map(|(_, bytes)| bytes).collect();
    files.extend([in_jpeg(&exif), in_png(&exif), in_webp(&exif), in_heic(&exif), photo_exif(false), exif]);
    let options = DecodeOptions { max_pixels: 1 << 20, ..Default::default() };
    let rounds = std::env::var("OCELLI_DAMAGE_ROUNDS").map_or(2000, |rounds| rounds.parse().unwrap());
    for (seed, bytes) in files.iter().enumerate() {
        let mut random = Random(seed as u64 + 1);
        for round in 0..rounds {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(6) {
                let at = random.below(bytes.len().min(700));
                match random.below(5) {
                    0 => damaged[at] = 0xff,
                    1 => damaged[at] ^= 1 << random.below(8),
                    2 => damaged[at] = 0,
                    3 => damaged.truncate(at.max(bytes.len() / 2)),
                    _ => damaged[at] = random.below(256) as u8,
                }
                if damaged.len() < bytes.len() {
                    break;
                }
            }
            let panicked = std::panic::catch_unwind(|| {
                PhotoMetadata::read(&damaged);
                let _ = decode(&damaged, &options);
            });
            assert!(panicked.is_ok(), "file {seed} in round {round}");
        }
    }
}

/// Directories that point at each other, or claim 65535 entries, end.
#[test]
fn directories_in_a_circle_end() {
    let mut circle = tiff(true, b"CR\x02\0\0\0\0\0", &[vec![(0x112, Short(1))]]);
    let link = circle.len() - 4;
    circle[link..].copy_from_slice(&16u32.to_le_bytes());
    assert_eq!(raw_preview(&circle), None);
    let mut many = circle.clone();
    many[16..18].fill(0xff);
    many.resize(1 << 20, 0x10);
    assert_eq!(raw_preview(&many), None);
}
