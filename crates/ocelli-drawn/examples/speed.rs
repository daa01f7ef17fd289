//! How long a scene of 256 pixels takes on one core: `cargo run --release -p ocelli-drawn --example speed`

use std::time::Instant;

use ocelli_drawn::{Kind, Scene, Split};

fn main() {
    const SCENES: u64 = 400;
    let time = |name: &str, scene: &dyn Fn(u64) -> Scene, draw: bool| {
        let start = Instant::now();
        let mut sum = 0;
        for seed in 0..SCENES {
            let scene = scene(seed);
            sum += if draw { scene.draw(256).rgb[9] as usize } else { scene.questions().len() };
        }
        let each_ms = start.elapsed().as_secs_f64() * 1e3 / SCENES as f64;
        println!("{name:<12} {each_ms:.3} ms a scene (checksum {sum})");
    };
    time("warming up", &|seed| Scene::any(Split::Train, seed), true);
    for kind in Kind::ALL {
        time(kind.name(), &|seed| Scene::new(kind, Split::Train, seed), true);
    }
    time("any", &|seed| Scene::any(Split::Train, seed), true);
    time("any, clean", &|seed| Scene::any(Split::Train, seed).without_nuisances(), true);
    time("questions", &|seed| Scene::any(Split::Train, seed), false);
}
