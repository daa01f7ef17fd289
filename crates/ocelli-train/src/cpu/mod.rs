//! Differentiable operations in our own loops, for the CPU.
//!
//! burn's CPU backend runs the backward pass of a grouped convolution a group at a time and most element-wise work in
//! several passes over memory. An operation here is a [`CpuOp`]: plain slices of f32 in, one tensor out, and the
//! gradients of its inputs. [`apply`] puts it into burn's graph. Other devices run burn's own operations instead;
//! [`runs_here`] tells which is the case.
//!
//! Sums over rows are taken over pieces whose number does not depend on the threads, so a run repeats to the last bit.

pub(crate) mod attention;
pub(crate) mod batch_norm;
pub(crate) mod cross_entropy;
pub(crate) mod depthwise;
pub(crate) mod gelu;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod patches;
pub(crate) mod pointwise;
pub(crate) mod rotary;
pub(crate) mod rows;
pub(crate) mod simd;

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex,
    GradientCheckpointingStrategy,
};
use burn::tensor::{DType, Tensor, TensorData};

/// A tensor of burn's graph.
type Tracked = FloatTensor<Autodiff<Flex>>;

/// An f32 tensor in row-major order without gaps.
#[derive(Debug, Clone)]
pub(crate) struct Array(FlexTensor);

impl Array {
    fn new(tensor: FlexTensor) -> Self {
        Self(if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() })
    }

    /// Of values in row-major order.
    pub(crate) fn of(values: Vec<f32>, shape: &[usize]) -> Self {
        Self(FlexTensor::from_data(TensorData::new(values, shape.to_vec())))
    }

    /// The values.
    ///
    /// # Panics
    /// If the tensor is not of f32, which [`runs_here`] has ruled out.
    pub(crate) fn values(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("an f32 tensor without gaps")
    }

    /// The sizes of its dimensions.
    pub(crate) fn shape(&self) -> &[usize] {
        self.0.layout().shape().as_slice()
    }

    /// Size of the last dimension.
    pub(crate) fn columns(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }
}

/// A differentiable operation of `N` inputs.
pub(crate) trait CpuOp<const N: usize>: Clone + Debug + Send + Sync + 'static {
    /// What the backward pass needs beside the inputs.
    type Saved: Clone + Debug + Send + Sync + 'static;

    /// Values and shape of the result, and what to keep.
    fn forward(&self, inputs: &[Array; N]) -> (Vec<f32>, Vec<usize>, Self::Saved);

    /// Gradients of those inputs that are `wanted`, each in the shape of its input.
    fn backward(
        &self,
        inputs: &[Array; N],
        saved: &Self::Saved,
        grad: &[f32],
        wanted: [bool; N],
    ) -> [Option<Vec<f32>>; N];
}

/// Whether a tensor is on the CPU and of f32, so that the operations of this module apply.
pub(crate) fn runs_here<const D: usize>(tensor: &Tensor<D>) -> bool {
    let tensor = tensor.clone().into_dispatch();
    let kind = match &tensor.kind {
        DispatchTensorKind::Autodiff(inner) => inner,
        kind => kind,
    };
    #[allow(unreachable_patterns, reason = "there are other devices with other features")]
    match kind {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => tensor.dtype() == DType::F32,
        DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => tensor.primitive().dtype() == DType::F32,
        _ => false,
    }
}

/// Run an operation; its gradient is taken if any input's is.
///
/// Returns the result and what the forward pass has kept.
pub(crate) fn apply<O: CpuOp<N>, const N: usize, const D: usize>(
    op: O,
    inputs: [DispatchTensor; N],
) -> (Tensor<D>, O::Saved) {
    let context =
        inputs.iter().fold(DispatchAutodiffContext::Disabled, |all, input| all.merge(input.autodiff));
    let inputs = inputs.map(primitive);
    let DispatchAutodiffContext::Enabled(strategy) = context else {
        let inputs = inputs.map(|input| Array::new(input.into_primitive()));
        let (values, shape, saved) = op.forward(&inputs);
        return (from_flex(BackendTensor::Float(Array::of(values, &shape).0), context), saved);
    };
    let (output, saved) = match strategy {
        GradientCheckpointingStrategy::Disabled => tracked::<O, NoCheckpointing, N>(op, inputs),
        GradientCheckpointingStrategy::Balanced => tracked::<O, BalancedCheckpointing, N>(op, inputs),
    };
    (from_flex(BackendTensor::Autodiff(output), context), saved)
}

/// The primitive of a tensor for which [`runs_here`] holds; one without autodiff becomes a constant.
fn primitive(tensor: DispatchTensor) -> Tracked {
    let kind = match tensor.kind {
        DispatchTensorKind::Autodiff(inner) => *inner,
        kind => kind,
    };
    #[allow(unreachable_patterns, reason = "there are other devices with other features")]
    match kind {
        DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => tensor,
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Tracked::new(tensor),
        _ => panic!("an operation for the CPU was called with a tensor of another device"),
    }
}

fn from_flex<const D: usize>(tensor: BackendTensor<Flex>, context: DispatchAutodiffContext) -> Tensor<D> {
    let flex = DispatchTensorKind::Flex(tensor);
    let kind = match context {
        DispatchAutodiffContext::Disabled => flex,
        DispatchAutodiffContext::Enabled(_) => DispatchTensorKind::Autodiff(Box::new(flex)),
    };
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: context })
}

/// The step of the backward pass.
#[derive(Debug)]
struct Step<O, const N: usize>(std::marker::PhantomData<O>);

/// What a step keeps.
#[derive(Debug, Clone)]
struct State<O: CpuOp<N>, const N: usize> {
    op: O,
    inputs: [Array; N],
    saved: O::Saved,
}

impl<O: CpuOp<N>, const N: usize> Backward<Flex, N> for Step<O, N> {
    type State = State<O, N>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = Array::new(grads.consume::<Flex>(&ops.node));
        let State { op, inputs, saved } = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = op.backward(&inputs, &saved, grad.values(), wanted);
        for ((parent, input), values) in ops.parents.into_iter().zip(&inputs).zip(found) {
            if let (Some(parent), Some(values)) = (parent, values) {
                grads.register::<Flex>(parent.id, Array::of(values, input.shape()).0);
            }
        }
    }
}

fn tracked<O: CpuOp<N>, C: CheckpointStrategy, const N: usize>(
    op: O,
    inputs: [Tracked; N],
) -> (Tracked, O::Saved) {
    let guards = inputs.each_ref().map(Tracked::node);
    let arrays = inputs.map(|input| Array::new(input.into_primitive()));
    let (values, shape, saved) = op.forward(&arrays);
    let output = Array::of(values, &shape).0;
    let step = Step::<O, N>(std::marker::PhantomData);
    let output = match step.prepare::<C>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            prepared.finish(State { op, inputs: arrays, saved: saved.clone() }, output)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    (output, saved)
}
