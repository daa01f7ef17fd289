//! Where each activation tensor lies in one block of memory.

use crate::plan::{DType, Plan, TensorId};

/// Every tensor starts at a multiple of this: a cache line.
const ALIGNMENT: usize = 64;

/// Byte offsets of a plan's tensors in one arena.
#[derive(Debug, Clone)]
pub struct ArenaLayout {
    /// Offset of each tensor, indexed as [`Plan::tensors`].
    pub offsets: Vec<usize>,
    /// Bytes of the whole arena.
    pub bytes: usize,
}

/// The ops between which a tensor's memory is in use, both included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime {
    first: usize,
    last: usize,
}

impl Lifetime {
    pub(crate) fn overlaps(self, other: Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Lay out a plan's tensors so that no two that are alive at the same time share a byte.
///
/// Tensors are placed from the largest to the smallest, each at the lowest offset that is free
/// for its whole life. For chains such as these networks that is at or near the optimum.
pub fn plan_arena(plan: &Plan, dtype: DType) -> ArenaLayout {
    let lifetimes = lifetimes(plan);
    let sizes: Vec<usize> = (0..plan.tensors.len())
        .map(|i| plan.tensor_bytes(TensorId(i as u32), dtype).next_multiple_of(ALIGNMENT))
        .collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));

    let mut offsets = vec![0; sizes.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut bytes = 0;
    for i in order {
        let mut busy: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| lifetimes[i].overlaps(lifetimes[j]))
            .map(|&j| (offsets[j], offsets[j] + sizes[j]))
            .collect();
        busy.sort_unstable();
        offsets[i] = lowest_gap(&busy, sizes[i]);
        bytes = bytes.max(offsets[i] + sizes[i]);
        placed.push(i);
    }
    ArenaLayout { offsets, bytes }
}

fn lowest_gap(busy: &[(usize, usize)], size: usize) -> usize {
    let mut at = 0;
    for &(start, end) in busy {
        if start >= at + size {
            break;
        }
        at = at.max(end);
    }
    at
}

pub(crate) fn lifetimes(plan: &Plan) -> Vec<Lifetime> {
    let end = plan.ops.len();
    let mut lives: Vec<Option<Lifetime>> = vec![None; plan.tensors.len()];
    for (at, op) in plan.ops.iter().enumerate() {
        for id in op.reads().into_iter().chain([op.writes()]) {
            lives[id.index()].get_or_insert(Lifetime { first: at, last: at }).last = at;
        }
    }
    plan.tensors
        .iter()
        .zip(lives)
        .map(|(tensor, life)| {
            let mut life = life.unwrap_or(Lifetime { first: 0, last: end });
            if tensor.is_input {
                life.first = 0;
            }
            if tensor.is_output {
                life.last = end;
            }
            life
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Add, Element, Op, Rows, TensorDecl};

    fn tensor(rows: usize, is_input: bool, is_output: bool) -> TensorDecl {
        let element = Element::Activation;
        TensorDecl { name: String::new(), rows: Rows::Fixed(rows), cols: 16, element, is_input, is_output }
    }

    /// A chain `t0 -> t1 -> … ` where every op also reads its input twice.
    pub(crate) fn chain(rows: &[usize]) -> Plan {
        let last = rows.len() - 1;
        let tensors = rows.iter().enumerate().map(|(i, &r)| tensor(r, i == 0, i == last)).collect();
        let id = |i: usize| TensorId(i as u32);
        let ops = (0..last).map(|i| Op::Add(Add { a: id(i), b: id(i), out: id(i + 1) })).collect();
        Plan { name: "chain".into(), tensors, weights: vec![], ops, max_rows: 1 }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let plan = chain(&[10, 10, 10, 10, 10, 10]);
        assert_eq!(plan_arena(&plan, DType::F32).bytes, 2 * 10 * 16 * 4);
    }

    #[test]
    fn live_tensors_never_overlap() {
        let plan = chain(&[7, 100, 3, 50, 50, 1, 80]);
        for dtype in [DType::F32, DType::Bf16] {
            let layout = plan_arena(&plan, dtype);
            let lives = lifetimes(&plan);
            let size = |i: usize| plan.tensor_bytes(TensorId(i as u32), dtype);
            for i in 0..plan.tensors.len() {
                assert_eq!(layout.offsets[i] % ALIGNMENT, 0);
                assert!(layout.offsets[i] + size(i) <= layout.bytes);
                for j in 0..i {
                    let (a, b) = (layout.offsets[i], layout.offsets[j]);
                    let apart = a + size(i) <= b || b + size(j) <= a;
                    assert!(apart || !lives[i].overlaps(lives[j]), "{i} and {j} share memory");
                }
            }
        }
    }

    #[test]
    fn an_output_is_kept_to_the_end() {
        let mut plan = chain(&[10, 10, 10, 10]);
        plan.tensors[1].is_output = true;
        assert_eq!(plan_arena(&plan, DType::F32).bytes, 3 * 10 * 16 * 4);
    }
}
