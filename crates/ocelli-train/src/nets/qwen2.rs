//! Qwen2, the language model of FastVLM: embeddings of positions to logits.
//!
//! Qwen2 technical report, arXiv 2407.10671; reference: transformers `models/qwen2/modeling_qwen2.py`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Gradients, Int, Tensor};
use ocelli_weights::{FastVlmConfig, RawCheckpoint};

use super::{anew, layer};
use crate::TrainError;
use crate::layers::{AttentionMask, Linear, RmsNorm, Sight, normal};
use crate::ops::{self, RotaryTable};
use crate::tensors::{Exchange, Form, Named};

/// All sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Qwen2Config {
    /// Rows of the embedding, those that pad it included.
    pub vocab_rows: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Hidden channels of the feed-forward.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// Of every RMS norm.
    pub norm_eps: f32,
    /// The embedding is the head, too.
    pub tied: bool,
}

impl Qwen2Config {
    /// The sizes of the language model of a FastVLM.
    ///
    /// # Errors
    /// When the checkpoint has no embedding.
    pub fn of(config: &FastVlmConfig, checkpoint: &RawCheckpoint) -> Result<Self, TrainError> {
        let ours = "language.embed_tokens.weight";
        let naming = &checkpoint.naming;
        let missing = || TrainError::NoName { family: naming.family.name(), ours: ours.to_owned() };
        let (name, _) = naming.module(ours).ok_or_else(missing)?;
        let rows = checkpoint.shape(&name).and_then(|shape| shape.first().copied());
        Ok(Self {
            vocab_rows: rows.ok_or(TrainError::Missing { name })?,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            layers: config.num_layers,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            rope_base: config.rope_theta,
            norm_eps: config.rms_norm_eps,
            tied: config.tie,
        })
    }
}

/// The language model.
#[derive(Module, Debug)]
pub struct Qwen2 {
    /// `[vocab_rows, hidden_size]`.
    embed_tokens: Param<Tensor<2>>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// `[vocab_rows, hidden_size]`; none if tied.
    lm_head: Option<Param<Tensor<2>>>,
    #[module(skip)]
    attention: Heads,
}

#[derive(Debug, Clone, Copy)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope_base: f32,
}

#[derive(Module, Debug)]
struct Layer {
    input_norm: RmsNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    post_attention_norm: RmsNorm,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Qwen2 {
    /// Random weights.
    pub fn new(config: &Qwen2Config, device: &Device) -> Self {
        let table = || normal([config.vocab_rows, config.hidden_size], 0.02, device);
        let &Qwen2Config { heads, kv_heads, head_dim, rope_base, .. } = config;
        Self {
            embed_tokens: table(),
            layers: (0..config.layers).map(|_| Layer::new(config, device)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.norm_eps, device),
            lm_head: (!config.tied).then(table),
            attention: Heads { heads, kv_heads, head_dim, rope_base },
        }
    }

    /// The linears of all layers with their names there.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Linear)> {
        self.layers.iter_mut().flat_map(|layer| {
            [
                ("q_proj", &mut layer.q_proj),
                ("k_proj", &mut layer.k_proj),
                ("v_proj", &mut layer.v_proj),
                ("o_proj", &mut layer.o_proj),
                ("gate_proj", &mut layer.gate_proj),
                ("up_proj", &mut layer.up_proj),
                ("down_proj", &mut layer.down_proj),
            ]
        })
    }

    /// Ids `[batch, positions]` to embeddings `[batch, positions, hidden_size]`.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.embed_tokens.val(), ids)
    }

    /// Embeddings `[batch, positions, hidden_size]` to normed rows of the same shape.
    pub fn forward(&self, embeds: Tensor<3>, sight: &Sight) -> Tensor<3> {
        let angles = self.angles(sight, embeds.dims()[1]);
        let layer = |x, layer: &Layer| layer.forward(x, self.attention, &angles, &sight.mask);
        let x = self.layers.iter().fold(embeds, layer);
        self.norm.forward(x)
    }

    fn angles(&self, sight: &Sight, positions: usize) -> RotaryTable {
        let Heads { head_dim, rope_base, .. } = self.attention;
        match &sight.places {
            Some(places) => RotaryTable::at(places, head_dim, rope_base),
            None => RotaryTable::new(positions, head_dim, rope_base),
        }
    }

    /// Normed rows `[.., hidden_size]` to logits `[.., vocab_rows]`.
    pub fn logits<const D: usize>(&self, rows: Tensor<D>) -> Tensor<D> {
        ops::linear(rows, self.lm_head.as_ref().unwrap_or(&self.embed_tokens).val(), None)
    }

    /// Mean cross entropy of embeddings `[batch, positions, hidden_size]` against labels `[batch * positions]`: row `t`
    /// is compared with the label of position `t + 1`, and positions whose label is negative (-100 in LLaVA's data) do
    /// not count.
    pub fn loss(&self, embeds: Tensor<3>, labels: &[i32], sight: &Sight) -> Tensor<1> {
        self.loss_of(self.forward(embeds, sight), labels)
    }

    fn loss_of(&self, rows: Tensor<3>, labels: &[i32]) -> Tensor<1> {
        let [batch, positions, hidden_size] = rows.dims();
        let next = |t: usize| if (t + 1).is_multiple_of(positions) { -1 } else { labels[t + 1] };
        let next: Vec<i32> = (0..batch * positions).map(next).collect();
        // Logits only where they count: a vocabulary is wide.
        let counted: Vec<i32> = (0..next.len()).filter(|&t| next[t] >= 0).map(|t| t as i32).collect();
        if counted.is_empty() {
            return rows.sum().mul_scalar(0.0);
        }
        let labels: Vec<i32> = counted.iter().map(|&t| next[t as usize]).collect();
        let device = rows.device();
        let chosen = rows
            .reshape([batch * positions, hidden_size])
            .select(0, Tensor::<1, Int>::from_data(&counted[..], &device));
        ops::cross_entropy(self.logits(chosen), &labels)
    }

    /// As [`Self::loss`] with its backward pass, where only the inputs of the layers are kept and each layer is computed
    /// anew: `take` gets the gradients layer by layer. Returns the loss, and its slope along the embeddings if
    /// `embeds_learn`.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn backward_by_layers(
        &self,
        embeds: Tensor<3>,
        embeds_learn: bool,
        labels: &[i32],
        sight: &Sight,
        take: &mut dyn FnMut(&Gradients) -> Result<(), TrainError>,
    ) -> Result<(f32, Option<Tensor<3>>), TrainError> {
        let angles = self.angles(sight, embeds.dims()[1]);
        let run = |layer: &Layer, x| layer.forward(x, self.attention, &angles, &sight.mask);
        let layers: Vec<_> = self.layers.iter().map(|layer| anew::piece(layer, run)).collect();
        let (rows, inputs) = anew::forward(&layers, embeds);
        let rows = rows.require_grad();
        let loss = self.loss_of(self.norm.forward(rows.clone()), labels);
        let value = loss.clone().into_scalar::<f32>();
        let gradients = loss.backward();
        take(&gradients)?;
        let slope = rows.grad(&gradients).expect("the loss depends on its rows");
        Ok((value, anew::backward(&layers, inputs, slope, embeds_learn, take)?))
    }
}

impl Layer {
    fn new(config: &Qwen2Config, device: &Device) -> Self {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let norm = || RmsNorm::new(hidden, config.norm_eps, device);
        let linear = |inputs, outputs, bias| Linear::new(inputs, outputs, bias, device);
        Self {
            input_norm: norm(),
            q_proj: linear(hidden, q, true),
            k_proj: linear(hidden, kv, true),
            v_proj: linear(hidden, kv, true),
            o_proj: linear(q, hidden, false),
            post_attention_norm: norm(),
            gate_proj: linear(hidden, ffn, false),
            up_proj: linear(hidden, ffn, false),
            down_proj: linear(ffn, hidden, false),
        }
    }

    /// `x1 = x + attention(norm(x)); y = x1 + down(silu(gate(norm(x1))) * up(norm(x1)))`.
    fn forward(&self, x: Tensor<3>, heads: Heads, angles: &RotaryTable, mask: &AttentionMask) -> Tensor<3> {
        let normed = self.input_norm.forward(x.clone());
        let q = ops::rotary(self.q_proj.forward(normed.clone()), angles);
        let k = ops::rotary(self.k_proj.forward(normed.clone()), angles);
        let v = self.v_proj.forward(normed);
        let mixed = ops::attention(q, k, v, [heads.heads, heads.kv_heads], mask.clone());
        let x = x + self.o_proj.forward(mixed);
        let normed = self.post_attention_norm.forward(x.clone());
        let hidden = ops::swiglu(self.gate_proj.forward(normed.clone()), self.up_proj.forward(normed));
        x + self.down_proj.forward(hidden)
    }
}

impl Named for Qwen2 {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        let (name, _) = with.module(&format!("{ours}.embed_tokens.weight"))?;
        with.tensor(&name, Form::AsIs, &mut self.embed_tokens)?;
        for (l, layer) in self.layers.iter_mut().enumerate() {
            layer.exchange(&format!("{ours}.layers.{l}"), with)?;
        }
        let name = layer(with, &format!("{ours}.norm"))?;
        self.norm.exchange(&name, with)?;
        match &mut self.lm_head {
            Some(head) => {
                let (name, _) = with.module(&format!("{ours}.lm_head.weight"))?;
                with.tensor(&name, Form::AsIs, head)
            }
            None => Ok(()),
        }
    }
}

impl Named for Layer {
    fn exchange(&mut self, ours: &str, with: &mut dyn Exchange) -> Result<(), TrainError> {
        for (norm, child) in
            [(&mut self.input_norm, "input_norm"), (&mut self.post_attention_norm, "post_attention_norm")]
        {
            let name = layer(with, &format!("{ours}.{child}"))?;
            norm.exchange(&name, with)?;
        }
        let linears = [
            (&mut self.q_proj, "attn.q_proj"),
            (&mut self.k_proj, "attn.k_proj"),
            (&mut self.v_proj, "attn.v_proj"),
            (&mut self.o_proj, "attn.o_proj"),
            (&mut self.gate_proj, "mlp.gate_proj"),
            (&mut self.up_proj, "mlp.up_proj"),
            (&mut self.down_proj, "mlp.down_proj"),
        ];
        for (linear, child) in linears {
            let name = layer(with, &format!("{ours}.{child}"))?;
            linear.exchange(&name, with)?;
        }
        Ok(())
    }
}
