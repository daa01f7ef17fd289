//! Teachers' embeddings of one sample: numpy's `.npz`, and PyTorch's `.pth.gz` with bfloat16.
//!
//! Formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, `parse_pt` of `ocelli-weights`.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use flate2::read::GzDecoder;
use ocelli_weights::{Dtype, parse_pt};

/// The most bytes of an array or an archive once it is unpacked.
const MOST_BYTES: usize = 256 << 20;
/// The most arrays of an archive.
const MOST_ARRAYS: usize = 1024;

/// Rows of values.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Values of a row.
    pub columns: usize,
    /// `[rows, columns]`.
    pub values: Vec<f32>,
}

impl Rows {
    /// A row.
    pub fn row(&self, index: usize) -> Option<&[f32]> {
        self.values.get(index.checked_mul(self.columns)?..)?.get(..self.columns)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.columns).unwrap_or(0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The matrices of an `.npz` file by their names.
///
/// # Errors
/// When the archive or an array is damaged, too large, or not of floats.
pub fn read_npz(bytes: &[u8]) -> Result<BTreeMap<String, Rows>, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| format!("npz: {e}"))?;
    if archive.len() > MOST_ARRAYS {
        return Err(format!("npz: {} arrays; at most {MOST_ARRAYS} are read", archive.len()));
    }
    let mut arrays = BTreeMap::new();
    let mut left = MOST_BYTES;
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| format!("npz: {e}"))?;
        let name = entry.name().map_err(|e| format!("npz: {e}"))?;
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else { continue };
        let content = unpack(entry, left).map_err(|e| format!("npz: {name}: {e}"))?;
        left -= content.len();
        if let Some(rows) = npy(&content).map_err(|e| format!("npz: {name}: {e}"))? {
            arrays.insert(name, rows);
        }
    }
    Ok(arrays)
}

/// The matrices of a `.pth.gz` file by their names.
///
/// # Errors
/// When the file is damaged, too large, or holds anything but tensors.
pub fn read_pth_gz(bytes: &[u8]) -> Result<BTreeMap<String, Rows>, String> {
    let file = unpack(GzDecoder::new(bytes), MOST_BYTES).map_err(|e| format!("pth.gz: {e}"))?;
    let header = parse_pt(&file).map_err(|e| format!("pth.gz: {e}"))?;
    let mut arrays = BTreeMap::new();
    for (name, info) in header.tensors {
        let bytes = &file[info.bytes];
        let values =
            floats(info.dtype, bytes).ok_or_else(|| format!("pth.gz: {name} is of {:?}", info.dtype))?;
        arrays.extend(matrix(&info.shape, values).map(|rows| (name, rows)));
    }
    Ok(arrays)
}

/// Everything of a stream that has at most so many bytes.
fn unpack(stream: impl Read, most: usize) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    stream.take(most as u64 + 1).read_to_end(&mut content).map_err(|e| e.to_string())?;
    if content.len() > most { Err(format!("more than {} MB", most >> 20)) } else { Ok(content) }
}

/// Two dimensions as they are, one as a single row; none of anything else.
fn matrix(shape: &[usize], values: Vec<f32>) -> Option<Rows> {
    match *shape {
        [columns] => Some(Rows { columns, values }),
        [_, columns] => Some(Rows { columns, values }),
        _ => None,
    }
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let four = bytes.as_chunks::<4>().0;
    let two = bytes.as_chunks::<2>().0;
    Some(match dtype {
        Dtype::F32 => four.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => two.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => two.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        _ => return None,
    })
}

/// An array of floats in rows; none of other than one or two dimensions.
fn npy(bytes: &[u8]) -> Result<Option<Rows>, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("it does not begin as an array")?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err("an array of an unknown version".into()),
    };
    let (header, data) = rest.split_at_checked(length).ok_or("its header is cut off")?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is no text")?;
    let dtype = match value_of(header, "descr")?.trim_matches(['\'', '"']) {
        "<f4" => Dtype::F32,
        "<f2" => Dtype::F16,
        "<f8" => Dtype::F64,
        other => return Err(format!("an array of {other}; floats are read")),
    };
    if value_of(header, "fortran_order")? != "False" {
        return Err("its columns come before its rows".into());
    }
    let shape = value_of(header, "shape")?.trim_matches(['(', ')']);
    let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
    let shape: Vec<usize> = sides
        .map(|side| side.parse().map_err(|_| format!("a shape of {shape}")))
        .collect::<Result<_, _>>()?;
    let size = shape.iter().try_fold(dtype.size(), |size, &side| size.checked_mul(side));
    if size != Some(data.len()) {
        return Err(format!("{} bytes for a shape of {shape:?}", data.len()));
    }
    Ok(floats(dtype, data).and_then(|values| matrix(&shape, values)))
}

/// What stands behind a key of the header, a dictionary as Python prints it: up to the next comma outside of brackets.
fn value_of<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let missing = || format!("its header has no {key}");
    let at = header.find(&format!("'{key}'")).ok_or_else(missing)?;
    let (_, rest) = header[at..].split_once(':').ok_or_else(missing)?;
    let mut depth = 0usize;
    let end = rest.find(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && matches!(c, ',' | '}')
    });
    Ok(rest[..end.ok_or_else(missing)?].trim())
}

/// An `.npz` file of matrices, as numpy reads it.
pub(crate) fn write_npz(arrays: &[(&str, &Rows)]) -> Result<Vec<u8>, String> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut write = || -> Result<(), Box<dyn std::error::Error>> {
        use std::io::Write;
        for (name, rows) in arrays {
            archive.start_file(format!("{name}.npy"), stored)?;
            let shape = format!("({}, {})", rows.len(), rows.columns);
            let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
            // The data begins at a multiple of 64.
            let padding = (10 + header.len() + 1).next_multiple_of(64) - (10 + header.len() + 1);
            header.push_str(&" ".repeat(padding));
            header.push('\n');
            archive.write_all(b"\x93NUMPY\x01\x00")?;
            archive.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
            archive.write_all(header.as_bytes())?;
            let bytes: Vec<u8> = rows.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            archive.write_all(&bytes)?;
        }
        Ok(())
    };
    write().map_err(|e| e.to_string())?;
    Ok(archive.finish().map_err(|e| e.to_string())?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let rows = Rows { columns: 3, values: vec![1.0, -2.0, 3.5, 4.0, 5.0, 6.25] };
        let bytes = write_npz(&[("image_emb", &rows), ("text_emb", &rows)]).expect("written");
        let arrays = read_npz(&bytes).expect("read");
        assert_eq!(arrays.keys().collect::<Vec<_>>(), ["image_emb", "text_emb"]);
        assert_eq!(arrays["text_emb"], rows);
        assert_eq!(rows.row(1), Some(&[4.0, 5.0, 6.25][..]));
        assert_eq!((rows.row(2), rows.row(usize::MAX), rows.len()), (None, None, 2));
    }

    #[test]
    fn damaged_arrays_are_told() {
        let refused = |header: &str, data| npy(&array(header, data)).expect_err("refused");
        let float = "{'descr': '<f4', 'fortran_order': False, 'shape': ";
        assert!(refused(&format!("{float}(2, 3), }}"), 23).contains("23 bytes"));
        assert!(refused(&format!("{float}(18446744073709551615, 3), }}"), 12).contains("12 bytes"));
        assert!(refused(&format!("{float}(-1, 3), }}"), 12).contains("shape"));
        assert!(refused("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 4).contains("|O"));
        assert!(refused("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", 4).contains("columns"));
        assert!(refused("{'descr': '<f4'", 4).contains("descr"));
        assert!(npy(b"\x93NUMPY\x01\x00\xff\xff{").expect_err("refused").contains("cut off"));
        assert!(npy(b"").is_err() && npy(b"\x93NUMPY\x09").is_err());
        let one = npy(&array(&format!("{float}(2,), }}"), 8)).expect("an array").expect("a row");
        assert_eq!((one.columns, one.len()), (2, 1));
        assert_eq!(npy(&array(&format!("{float}(1, 1, 1), }}"), 4)).expect("an array"), None);
    }

    #[test]
    fn bombs_and_rubbish_are_refused() {
        use std::io::Write;
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("a.npy", zip::write::SimpleFileOptions::default()).expect("begun");
        for _ in 0..257 {
            archive.write_all(&vec![0; 1 << 20]).expect("written");
        }
        let bomb = archive.finish().expect("finished").into_inner();
        assert!(bomb.len() < 2 << 20);
        assert!(read_npz(&bomb).expect_err("refused").contains("256 MB"));
        assert!(read_npz(&bomb[..bomb.len() / 2]).is_err() && read_npz(b"PK").is_err());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..257 {
            gzip.write_all(&vec![0; 1 << 20]).expect("written");
        }
        assert!(read_pth_gz(&gzip.finish().expect("finished")).expect_err("refused").contains("256 MB"));
        assert!(read_pth_gz(b"rubbish").is_err());
    }
}
