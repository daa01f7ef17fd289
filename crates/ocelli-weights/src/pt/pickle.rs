//! A machine for pickles that builds tensors and plain values and refuses everything else.
//!
//! Values live in one arena and refer to each other by number, so that no depth of nesting can exhaust the
//! stack. Instructions: Python's `pickletools`.

use std::collections::HashMap;

use super::PtError;
use crate::report::clip;
use crate::safetensors_file::Dtype;

/// Values that a pickle may build; a model with ten thousand tensors needs about two hundred thousand.
const MAX_VALUES: usize = 10_000_000;
const MAX_RANK: usize = 8;

/// A value by its place in the arena.
pub(super) type Value = usize;

/// One storage: a file of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) dtype: Dtype,
    pub(super) key: String,
}

/// A view of a storage, in values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

enum Node {
    /// A value that does not matter: None, a bool, a float.
    Other,
    Int(i64),
    Text(String),
    Tuple(Vec<Value>),
    List,
    Dict(Vec<(Value, Value)>),
    /// `module name`, not looked up.
    Global(String),
    Storage(Storage),
    Tensor(Tensor),
}

/// The machine and everything that it has built.
#[derive(Default)]
pub(super) struct Machine {
    arena: Vec<Node>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

/// The rest of the instructions.
struct Code<'a>(&'a [u8]);

impl<'a> Code<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], PtError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(PtError::Pickle("it is cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, PtError> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of up to four bytes.
    fn number(&mut self, n: usize) -> Result<u32, PtError> {
        Ok(self.take(n)?.iter().rev().fold(0, |value, &b| value << 8 | u32::from(b)))
    }

    fn text(&mut self, n: usize) -> Result<String, PtError> {
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }

    fn line(&mut self) -> Result<String, PtError> {
        let end = self.0.iter().position(|&b| b == b'\n').ok_or(PtError::Pickle("it is cut off"))?;
        let line = self.text(end)?;
        self.take(1)?;
        Ok(line)
    }
}

impl Machine {
    /// Run a pickle and return its result.
    pub(super) fn run(&mut self, pickle: &[u8]) -> Result<Value, PtError> {
        let mut code = Code(pickle);
        loop {
            let op = code.byte()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op, &mut code)?;
        }
    }

    /// Keys and values of a dictionary.
    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        if let Node::Dict(entries) = &self.arena[value] { Some(entries) } else { None }
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        if let Node::Text(text) = &self.arena[value] { Some(text) } else { None }
    }

    pub(super) fn tensor(&self, value: Value) -> Option<&Tensor> {
        if let Node::Tensor(tensor) = &self.arena[value] { Some(tensor) } else { None }
    }

    fn step(&mut self, op: u8, code: &mut Code) -> Result<(), PtError> {
        match op {
            // PROTO, FRAME
            0x80 => drop(code.take(1)?),
            0x95 => drop(code.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' | 0x88 | 0x89 => self.push(Node::Other)?,
            b'G' => {
                code.take(8)?;
                self.push(Node::Other)?;
            }
            b'J' => {
                let value = code.number(4)? as i32;
                self.push(Node::Int(value.into()))?;
            }
            b'K' => self.push_number(code, 1)?,
            b'M' => self.push_number(code, 2)?,
            0x8a => {
                let n = code.byte()?.into();
                let node = long(code.take(n)?);
                self.push(node)?;
            }
            b'X' => self.push_text(code, 4)?,
            0x8c | b'U' => self.push_text(code, 1)?,
            b'c' => {
                let (module, name) = (code.line()?, code.line()?);
                self.push(Node::Global(format!("{module} {name}")))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.text(module), self.text(name)) else {
                    return Err(PtError::Pickle("a class without a name"));
                };
                let global = format!("{module} {name}");
                self.push(Node::Global(global))?;
            }
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b']' => self.push(Node::List)?,
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(op - 0x84))?;
                self.push(Node::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))?;
            }
            // APPEND, APPENDS: what lists hold does not matter
            b'a' => drop(self.pop()?),
            b'e' => drop(self.pop_to_mark()?),
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            b'q' => self.remember(code.number(1)?)?,
            b'r' => self.remember(code.number(4)?)?,
            0x94 => self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))?,
            b'h' => self.recall(code.number(1)?)?,
            b'j' => self.recall(code.number(4)?)?,
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            // BUILD: attributes of a dictionary (its _metadata) do not matter
            b'b' => {
                self.pop()?;
                let target = self.top()?;
                if !matches!(self.arena[target], Node::Dict(_)) {
                    return Err(PtError::Forbidden("an object with attributes".into()));
                }
            }
            _ => return Err(PtError::Forbidden(format!("instruction {op:#04x}"))),
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<(), PtError> {
        if self.arena.len() >= MAX_VALUES {
            return Err(PtError::Pickle("it builds more values than any model has"));
        }
        self.stack.push(self.arena.len());
        self.arena.push(node);
        Ok(())
    }

    fn push_number(&mut self, code: &mut Code, bytes: usize) -> Result<(), PtError> {
        let value = code.number(bytes)?;
        self.push(Node::Int(value.into()))
    }

    fn push_text(&mut self, code: &mut Code, bytes: usize) -> Result<(), PtError> {
        let n = code.number(bytes)? as usize;
        let text = code.text(n)?;
        self.push(Node::Text(text))
    }

    fn top(&self) -> Result<Value, PtError> {
        self.stack.last().copied().ok_or(PtError::Pickle("its stack is empty"))
    }

    fn pop(&mut self) -> Result<Value, PtError> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= bottom {
            return Err(PtError::Pickle("its stack is empty"));
        }
        self.stack.pop().ok_or(PtError::Pickle("its stack is empty"))
    }

    fn pop_many(&mut self, n: usize) -> Result<Vec<Value>, PtError> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, PtError> {
        let mark = self.marks.pop().ok_or(PtError::Pickle("a mark is missing"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn remember(&mut self, place: u32) -> Result<(), PtError> {
        let value = self.top()?;
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), PtError> {
        let value = self.memo.get(&place).copied().ok_or(PtError::Pickle("it recalls what is not there"))?;
        self.stack.push(value);
        Ok(())
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), PtError> {
        let target = self.top()?;
        let Node::Dict(entries) = &mut self.arena[target] else {
            return Err(PtError::Pickle("it sets items of what is no dictionary"));
        };
        if entries.len() + items.len() > MAX_VALUES {
            return Err(PtError::Pickle("it builds more values than any model has"));
        }
        entries.extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    /// `('storage', class, key, device, length)`.
    fn persistent(&mut self) -> Result<(), PtError> {
        let id = self.pop()?;
        let damaged = PtError::Pickle("a reference to something other than a storage");
        let Node::Tuple(parts) = &self.arena[id] else { return Err(damaged) };
        let &[kind, class, key, ..] = &parts[..] else { return Err(damaged) };
        let (Some("storage"), Node::Global(class), Some(key)) =
            (self.text(kind), &self.arena[class], self.text(key))
        else {
            return Err(damaged);
        };
        let dtype = storage_dtype(class).ok_or_else(|| PtError::Forbidden(clip(class)))?;
        let storage = Storage { dtype, key: key.to_owned() };
        self.push(Node::Storage(storage))
    }

    /// A call, of the few functions that are known.
    fn reduce(&mut self) -> Result<(), PtError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Node::Global(name), Node::Tuple(arguments)) = (&self.arena[function], &self.arena[arguments])
        else {
            return Err(PtError::Pickle("a call of what is no function"));
        };
        let node = match (name.as_str(), &arguments[..]) {
            ("collections OrderedDict", []) => Node::Dict(Vec::new()),
            ("torch._utils _rebuild_tensor_v2", &[storage, offset, shape, strides, ..]) => {
                Node::Tensor(self.rebuild(storage, offset, shape, strides)?)
            }
            ("torch._utils _rebuild_parameter", &[tensor, ..]) => {
                let tensor = self.tensor(tensor).ok_or(PtError::Pickle("a parameter without a tensor"))?;
                Node::Tensor(tensor.clone())
            }
            (other, _) => return Err(PtError::Forbidden(clip(other))),
        };
        self.push(node)
    }

    fn rebuild(
        &self,
        storage: Value,
        offset: Value,
        shape: Value,
        strides: Value,
    ) -> Result<Tensor, PtError> {
        let damaged = PtError::Pickle("a tensor with wrong arguments");
        let (Node::Storage(storage), Some(offset)) = (&self.arena[storage], self.size(offset)) else {
            return Err(damaged);
        };
        let (Some(shape), Some(strides)) = (self.sizes(shape), self.sizes(strides)) else {
            return Err(damaged);
        };
        if shape.len() != strides.len() || shape.len() > MAX_RANK {
            return Err(damaged);
        }
        Ok(Tensor { storage: storage.clone(), offset, shape, strides })
    }

    fn size(&self, value: Value) -> Option<usize> {
        if let Node::Int(n) = self.arena[value] { usize::try_from(n).ok() } else { None }
    }

    fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let Node::Tuple(items) = &self.arena[value] else { return None };
        items.iter().map(|&item| self.size(item)).collect()
    }
}

/// A number of any length, little-endian two's complement; what does not fit does not matter.
fn long(bytes: &[u8]) -> Node {
    let Some(&last) = bytes.last() else { return Node::Int(0) };
    if bytes.len() > 8 {
        return Node::Other;
    }
    let mut wide = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "torch FloatStorage" => Dtype::F32,
        "torch HalfStorage" => Dtype::F16,
        "torch BFloat16Storage" => Dtype::BF16,
        "torch DoubleStorage" => Dtype::F64,
        "torch LongStorage" => Dtype::I64,
        "torch IntStorage" => Dtype::I32,
        "torch BoolStorage" => Dtype::BOOL,
        "torch ByteStorage" => Dtype::U8,
        _ => return None,
    })
}
