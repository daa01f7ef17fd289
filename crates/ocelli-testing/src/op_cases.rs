//! Small plans of one op each, over awkward sizes: every length from nothing special to twice the
//! vector width, odd channel counts, single rows, more rows than a block.

use std::sync::Arc;

use ocelli_plan::{
    Activation, AttentionShape, BlockFormat, Element, FeatureMap, MlpWeights, Plan, PlanBuilder, Rows,
    TensorId,
};

use crate::edge_cases::edge_op_cases;
use crate::random::{RandomWeights, Rng};

/// One plan with everything that it needs to run.
pub struct OpCase {
    /// What is special about it.
    pub name: String,
    /// A plan with the input `x` (f32) or `ids`, and the output `y`.
    pub plan: Plan,
    /// Its weights.
    pub weights: Arc<RandomWeights>,
    /// Values of `x`.
    pub x: Vec<f32>,
    /// Values of `ids`.
    pub ids: Vec<u32>,
    /// Rows to bind in each run, one run after the other.
    pub runs: Vec<usize>,
    /// Layers, key heads and head size of the cache that the plan needs.
    pub cache: Option<(usize, usize, usize)>,
}

/// What one run of a case begins with.
pub enum Input<'a> {
    /// Token ids, the same in each run.
    Ids(TensorId, &'a [u32]),
    /// The rows of this run, row-major.
    Values(TensorId, &'a [f32]),
}

impl OpCase {
    /// Outputs of all runs, one after the other. `run` gets the input, the rows to bind and the output to return.
    ///
    /// # Panics
    /// When the plan has no `y`, and neither `ids` nor `x`.
    pub fn each_run(&self, mut run: impl FnMut(Input<'_>, usize, TensorId) -> Vec<f32>) -> Vec<f32> {
        let y = self.plan.find("y").expect("output");
        let (mut out, mut first) = (Vec::new(), 0);
        for &rows in &self.runs {
            let input = match self.plan.find("ids") {
                Some(ids) => Input::Ids(ids, &self.ids),
                None => {
                    let x = self.plan.find("x").expect("input");
                    let cols = self.plan.tensor(x).cols;
                    Input::Values(x, &self.x[first * cols..][..rows * cols])
                }
            };
            out.extend(run(input, rows, y));
            first += rows;
        }
        out
    }
}

/// Ops first turn the f32 input into activations; an identity-like depthwise 1x1 does that.
const WIDEN: &str = "widen";

/// A case in the making.
pub(crate) struct Case {
    name: String,
    rows: usize,
    cols: usize,
    bound: bool,
    /// As in [`OpCase`].
    pub(crate) cache: Option<(usize, usize, usize)>,
    runs: Vec<usize>,
    shapes: Vec<(String, Vec<usize>)>,
}

impl Case {
    pub(crate) fn new(name: String, rows: usize, cols: usize) -> Self {
        let shapes = vec![(format!("{WIDEN}.weight"), vec![cols, cols])];
        Self { name, rows, cols, bound: false, cache: None, runs: vec![rows], shapes }
    }

    pub(crate) fn weight(mut self, name: &str, shape: &[usize]) -> Self {
        self.shapes.push((name.to_owned(), shape.to_vec()));
        self
    }

    pub(crate) fn bound(mut self, runs: &[usize]) -> Self {
        self.bound = true;
        self.runs = runs.to_vec();
        self
    }

    /// Finish the case with the op that `build` emits on activations `[rows, cols]`.
    pub(crate) fn op(self, build: impl Fn(&mut PlanBuilder<'_>, TensorId) -> TensorId) -> OpCase {
        self.op_on_input(|b, x| {
            let x = b.linear(x, WIDEN, Activation::None).expect("case");
            build(b, x)
        })
    }

    /// The same on the f32 input `[rows, cols]`.
    pub(crate) fn op_on_input(self, build: impl Fn(&mut PlanBuilder<'_>, TensorId) -> TensorId) -> OpCase {
        let shapes: Vec<(&str, &[usize])> = self.shapes.iter().map(|(n, s)| (&n[..], &s[..])).collect();
        let weights = Arc::new(RandomWeights::new(&shapes));
        let max_rows = if self.bound { self.rows } else { 1 };
        let mut b = PlanBuilder::new(&self.name, &*weights, max_rows);
        let rows = if self.bound { Rows::Bound } else { Rows::Fixed(self.rows) };
        let x = b.input("x", rows, self.cols, Element::F32);
        let y = build(&mut b, x);
        b.output("y", y);
        let total: usize = self.runs.iter().sum();
        let x = Rng::new(self.name.len() as u64).values(total.max(self.rows) * self.cols);
        // Values of a bf16, so that a kernel that takes its rows in bf16 sees the same ones.
        let x = x.iter().map(|v| f32::from_bits(v.to_bits() & 0xffff_0000)).collect();
        let (plan, cache) = (b.finish(), self.cache);
        OpCase { name: self.name, plan, weights, x, ids: vec![], runs: self.runs, cache }
    }
}

/// All cases.
pub fn op_cases() -> Vec<OpCase> {
    let mut cases = Vec::new();
    cases.extend(linears());
    cases.extend(mlps());
    cases.extend(depthwise());
    cases.extend(convs());
    cases.extend(norms());
    cases.extend(attentions());
    cases.extend(cached_attentions());
    cases.extend(poolings());
    cases.push(embed());
    cases.extend(positions());
    cases.extend(edge_op_cases());
    cases
}

/// The cases of matrix products and of the gather with weights in blocks.
pub fn quantized_op_cases(format: BlockFormat) -> Vec<OpCase> {
    let quantize = |case: OpCase| {
        let weights = Arc::new(RandomWeights::clone(&case.weights).quantized(format));
        OpCase { name: format!("{} {}", format.name(), case.name), weights, ..case }
    };
    linears().into_iter().chain(mlps()).chain([embed()]).map(quantize).collect()
}

fn linears() -> Vec<OpCase> {
    let mut cases = Vec::new();
    // Every k and n from 1 to beyond twice the vector width, and every row count of a tile.
    let sweep = (1..=33).map(|i| (i % 13 + 1, i, 34 - i));
    let blocks = [
        (1, 70, 400),
        (63, 40, 50),
        (64, 17, 48),
        (65, 96, 130),
        (200, 33, 96),
        (3, 897, 31),
        (130, 1090, 40),
    ];
    for (rows, k, n) in sweep.chain(blocks) {
        let case = |what: &str| {
            Case::new(format!("linear {what} {rows}x{k}x{n}"), rows, k)
                .weight("w.weight", &[n, k])
                .weight("w.bias", &[n])
        };
        cases.push(case("gelu").op(|b, x| b.linear(x, "w", Activation::Gelu).expect("case")));
        if k == n || rows > 60 {
            cases.push(case("silu").op(|b, x| b.linear(x, "w", Activation::Silu).expect("case")));
            cases.push(case("quick").op(|b, x| b.linear(x, "w", Activation::QuickGelu).expect("case")));
        }
        let square = Case::new(format!("linear residual {rows}x{k}"), rows, k)
            .weight("w.weight", &[k, k, 1, 1])
            .weight("s", &[k]);
        cases.push(square.op(|b, x| b.scaled_linear(x, "w", "s", x).expect("case")));
        let parts = Case::new(format!("linear parts {rows}x{k}x{n}"), rows, k)
            .weight("q.weight", &[n, k])
            .weight("k.weight", &[3, k])
            .weight("q.bias", &[n])
            .weight("k.bias", &[3]);
        let names = ["q".to_owned(), "k".to_owned()];
        cases.push(parts.op(|b, x| b.linear_parts(x, &names, Activation::None, None).expect("case")));
        let gated = Case::new(format!("gated {rows}x{k}x{n}"), rows, k)
            .weight("gate.weight", &[n, k])
            .weight("up.weight", &[n, k]);
        cases.push(gated.op(|b, x| b.gated_linear(x, "gate", "up").expect("case")));
    }
    // The second product reads activations as the first has stored them.
    for (rows, k, n) in [(64, 40, 96), (128, 24, 1056), (33, 30, 64)] {
        let chain = Case::new(format!("linear chain {rows}x{k}x{n}"), rows, k)
            .weight("a.weight", &[n, k])
            .weight("b.weight", &[k, n]);
        cases.push(chain.op(|b, x| {
            let hidden = b.linear(x, "a", Activation::None).expect("case");
            b.linear(hidden, "b", Activation::None).expect("case")
        }));
    }
    cases
}

fn mlps() -> Vec<OpCase> {
    let sizes = [(1, 5, 9), (7, 16, 64), (130, 24, 96), (300, 17, 33), (64, 32, 128)];
    let build = |(rows, k, hidden): (usize, usize, usize)| {
        let names = MlpWeights { fc1: "a".into(), fc2: "b".into(), scale: Some("s".into()) };
        Case::new(format!("mlp {rows}x{k}x{hidden}"), rows, k)
            .weight("a.weight", &[hidden, k, 1, 1])
            .weight("a.bias", &[hidden])
            .weight("b.weight", &[k, hidden, 1, 1])
            .weight("b.bias", &[k])
            .weight("s", &[k])
            .op(move |b, x| b.mlp(x, &names, Activation::Gelu, Some(x)).expect("case"))
    };
    sizes.into_iter().map(build).collect()
}

fn depthwise() -> Vec<OpCase> {
    let mut cases = Vec::new();
    for kernel in [3, 5, 7] {
        for stride in [1, 2] {
            for (h, w, c, multiplier) in [
                (1, 1, 3, 1),
                (3, 2, 8, 2),
                (17, 5, 16, 1),
                (9, 35, 40, 2),
                (33, 18, 70, 1),
                (4, 4, 17, 3),
                (5, 19, 210, 1),
            ] {
                let out = c * multiplier;
                let name = format!("depthwise {kernel}x{kernel}/{stride} {h}x{w}x{c}->{out}");
                let case = Case::new(name, h * w, c)
                    .weight("w.weight", &[out, 1, kernel, kernel])
                    .weight("w.bias", &[out]);
                cases.push(case.op(|b, x| {
                    let map = FeatureMap { tensor: x, height: h, width: w };
                    b.depthwise(map, "w", stride, Activation::Gelu).expect("case").tensor
                }));
            }
        }
    }
    // Along one direction, as over positions of a text; one keeps the type of what goes in.
    for ([kh, kw], h, w, c) in
        [([1, 11], 1, 77, 40), ([1, 11], 1, 3, 17), ([5, 1], 33, 2, 16), ([3, 5], 9, 8, 70)]
    {
        let case = |what: &str| {
            Case::new(format!("depthwise {what} {kh}x{kw} {h}x{w}x{c}"), h * w, c)
                .weight("w.weight", &[c, 1, kh, kw])
                .weight("w.bias", &[c])
        };
        let map = |tensor| FeatureMap { tensor, height: h, width: w };
        cases.push(
            case("gelu").op(|b, x| b.depthwise(map(x), "w", 1, Activation::Gelu).expect("case").tensor),
        );
        let stream = case("stream").weight("positions", &[h * w, c]);
        cases.push(stream.op(|b, x| {
            let x = b.add_positions(x, None, "positions").expect("case");
            b.depthwise_stream(map(x), "w").expect("case").tensor
        }));
    }
    cases
}

fn convs() -> Vec<OpCase> {
    let sizes =
        [(7, 9, 3, 5, 3, 2, 1), (61, 50, 3, 96, 3, 2, 1), (8, 12, 4, 17, 4, 4, 0), (5, 5, 2, 3, 5, 1, 2)];
    let mut cases = Vec::new();
    for (h, w, c, out, kernel, stride, padding) in sizes {
        let case = |of: &str| {
            let name = format!("conv {kernel}x{kernel}/{stride}+{padding} {h}x{w}x{c}->{out}{of}");
            Case::new(name, h * w, c).weight("w.weight", &[out, c, kernel, kernel]).weight("w.bias", &[out])
        };
        let conv = move |b: &mut PlanBuilder<'_>, tensor| {
            let map = FeatureMap { tensor, height: h, width: w };
            b.conv(map, "w", stride, padding, Activation::Gelu).expect("case").tensor
        };
        cases.push(case("").op(conv));
        cases.push(case(" of a picture").op_on_input(conv));
    }
    cases
}

fn norms() -> Vec<OpCase> {
    let mut cases = Vec::new();
    for cols in (2..=33).chain([64, 100]) {
        let case = |what: &str| {
            Case::new(format!("{what} norm {cols}"), 35, cols)
                .weight("n.weight", &[cols])
                .weight("n.bias", &[cols])
        };
        cases.push(case("layer").op(|b, x| b.layer_norm(x, "n", 1e-5).expect("case")));
        cases.push(case("rms").op(|b, x| b.rms_norm(x, "n", 1e-6).expect("case")));
    }
    cases
}

fn attentions() -> Vec<OpCase> {
    let mut cases = Vec::new();
    for rows in [1, 2, 9, 16, 33, 70] {
        for (heads, dim) in [(1, 4), (3, 8), (2, 32), (2, 20)] {
            for causal in [false, true] {
                let name = format!("attention {rows} rows {heads}x{dim} causal {causal}");
                let case = Case::new(name, rows, 3 * heads * dim);
                cases.push(case.op(|b, x| b.attention(x, heads, causal).expect("case")));
            }
        }
    }
    cases
}

fn cached_attentions() -> Vec<OpCase> {
    let mut cases = Vec::new();
    for (heads, kv_heads, head_dim) in [(2, 2, 4), (4, 2, 16), (14, 2, 64), (3, 1, 20)] {
        for runs in [vec![1], vec![40], vec![5, 1, 1, 17, 1], vec![16, 16, 1]] {
            let name = format!("cached attention {heads}/{kv_heads}x{head_dim} runs {runs:?}");
            let mut case = Case::new(name, 40, (heads + 2 * kv_heads) * head_dim).bound(&runs);
            case.cache = Some((1, kv_heads, head_dim));
            let shape = AttentionShape { heads, kv_heads, head_dim };
            cases.push(case.op(|b, x| b.cached_attention(x, shape, 10_000.0, 0).expect("case")));
        }
    }
    cases
}

fn poolings() -> Vec<OpCase> {
    let mut cases = Vec::new();
    for (rows, cols, hidden) in [(1, 3, 2), (9, 128, 8), (49, 40, 17), (70, 33, 5)] {
        let case = Case::new(format!("squeeze {rows}x{cols}x{hidden}"), rows, cols)
            .weight("se.fc1.weight", &[hidden, cols, 1, 1])
            .weight("se.fc1.bias", &[hidden])
            .weight("se.fc2.weight", &[cols, hidden, 1, 1])
            .weight("se.fc2.bias", &[cols]);
        cases.push(case.op(|b, x| b.squeeze_excite(x, "se", Activation::Gelu).expect("case")));
        let case = |what: &str| Case::new(format!("{what} {rows}x{cols}"), rows, cols);
        cases.push(case("mean pool").op(|b, x| b.mean_pool(x)));
        cases.push(case("add").op(|b, x| b.add(x, x).expect("case")));
        cases.push(case("last row").bound(&[rows]).op(|b, x| b.take_last_row(x)));
    }
    cases
}

fn embed() -> OpCase {
    let weights = Arc::new(RandomWeights::new(&[("table", &[50, 19])]));
    let mut b = PlanBuilder::new("embed", &*weights, 4);
    let ids = b.input("ids", Rows::Bound, 1, Element::U32);
    let y = b.embed(ids, "table", Element::F32).expect("case");
    b.output("y", y);
    let plan = b.finish();
    let ids = vec![0, 49, 7, 7];
    OpCase { name: "embed".into(), plan, weights, x: vec![], ids, runs: vec![4], cache: None }
}

fn positions() -> Vec<OpCase> {
    let mut cases = Vec::new();
    for (rows, cols) in [(1, 1), (5, 17), (16, 48)] {
        let case = |what: &str, table: usize| {
            Case::new(format!("positions {what} {rows}x{cols}"), rows, cols)
                .weight("first", &[cols])
                .weight("table", &[table, cols])
        };
        cases.push(case("plain", rows).op(|b, x| b.add_positions(x, None, "table").expect("case")));
        let class = case("class", rows + 1);
        cases.push(class.op(|b, x| b.add_positions(x, Some("first"), "table").expect("case")));
        let without = case("class without", rows);
        cases.push(without.op(|b, x| b.add_positions(x, Some("first"), "table").expect("case")));
    }
    cases
}
