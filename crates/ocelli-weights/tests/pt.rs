//! PyTorch's files: those of the fixtures, and damaged and hostile ones.

use ocelli_testing::{Rng, fixture};
use ocelli_weights::{PtError, parse_pt};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("fixture")
}

fn replaced(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from).expect("it is in there");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn wrappers_are_taken_off_and_tensors_lie_in_the_file() {
    let bytes = file("mobileclip-s4/mobileclip2_s4.pt");
    let header = parse_pt(&bytes).expect("pt");
    assert!(header.tensors.contains_key("text.ln_final.weight"), "`state_dict` and `module.` are gone");
    for (name, tensor) in &header.tensors {
        let values: usize = tensor.shape.iter().product();
        assert_eq!(tensor.bytes.len(), values * tensor.dtype.size(), "{name}");
        assert!(tensor.bytes.end <= bytes.len(), "{name}");
    }
}

#[test]
fn a_pickle_that_asks_for_more_than_tensors_is_refused_by_name() {
    let bytes = replaced(file("mobileclip-b/mobileclip_b.pt"), b"OrderedDict", b"OrderedEvil");
    assert_eq!(parse_pt(&bytes), Err(PtError::Forbidden("collections OrderedEvil".into())));
    let bytes = replaced(file("mobileclip-b/mobileclip_b.pt"), b"FloatStorage", b"SecretObject");
    assert_eq!(parse_pt(&bytes), Err(PtError::Forbidden("torch SecretObject".into())));
}

#[test]
fn what_is_no_archive_or_cut_off_is_an_error() {
    let bytes = file("mobileclip-b/mobileclip_b.pt");
    for end in [0, 1, 21, 22, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(parse_pt(&bytes[..end]).is_err(), "{end} bytes");
    }
    assert!(matches!(parse_pt(b"not a zip"), Err(PtError::Archive(_))));
    // A storage that claims more than the file has.
    let big_endian = replaced(bytes, b"little", b"big000");
    assert!(matches!(parse_pt(&big_endian), Err(PtError::BigEndian)));
}

/// Any damage gives an answer or an error, and every answer stays inside of the file.
#[test]
fn seeded_damage_never_panics() {
    let mut rng = Rng::new(11);
    for name in ["mobileclip-b/mobileclip_b.pt", "mobileclip-s4/mobileclip2_s4.pt"] {
        let clean = file(name);
        let pickle = clean.windows(9).position(|w| w == b"/data.pkl").expect("pickle") + 9;
        let directory = clean.windows(4).position(|w| w == b"PK\x01\x02").expect("directory");
        for round in 0..1500 {
            let mut bytes = clean.clone();
            for _ in 0..1 + rng.below(4) {
                // Damage where it matters: in the pickle, or in the directory at the end.
                let at = match round % 2 {
                    0 => pickle + rng.below(40_000.min(directory - pickle)),
                    _ => directory + rng.below(bytes.len() - directory),
                };
                bytes[at] = rng.next_u64() as u8;
            }
            if let Ok(header) = parse_pt(&bytes) {
                assert!(header.tensors.values().all(|t| t.bytes.end <= bytes.len()));
            }
        }
    }
}
