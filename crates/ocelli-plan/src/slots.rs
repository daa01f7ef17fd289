//! Which tensors of a plan take turns in the same buffer, for devices whose buffers are separate things.

use crate::arena::lifetimes;
use crate::plan::Plan;

/// One buffer for each group of tensors that are never alive at the same time.
#[derive(Debug, Clone)]
pub struct SlotLayout {
    /// The buffer of each tensor, indexed as [`Plan::tensors`].
    pub slots: Vec<usize>,
    /// Bytes of each buffer.
    pub bytes: Vec<usize>,
}

/// Put a plan's tensors, whose sizes in bytes are given, into as few buffers as the order allows. An op's inputs and
/// its output are in different ones, but for ops that write what they read.
///
/// Tensors are placed from the largest to the smallest, so a buffer is as large as its first tensor.
pub fn plan_slots(plan: &Plan, sizes: &[usize]) -> SlotLayout {
    let lives = lifetimes(plan);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&tensor| std::cmp::Reverse(sizes[tensor]));
    let mut members: Vec<Vec<usize>> = Vec::new();
    let mut layout = SlotLayout { slots: vec![0; sizes.len()], bytes: Vec::new() };
    for tensor in order {
        let free = |members: &Vec<usize>| members.iter().all(|&other| !lives[tensor].overlaps(lives[other]));
        let slot = members.iter().position(free).unwrap_or_else(|| {
            members.push(Vec::new());
            layout.bytes.push(sizes[tensor]);
            members.len() - 1
        });
        members[slot].push(tensor);
        layout.slots[tensor] = slot;
    }
    layout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::tests::chain;
    use crate::plan::{DType, TensorId};

    fn sizes(plan: &Plan) -> Vec<usize> {
        (0..plan.tensors.len()).map(|i| plan.tensor_bytes(TensorId(i as u32), DType::F32)).collect()
    }

    #[test]
    fn a_chain_of_equal_tensors_takes_two_buffers() {
        let plan = chain(&[10, 10, 10, 10, 10]);
        assert_eq!(plan_slots(&plan, &sizes(&plan)).bytes, [10 * 16 * 4; 2]);
    }

    #[test]
    fn no_two_living_tensors_share_a_buffer() {
        let plan = chain(&[7, 100, 3, 50, 50, 1, 80]);
        let sizes = sizes(&plan);
        let layout = plan_slots(&plan, &sizes);
        assert!(layout.bytes.len() <= 3, "{:?}", layout.bytes);
        let lives = lifetimes(&plan);
        for i in 0..sizes.len() {
            assert!(sizes[i] <= layout.bytes[layout.slots[i]]);
            for j in 0..i {
                assert!(layout.slots[i] != layout.slots[j] || !lives[i].overlaps(lives[j]), "{i} and {j}");
            }
        }
    }
}
