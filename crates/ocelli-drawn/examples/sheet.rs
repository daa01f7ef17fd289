//! A contact sheet as one PNG file, and what is asked about it on stdout.
//!
//! `cargo run -p ocelli-drawn --example sheet -- FILE [KIND|any|held_out] [SEED]`

use ocelli_drawn::{Kind, Scene, Split};

const SIDE: usize = 192;
const COLUMNS: usize = 8;
const ROWS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("which file?")?;
    let what = args.next().unwrap_or_else(|| "any".to_owned());
    let first: u64 = args.next().map_or(Ok(0), |seed| seed.parse())?;
    let scene = |seed| match (what.as_str(), Kind::ALL.iter().find(|kind| kind.name() == what)) {
        (_, Some(&kind)) => Scene::new(kind, Split::Train, seed),
        ("held_out", _) => Scene::held_out(seed),
        _ => Scene::any(Split::Train, seed),
    };
    let mut sheet = vec![0; SIDE * COLUMNS * SIDE * ROWS * 3];
    for at in 0..COLUMNS * ROWS {
        let scene = scene(first + at as u64);
        println!("{}.{}: {}", at / COLUMNS + 1, at % COLUMNS + 1, scene.caption());
        for question in scene.questions().iter().skip(1) {
            println!("      {} {} [{}]", question.text, question.answer.text(), question.kind.name());
        }
        let picture = scene.draw(SIDE);
        for (y, row) in picture.rgb.chunks_exact(SIDE * 3).enumerate() {
            let to = ((at / COLUMNS * SIDE + y) * COLUMNS + at % COLUMNS) * SIDE * 3;
            sheet[to..to + SIDE * 3].copy_from_slice(row);
        }
    }
    let mut encoder =
        png::Encoder::new(std::fs::File::create(file)?, (SIDE * COLUMNS) as u32, (SIDE * ROWS) as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&sheet)?;
    Ok(())
}
