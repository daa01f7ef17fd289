//! Op cases over every width from 1 to twice the vector width and beyond: odd channel counts, rows that begin
//! at no multiple of a vector, maps smaller than the filter. The other cases
//! go through the sizes of tiles and blocks.

use ocelli_plan::{Activation, AttentionShape, FeatureMap, MlpWeights};

use crate::op_cases::{Case, OpCase};

/// Twice the vector width, and one more.
const WIDTHS: std::ops::RangeInclusive<usize> = 1..=33;

/// One case of each op that works along channels, for each width.
pub(crate) fn edge_op_cases() -> Vec<OpCase> {
    let mut cases = Vec::new();
    for n in WIDTHS {
        cases.extend(maps(n));
        cases.extend(rows_of(n));
        cases.extend(heads_of(n));
    }
    cases
}

/// Convolutions and poolings over maps of `n` channels; the size of the map goes along.
fn maps(n: usize) -> Vec<OpCase> {
    let mut cases = Vec::new();
    let (h, w) = (n % 5 + 1, 34 - n);
    let kernel = [3, 5, 7][n % 3];
    for (stride, multiplier) in [(1, 1), (2, 1), (2, 2)] {
        let out = n * multiplier;
        let name = format!("depthwise {kernel}x{kernel}/{stride} {h}x{w}x{n}->{out}");
        let case = Case::new(name, h * w, n).weight("w.weight", &[out, 1, kernel, kernel]);
        cases.push(case.op(|b, x| {
            let map = FeatureMap { tensor: x, height: h, width: w };
            b.depthwise(map, "w", stride, Activation::None).expect("case").tensor
        }));
    }
    let out = 34 - n;
    let (kernel, stride) = ([1, 2, 3][n % 3], n % 2 + 1);
    let name = format!("conv {kernel}x{kernel}/{stride} {h}x{w}x{n}->{out}");
    let case = Case::new(name, h * w, n).weight("w.weight", &[out, n, kernel, kernel]);
    cases.push(case.op(|b, x| {
        let map = FeatureMap { tensor: x, height: h, width: w };
        b.conv(map, "w", stride, 1, Activation::Silu).expect("case").tensor
    }));
    cases.push(Case::new(format!("mean pool {w}x{n}"), w, n).op(|b, x| b.mean_pool(x)));
    let case = Case::new(format!("squeeze {w}x{n}"), w, n)
        .weight("se.fc1.weight", &[out, n, 1, 1])
        .weight("se.fc1.bias", &[out])
        .weight("se.fc2.weight", &[n, out, 1, 1])
        .weight("se.fc2.bias", &[n]);
    cases.push(case.op(|b, x| b.squeeze_excite(x, "se", Activation::Gelu).expect("case")));
    cases
}

/// What goes through rows of `n` values one after the other.
fn rows_of(n: usize) -> Vec<OpCase> {
    let rows = 34 - n;
    let case = |what: &str| Case::new(format!("{what} {rows}x{n}"), rows, n);
    let names = MlpWeights { fc1: "a".into(), fc2: "b".into(), scale: None };
    let hidden = 2 * n + 1;
    let mlp = case("mlp")
        .weight("a.weight", &[hidden, n])
        .weight("a.bias", &[hidden])
        .weight("b.weight", &[n, hidden])
        .weight("b.bias", &[n]);
    let positions = case("positions").weight("table", &[rows, n]);
    vec![
        case("add").op(|b, x| b.add(x, x).expect("case")),
        case("last row").bound(&[1, rows]).op(|b, x| b.take_last_row(x)),
        mlp.op(|b, x| b.mlp(x, &names, Activation::QuickGelu, None).expect("case")),
        positions.op(|b, x| b.add_positions(x, None, "table").expect("case")),
    ]
}

/// Attention with heads of `n` values, and against a cache, where heads are even, with heads of `2 n`.
fn heads_of(n: usize) -> Vec<OpCase> {
    let rows = 34 - n;
    let block = Case::new(format!("attention {rows} rows 3x{n}"), rows, 9 * n);
    let shape = AttentionShape { heads: 3, kv_heads: 1, head_dim: 2 * n };
    let runs = [n, 1, 2];
    let name = format!("cached attention 3/1x{} runs {runs:?}", 2 * n);
    let mut cached = Case::new(name, 34, 10 * n).bound(&runs);
    cached.cache = Some((1, 1, 2 * n));
    vec![
        block.op(|b, x| b.attention(x, 3, n.is_multiple_of(2)).expect("case")),
        cached.op(|b, x| b.cached_attention(x, shape, 10_000.0, 0).expect("case")),
    ]
}
