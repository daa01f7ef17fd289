//! One walk over the tensors of a network, by their names in a checkpoint: for reading, writing and counting.

use burn::module::{Param, RunningState};
use burn::tensor::{Gradients, Tensor, TensorData};
use ocelli_weights::Naming;
use ocelli_weights::names::{Row, Style};

use crate::TrainError;
use crate::checkpoint::module;

/// How a checkpoint stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In the network's shape.
    AsIs,
    /// `[channels]` as `[channels, 1, 1]`.
    PerChannel,
    /// A matrix as its transpose.
    Transposed,
    /// With so many dimensions of length 1 before its own.
    After(usize),
    /// A single value as a tensor without dimensions.
    Scalar,
}

impl Form {
    /// The stored shape of a tensor.
    pub fn stored(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::AsIs => shape.to_vec(),
            Self::PerChannel => [shape, &[1, 1]].concat(),
            Self::Transposed => shape.iter().rev().copied().collect(),
            Self::After(ones) => [&vec![1; ones], shape].concat(),
            Self::Scalar => Vec::new(),
        }
    }

    /// From the network's values to the stored ones.
    pub fn store(self, shape: &[usize], values: Vec<f32>) -> Vec<f32> {
        match (self, shape) {
            (Self::Transposed, &[rows, columns]) => transposed(&values, rows, columns),
            _ => values,
        }
    }

    /// From the stored values to the network's, which are of this shape.
    pub fn restore(self, shape: &[usize], values: Vec<f32>) -> Vec<f32> {
        match (self, shape) {
            (Self::Transposed, &[rows, columns]) => transposed(&values, columns, rows),
            _ => values,
        }
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// A tensor of a network whose values can be read and replaced.
pub trait Parameter {
    /// Its sizes.
    fn sizes(&self) -> Vec<usize>;
    /// Its values.
    fn values(&self) -> Vec<f32>;
    /// Replace its values, as many as it has.
    fn set(&mut self, values: Vec<f32>);
    /// Its gradient; none of a buffer, or where no gradient came.
    fn gradient(&self, gradients: &Gradients) -> Option<Vec<f32>>;
}

fn values_of<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().expect("converted to f32")
}

impl<const D: usize> Parameter for Param<Tensor<D>> {
    fn sizes(&self) -> Vec<usize> {
        self.val().dims().to_vec()
    }

    fn values(&self) -> Vec<f32> {
        values_of(self.val())
    }

    fn set(&mut self, values: Vec<f32>) {
        *self = self.clone().map(|old| {
            let grad = old.is_require_grad();
            let data = TensorData::new(values, old.dims());
            Tensor::from_data(data, (&old.device(), old.dtype())).set_require_grad(grad)
        });
    }

    fn gradient(&self, gradients: &Gradients) -> Option<Vec<f32>> {
        self.val().grad(gradients).map(values_of)
    }
}

impl Parameter for RunningState<Tensor<1>> {
    fn sizes(&self) -> Vec<usize> {
        self.value().dims().to_vec()
    }

    fn values(&self) -> Vec<f32> {
        values_of(self.value_sync())
    }

    fn set(&mut self, values: Vec<f32>) {
        let old = self.value();
        let data = TensorData::new(values, old.dims());
        *self = Self::new(Tensor::from_data(data, (&old.device(), old.dtype())));
    }

    fn gradient(&self, _: &Gradients) -> Option<Vec<f32>> {
        None
    }
}

/// What is done with every tensor.
pub trait Exchange {
    /// The names of the checkpoint.
    fn naming(&self) -> &Naming;

    /// The style of the checkpoint's names.
    fn style(&self) -> Style {
        self.naming().style()
    }

    /// The name of one of our modules in the checkpoint, and its row of the tables.
    ///
    /// # Errors
    /// When the family has no such module.
    fn module(&self, ours: &str) -> Result<(String, &'static Row), TrainError> {
        module(self.naming(), ours)
    }

    /// A tensor by its name in the checkpoint.
    ///
    /// # Errors
    /// When it is missing or misshapen.
    fn tensor(&mut self, name: &str, form: Form, parameter: &mut dyn Parameter) -> Result<(), TrainError>;
}

/// A network or a part of it.
pub trait Named {
    /// Hands over every tensor. `name` is the checkpoint's for a layer, ours for a network.
    ///
    /// # Errors
    /// Those of the exchange.
    fn exchange(&mut self, name: &str, with: &mut dyn Exchange) -> Result<(), TrainError>;
}
