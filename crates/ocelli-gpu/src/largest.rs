//! Which value of a row is the largest, found on the device: one number comes back in place of the row.

use std::sync::Arc;

use ocelli_plan::TensorId;

use crate::device::GpuDevice;
use crate::pipeline::{Access, LARGEST, Pipeline, Prelude, Scalar};
use crate::uniforms::{self, UNIFORM_STRIDE};

/// Invocations of a workgroup.
const WORKGROUP: u32 = 64;
/// Workgroups of the first launch at most.
const MOST_GROUPS: u32 = 256;
/// Bytes of a key and an index.
const FIND_BYTES: u64 = 8;

/// What finds the largest value of one tensor.
pub(crate) struct Largest {
    pub(crate) of: TensorId,
    launches: [(Arc<Pipeline>, wgpu::BindGroup, u32); 2],
    found: wgpu::Buffer,
}

/// Those of both launches.
pub(crate) fn pipelines(device: &GpuDevice, scalar: Scalar) -> [Arc<Pipeline>; 2] {
    let access = [Access::Read, Access::Read, Access::Write];
    [false, true].map(|found| {
        let prelude = Prelude::default().scalar("x", scalar).flag("FOUND", found);
        device.pipeline("largest", &prelude, &[LARGEST], &access)
    })
}

impl Largest {
    /// For the `count` values of a tensor that lies in `values`.
    pub(crate) fn new(
        device: &GpuDevice,
        of: TensorId,
        values: &wgpu::Buffer,
        count: u32,
        scalar: Scalar,
    ) -> Self {
        let opened = device.opened();
        let groups = count.div_ceil(WORKGROUP).clamp(1, MOST_GROUPS);
        let uniforms = opened.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: 2 * UNIFORM_STRIDE as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        for (at, (count, groups)) in [(count, groups), (groups, 1)].into_iter().enumerate() {
            let launch = uniforms::Largest { count, step: WORKGROUP * groups };
            let offset = (at * UNIFORM_STRIDE) as u64;
            opened.queue.write_buffer(&uniforms, offset, bytemuck::bytes_of(&launch));
        }
        let shares = device.storage("largest of each workgroup", u64::from(groups) * FIND_BYTES);
        let found = device.storage("largest", FIND_BYTES);
        let group = |pipeline: &Pipeline, at: usize, buffers: [&wgpu::Buffer; 3]| {
            let uniforms = wgpu::BufferBinding {
                buffer: &uniforms,
                offset: (at * UNIFORM_STRIDE) as u64,
                size: std::num::NonZeroU64::new(UNIFORM_STRIDE as u64),
            };
            let bound = buffers.map(wgpu::Buffer::as_entire_binding);
            let resources = [wgpu::BindingResource::Buffer(uniforms)].into_iter().chain(bound);
            let entries = resources.enumerate();
            let entries: Vec<_> =
                entries.map(|(at, resource)| wgpu::BindGroupEntry { binding: at as u32, resource }).collect();
            opened.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            })
        };
        let [first, last] = pipelines(device, scalar);
        let of_values = group(&first, 0, [values, &opened.nothing, &shares]);
        let of_shares = group(&last, 1, [&opened.nothing, &shares, &found]);
        Self { of, launches: [(first, of_values, groups), (last, of_shares, 1)], found }
    }

    /// Find it, and copy its index to the beginning of `to`.
    pub(crate) fn encode(&self, encoder: &mut wgpu::CommandEncoder, to: &wgpu::Buffer) {
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (pipeline, group, groups) in &self.launches {
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, group, &[0]);
                pass.dispatch_workgroups(*groups, 1, 1);
            }
        }
        encoder.copy_buffer_to_buffer(&self.found, FIND_BYTES / 2, to, 0, FIND_BYTES / 2);
    }
}
