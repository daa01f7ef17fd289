//! Chains of pieces that are computed twice, to save memory: of the first time only the inputs of the pieces are kept,
//! and each piece is computed anew when its gradients are wanted (arXiv 1604.06174).
//!
//! BatchNorms take the statistics of the batch both times, and add them to those that they run up the second time alone.

use burn::module::Module;
use burn::tensor::{Gradients, Tensor};

use crate::TrainError;

/// A piece of a chain: one tensor from another of as many dimensions.
pub(crate) trait Piece<const D: usize> {
    /// Forward in burn's graph.
    fn forward(&self, x: Tensor<D>) -> Tensor<D>;

    /// The same of a tensor without gradient, keeping and changing nothing.
    fn forward_aside(&self, x: Tensor<D>) -> Tensor<D>;
}

/// Gets the gradients of one piece.
pub(crate) type Take<'a> = dyn FnMut(&Gradients) -> Result<(), TrainError> + 'a;

struct OfModule<'a, M, F> {
    module: &'a M,
    run: F,
}

/// What `run` does with a module.
pub(crate) fn piece<'a, M: Module, const D: usize>(
    module: &'a M,
    run: impl Fn(&M, Tensor<D>) -> Tensor<D> + 'a,
) -> Box<dyn Piece<D> + 'a> {
    Box::new(OfModule { module, run })
}

impl<M: Module, F: Fn(&M, Tensor<D>) -> Tensor<D>, const D: usize> Piece<D> for OfModule<'_, M, F> {
    fn forward(&self, x: Tensor<D>) -> Tensor<D> {
        (self.run)(self.module, x)
    }

    fn forward_aside(&self, x: Tensor<D>) -> Tensor<D> {
        // The way there and back gives BatchNorms running statistics of their own; they stay in training mode.
        let aside = self.module.valid().train().no_grad();
        (self.run)(&aside, x)
    }
}

/// The result of a chain, without gradient, and the inputs of its pieces.
pub(crate) fn forward<const D: usize>(
    pieces: &[Box<dyn Piece<D> + '_>],
    x: Tensor<D>,
) -> (Tensor<D>, Vec<Tensor<D>>) {
    let mut x = x.detach();
    let mut inputs = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let y = piece.forward_aside(x.clone());
        inputs.push(std::mem::replace(&mut x, y));
    }
    (x, inputs)
}

/// The backward pass of a chain with these inputs, from the last piece on, given the slope of a loss along its result.
/// `take` gets the gradients piece by piece. Returns the slope along the input of the chain if it is `wanted`.
pub(crate) fn backward<const D: usize>(
    pieces: &[Box<dyn Piece<D> + '_>],
    inputs: Vec<Tensor<D>>,
    mut slope: Tensor<D>,
    wanted: bool,
    take: &mut Take,
) -> Result<Option<Tensor<D>>, TrainError> {
    for (i, (piece, x)) in pieces.iter().zip(inputs).enumerate().rev() {
        let x = if i > 0 || wanted { x.require_grad() } else { x };
        let y = piece.forward(x.clone());
        let gradients = (y * slope.autodiff()).sum().backward();
        take(&gradients)?;
        match x.grad(&gradients) {
            Some(along_x) => slope = along_x,
            None => return Ok(None),
        }
    }
    Ok(Some(slope))
}
