//! Every stage of one request, so that two engines can be compared stage by stage.

use std::collections::HashMap;
use std::sync::Arc;

use ocelli_models::{LogitRows, qwen2};
use pollster::block_on;

use crate::Error;
use crate::fastvlm::{FastVlm, named, shape, vision_plan};
use crate::request::{Image, Request};

/// One named stage in f32.
#[derive(Debug, Clone)]
pub struct Stage {
    /// `vision.stages.2`, `projected`, `hidden.1`, `logits`, …
    pub name: String,
    /// Maps as `[channels, height, width]`, rows as `[rows, cols]`.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl FastVlm {
    /// Run a request up to the logits of every prompt position and return all stages, those of the
    /// vision tower for the first picture.
    ///
    /// # Errors
    /// As for [`FastVlm::generate`].
    pub fn trace(&self, request: &Request) -> Result<Vec<Stage>, Error> {
        let mut stages = Vec::new();
        let mut embeds: HashMap<u64, Arc<Vec<f32>>> = HashMap::new();
        for (i, image) in request.images.iter().enumerate() {
            let mut traced = self.trace_vision(image)?;
            if let Some(projected) = traced.iter().find(|s| s.name == "projected") {
                embeds.insert(image.key, Arc::new(projected.values.clone()));
            }
            if i == 0 {
                stages.append(&mut traced);
            }
        }
        let slots = self.slots(request)?;
        let inputs = self.splice(&slots, &embeds)?;
        let rows = slots.len();
        let plan = qwen2(&*self.source, &shape(&self.config), rows, LogitRows::AllTraced)?;
        let running = self.runner.current();
        let plan = running.engine.prepare(plan)?;
        let mut arena = plan.new_arena();
        let config = &self.config;
        let mut cache = running.engine.new_cache(config.num_layers, config.num_kv_heads, config.head_dim);
        plan.write(&mut arena, named(&plan, "inputs_embeds"), &inputs);
        plan.run(&mut arena, rows, Some(&mut cache), &|| request.cancel.is_cancelled())?;
        let shape = vec![rows, config.hidden_size];
        stages.push(Stage { name: "inputs_embeds".into(), shape: shape.clone(), values: inputs.clone() });
        stages.push(Stage { name: "hidden.0".into(), shape, values: inputs });
        for tensor in plan.plan().tensors.iter().filter(|t| t.is_output) {
            let values = block_on(plan.read(&mut arena, named(&plan, &tensor.name), rows))?;
            stages.push(Stage { name: tensor.name.clone(), shape: vec![rows, tensor.cols], values });
        }
        Ok(stages)
    }

    fn trace_vision(&self, image: &Image) -> Result<Vec<Stage>, Error> {
        let resolution = image.resolution;
        let plan = self.runner.current().engine.prepare(vision_plan(&*self.source, resolution, true)?)?;
        let mut arena = plan.new_arena();
        plan.write(&mut arena, named(&plan, "pixel_values"), &image.pixel_values);
        plan.run(&mut arena, 1, None, &|| false)?;
        let pixels = planar("pixel_values", &image.pixel_values, resolution, 3);
        let mut stages = vec![pixels];
        for tensor in plan.plan().tensors.iter().filter(|t| t.is_output) {
            let values = block_on(plan.read(&mut arena, named(&plan, &tensor.name), 1))?;
            let rows = values.len() / tensor.cols;
            stages.push(if tensor.name == "projected" {
                Stage { name: tensor.name.clone(), shape: vec![rows, tensor.cols], values }
            } else {
                // Squares in, squares out: every map of the tower is one.
                planar(&tensor.name, &values, rows.isqrt(), tensor.cols)
            });
        }
        Ok(stages)
    }
}

/// `[side * side, channels]` to `[channels, side, side]`.
pub(crate) fn planar(name: &str, values: &[f32], side: usize, channels: usize) -> Stage {
    let pixels = side * side;
    let mut out = vec![0.0; values.len()];
    for (p, pixel) in values.chunks_exact(channels).enumerate() {
        for (c, &v) in pixel.iter().enumerate() {
            out[c * pixels + p] = v;
        }
    }
    Stage { name: name.to_owned(), shape: vec![channels, side, side], values: out }
}
