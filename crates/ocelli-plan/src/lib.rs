//! Shapes, the closed set of ops, the plan builder and the arena planner.
//!
//! A network is written once as a list of ops over tensor ids; devices run that list.
//! This crate never knows files, threads, instruction sets, shaders or checkpoint names.

#![forbid(unsafe_code)]

mod arena;
mod builder;
mod cost;
mod op;
mod plan;
mod run_error;
mod slots;
mod weights;

pub use arena::{ArenaLayout, plan_arena};
pub use builder::{AttentionShape, FeatureMap, MlpWeights, PlanBuilder, PlanError};
pub use cost::OpCost;
pub use op::{
    Activation, Add, AddPositions, Attention, CachedAttention, Conv, DepthwiseConv, Embed, GatedLinear,
    LayerNorm, Linear, MeanPool, Mlp, Op, RmsNorm, Rope, SqueezeExcite, TakeLastRow,
};
pub use plan::{DType, Element, Plan, Rows, TensorDecl, TensorId, WeightDecl, WeightId, WeightLayout};
pub use run_error::RunError;
pub use slots::{SlotLayout, plan_slots};
pub use weights::{BlockFormat, WeightError, WeightSource};
