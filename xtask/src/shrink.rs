//! Makes a module smaller once it is gzipped, without changing what it does.
//!
//! gzip finds what repeats within the last 32 KiB. Compiled functions are alike in families (one generic function for
//! several types, say), and the linker leaves the members far apart: so functions are laid one after another by how much
//! of their code they share, and of equal ones only the first stays. Names of imports end in a hash, which does not
//! compress: they get short ones.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{CodeSection, FunctionSection, ImportSection, Module};
use wasmparser::{
    CodeSectionReader, FunctionBody, FunctionSectionReader, Import, ImportSectionReader, Parser, Payload,
    TypeRef,
};

/// Of two functions is compared what runs of so many bytes they have.
const RUN: usize = 5;
/// Runs that more functions have say nothing about them.
const COMMON: usize = 500;

/// The module and its JavaScript, smaller.
pub struct Shrunk {
    pub module: Vec<u8>,
    pub javascript: String,
}

/// Shrink a module and the JavaScript that goes with it.
pub fn shrink(module: &[u8], javascript: &str) -> Result<Shrunk> {
    let read = Read::new(module)?;
    let mut names = HashMap::new();
    let mut javascript = without_comments(javascript)?;
    for (number, name) in read.hashed_imports.iter().enumerate() {
        let short = format!("i{number}");
        let property = format!("{name}:");
        ensure!(javascript.matches(&property).count() == 1, "{name} is not one property of the imports");
        javascript = javascript.replace(&property, &format!("{short}:"));
        names.insert(name.clone(), short);
    }
    let first = read.first_equals();
    let different: Vec<usize> = (0..first.len()).filter(|&function| first[function] == function).collect();
    let bodies: Vec<&[u8]> = different.iter().map(|&function| read.bodies[function]).collect();
    let order: Vec<usize> = by_likeness(&bodies).into_iter().map(|at| different[at]).collect();
    let mut places = vec![0; first.len()];
    order.iter().enumerate().for_each(|(place, &function)| places[function] = place);
    let places = first.iter().map(|&function| places[function]).collect();
    let mut rewriter = Rewriter { imported: read.imported, order, places, names };
    let mut written = Module::new();
    let done = rewriter.parse_core_module(&mut written, Parser::new(0), module);
    done.map_err(|error| anyhow::anyhow!("{error}")).context("rewriting the module")?;
    Ok(Shrunk { module: written.finish(), javascript })
}

/// What the order is found from.
struct Read<'a> {
    /// Number of imported functions, which are numbered first.
    imported: u32,
    hashed_imports: Vec<String>,
    types: Vec<u32>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Read<'a> {
    fn new(module: &'a [u8]) -> Result<Self> {
        let mut read =
            Self { imported: 0, hashed_imports: Vec::new(), types: Vec::new(), bodies: Vec::new() };
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let Import { name, ty, .. } = import?;
                        read.imported += u32::from(matches!(ty, TypeRef::Func(_)));
                        if name.starts_with("__wb") {
                            read.hashed_imports.push(name.to_owned());
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    read.types = section.into_iter().collect::<Result<_, _>>()?;
                }
                Payload::CodeSectionEntry(body) => read.bodies.push(body.as_bytes()),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Of each function the first that is of its type and has its code.
    fn first_equals(&self) -> Vec<usize> {
        let mut first = HashMap::new();
        let functions = self.types.iter().zip(&self.bodies).enumerate();
        functions.map(|(function, code)| *first.entry(code).or_insert(function)).collect()
    }
}

/// Take out comments that have lines of their own, and indents.
fn without_comments(javascript: &str) -> Result<String> {
    let mut inside = false;
    let mut kept = String::with_capacity(javascript.len());
    for line in javascript.lines().map(str::trim) {
        inside |= line.starts_with("/*");
        if !inside && !line.is_empty() && !line.starts_with("//") {
            ensure!(line.matches('`').count().is_multiple_of(2), "a text of several lines: {line}");
            kept.push_str(line);
            kept.push('\n');
        }
        inside &= !line.ends_with("*/");
    }
    Ok(kept)
}

/// An order of functions in which each is followed by the one that is most like it, of those that are left.
fn by_likeness(bodies: &[&[u8]]) -> Vec<usize> {
    let runs: Vec<Vec<&[u8]>> = bodies.iter().map(|body| runs(body)).collect();
    let mut having: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (function, runs) in runs.iter().enumerate() {
        runs.iter().for_each(|&run| having.entry(run).or_default().push(function));
    }
    let mut longest_first: Vec<usize> = (0..bodies.len()).collect();
    longest_first.sort_by_key(|&function| std::cmp::Reverse(bodies[function].len()));
    let mut longest_first = longest_first.into_iter();
    let (mut taken, mut shared) = (vec![false; bodies.len()], vec![0_u32; bodies.len()]);
    let mut order = Vec::with_capacity(bodies.len());
    let mut next = longest_first.next();
    while let Some(function) = next {
        taken[function] = true;
        order.push(function);
        shared.fill(0);
        for others in runs[function].iter().map(|run| &having[run]).filter(|others| others.len() <= COMMON) {
            others.iter().for_each(|&other| shared[other] += 1);
        }
        // Long functions share more without being more alike.
        let likeness = |other: usize| f64::from(shared[other]) / ((runs[other].len() as f64).sqrt() + 10.0);
        let like = (0..bodies.len()).filter(|&other| !taken[other] && shared[other] > 0);
        next = like
            .max_by(|&a, &b| likeness(a).total_cmp(&likeness(b)).then(b.cmp(&a)))
            .or_else(|| longest_first.find(|&other| !taken[other]));
    }
    order
}

/// The different runs of bytes of a function.
fn runs(body: &[u8]) -> Vec<&[u8]> {
    let mut runs: Vec<&[u8]> = body.windows(RUN.min(body.len())).collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// Writes functions in another order, and imports under other names.
struct Rewriter {
    imported: u32,
    /// Of each place, the function that comes there.
    order: Vec<usize>,
    /// Of each function, its place or that of its equal.
    places: Vec<usize>,
    names: HashMap<String, String>,
}

impl Reencode for Rewriter {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Self::Error>> {
        Ok(match function.checked_sub(self.imported) {
            Some(own) => self.imported + self.places[own as usize] as u32,
            None => function,
        })
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: ImportSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        for import in section.into_imports() {
            let Import { module, name, ty } = import?;
            let ty = self.entity_type(ty)?;
            imports.import(module, self.names.get(name).map_or(name, String::as_str), ty);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        let types = section.into_iter().collect::<Result<Vec<u32>, _>>()?;
        for function in self.order.clone() {
            functions.function(self.type_index(types[function])?);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        let bodies = section.into_iter().collect::<Result<Vec<FunctionBody<'_>>, _>>()?;
        for function in self.order.clone() {
            self.parse_function_body(code, bodies[function].clone())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        CodeSection, ConstExpr, ElementSection, Elements, EntityType, ExportKind, ExportSection, Function,
        FunctionSection, ImportSection, Module, RefType, TableSection, TableType, TypeSection, ValType,
    };
    use wasmparser::{ElementItems, ExternalKind, Operator};

    use super::*;

    /// Functions that return a number, and the last one calls the import and the others; all are in a table, and
    /// exported under their numbers.
    fn module(numbers: &[i32]) -> Vec<u8> {
        let (mut types, mut imports) = (TypeSection::new(), ImportSection::new());
        types.ty().function([], [ValType::I32]);
        imports.import("./glue.js", "__wbg_log_0123456789abcdef", EntityType::Function(0));
        let count = numbers.len() as u32 + 1;
        let (mut functions, mut exports, mut code) =
            (FunctionSection::new(), ExportSection::new(), CodeSection::new());
        let mut caller = Function::new([]);
        for (at, number) in numbers.iter().enumerate() {
            let mut function = Function::new([]);
            function.instructions().i32_const(*number).end();
            code.function(&function);
            caller.instructions().call(at as u32 + 1).drop();
            exports.export(&at.to_string(), ExportKind::Func, at as u32 + 1);
        }
        caller.instructions().call(0).end();
        code.function(&caller);
        exports.export("all", ExportKind::Func, count);
        for _ in 0..count {
            functions.function(0);
        }
        let (mut tables, mut elements) = (TableSection::new(), ElementSection::new());
        let size = u64::from(count) + 1;
        tables.table(TableType {
            element_type: RefType::FUNCREF,
            minimum: size,
            maximum: None,
            table64: false,
            shared: false,
        });
        let all: Vec<u32> = (0..=count).collect();
        elements.active(None, &ConstExpr::i32_const(0), Elements::Functions(all.into()));
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions).section(&tables);
        module.section(&exports).section(&elements).section(&code);
        module.finish()
    }

    /// What each function returns or, of the one that calls, calls; by exports, by the table, and by the calls.
    fn meaning(module: &[u8]) -> Vec<String> {
        let read = Read::new(module).expect("a module");
        let bodies: Vec<Vec<Operator<'_>>> = read
            .bodies
            .iter()
            .map(|body| {
                let reader = FunctionBody::new(wasmparser::BinaryReader::new(body, 0));
                reader.get_operators_reader().expect("code").into_iter().map(|op| op.expect("code")).collect()
            })
            .collect();
        let own = |function: u32| function.checked_sub(read.imported).map(|own| &bodies[own as usize]);
        let told = |function: u32| match own(function).map(|body| &body[0]) {
            Some(Operator::I32Const { value }) => value.to_string(),
            Some(_) => "caller".to_owned(),
            None => "import".to_owned(),
        };
        let mut meaning = Vec::new();
        for payload in Parser::new(0).parse_all(module) {
            match payload.expect("a module") {
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export.expect("an export");
                        assert_eq!(export.kind, ExternalKind::Func);
                        meaning.push(format!("{} {}", export.name, told(export.index)));
                    }
                }
                Payload::ElementSection(elements) => {
                    for element in elements {
                        let ElementItems::Functions(functions) = element.expect("elements").items else {
                            panic!("functions")
                        };
                        meaning.extend(functions.into_iter().map(|f| told(f.expect("a function"))));
                    }
                }
                _ => {}
            }
        }
        let calls = bodies.iter().flatten().filter_map(|op| match op {
            Operator::Call { function_index } => Some(told(*function_index)),
            _ => None,
        });
        meaning.extend(calls);
        meaning
    }

    #[test]
    fn a_module_means_what_it_meant_with_fewer_functions() {
        let module = module(&[7, 8, 7, 1000, 8, 7, 1001]);
        let glue = "/** Logs.\n * Much. */\nconst imports = {\n  __wbg_log_0123456789abcdef: function() {},\n  // End.\n};\n";
        let shrunk = shrink(&module, glue).expect("a smaller module");
        assert_eq!(meaning(&shrunk.module), meaning(&module));
        assert_eq!(Read::new(&shrunk.module).expect("a module").bodies.len(), 5);
        assert_eq!(shrunk.javascript, "const imports = {\ni0: function() {},\n};\n");
        assert!(Parser::new(0).parse_all(&shrunk.module).any(|payload| match payload.expect("a module") {
            Payload::ImportSection(imports) => {
                imports.into_imports().any(|import| import.expect("an import").name == "i0")
            }
            _ => false,
        }));
    }

    #[test]
    fn glue_that_does_not_fit_is_refused() {
        let module = module(&[1]);
        assert!(shrink(&module, "const imports = {};").is_err());
        assert!(shrink(&module, "__wbg_log_0123456789abcdef: `a\n b`").is_err());
    }
}
