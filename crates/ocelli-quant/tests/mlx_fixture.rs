//! Rows quantized by mlx itself, against the values stored beside the fixture, bit for bit.

use std::path::Path;

use half::f16;
use ocelli_quant::{Affine, decode_affine_row};
use safetensors::SafeTensors;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");

fn read(file: &str) -> Vec<u8> {
    let path = Path::new(FIXTURES).join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn f32_of_f16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()
}

#[test]
fn q_proj_of_layer_0_decodes_exactly() {
    let expected = read("fastvlm-expected.safetensors");
    let expected = SafeTensors::deserialize(&expected).expect("a safetensors file");
    for bits in [4, 8] {
        let file = read(&format!("fastvlm-mlx-{bits}bit/model.safetensors"));
        let file = SafeTensors::deserialize(&file).expect("a safetensors file");
        let tensor = |part: &str| {
            let name = format!("language_model.model.layers.0.self_attn.q_proj.{part}");
            file.tensor(&name).expect("the tensor")
        };
        let words: Vec<u32> =
            tensor("weight").data().as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        let (scales, biases) = (f32_of_f16(tensor("scales").data()), f32_of_f16(tensor("biases").data()));

        let layout = Affine::new(bits, 64).expect("a supported layout");
        let want = expected.tensor(&format!("mlx-{bits}/one_image/dequant_q_proj0")).expect("the answer");
        let [rows, len] = want.shape() else { panic!("two dimensions") };
        let (words_per_row, groups) = (words.len() / rows, len / 64);
        let mut row = vec![0.0; *len];
        for (r, want) in want.data().chunks_exact(len * 4).enumerate() {
            decode_affine_row(
                layout,
                &words[r * words_per_row..][..words_per_row],
                &scales[r * groups..][..groups],
                &biases[r * groups..][..groups],
                &mut row,
            )
            .expect("lengths fit");
            let want: Vec<f32> = want.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            assert_eq!(row, want, "{bits} bits, row {r}");
        }
    }
}
