//! Every shader in every spelling, without a device: it is valid, and its uniforms are laid out as the host writes
//! them.

use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

fn parsed(source: &str) -> naga::Module {
    naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}\n{source}", e.emit_to_string(source)))
}

#[test]
fn shaders_are_valid() {
    for (name, source) in ocelli_gpu::shader_sources() {
        let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP;
        let mut validator = Validator::new(ValidationFlags::all(), capabilities);
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        if let Err(error) = validator.validate(&parsed(&source)) {
            panic!("{name}: {}", error.emit_to_string(&source));
        }
    }
}

#[test]
fn uniforms_lie_where_the_host_writes_them() {
    let layouts = ocelli_gpu::uniform_layouts();
    let mut seen = std::collections::BTreeSet::new();
    for (name, source) in ocelli_gpu::shader_sources() {
        let module = parsed(&source);
        let (_, params) = module
            .global_variables
            .iter()
            .find(|(_, variable)| variable.space == naga::AddressSpace::Uniform)
            .unwrap_or_else(|| panic!("{name} has no uniforms"));
        let kind = &module.types[params.ty];
        let struct_name = kind.name.clone().expect("a struct");
        let naga::TypeInner::Struct { members, .. } = &kind.inner else { panic!("{name}: no struct") };
        let fields: Vec<(&str, usize)> =
            members.iter().map(|m| (m.name.as_deref().unwrap_or_default(), m.offset as usize)).collect();
        let host = layouts.iter().find(|(name, _)| *name == struct_name).expect("a struct of the host");
        assert_eq!(fields, host.1, "{name}: {struct_name}");
        seen.insert(struct_name);
    }
    assert_eq!(seen.len(), layouts.len(), "structs without a shader");
}

/// No more buffers than any WebGPU device binds to a shader.
#[test]
fn shaders_bind_at_most_eight_storage_buffers() {
    for (name, source) in ocelli_gpu::shader_sources() {
        let storage = parsed(&source)
            .global_variables
            .iter()
            .filter(|(_, variable)| matches!(variable.space, naga::AddressSpace::Storage { .. }))
            .count();
        assert!(storage <= 8, "{name}: {storage}");
    }
}
