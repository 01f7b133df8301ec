//! A network as an ONNX graph: opset 17, IR version 8, with a free batch dimension.
//!
//! The graph is read off the tape of one forward pass in evaluation mode, so it is what really runs: each op becomes one ONNX operator,
//! the fused batch norm + shortcut + ReLU three. Dropout is not on that tape. Weights keep PyTorch's names, operators are named after
//! their layers. The input is the normalised picture; how it is made stands in the metadata. Read next: `proto.rs`, the messages; `run.rs`,
//! which runs such a graph.

pub mod proto;
pub mod run;

use crate::autograd::tape::Line;
use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::models::Model;
use crate::ops::avgpool2d::AvgPool2d;
use crate::ops::batchnorm::BatchNormEval;
use crate::ops::conv2d::Conv2d;
use crate::ops::maxpool2d::MaxPool2d;
use crate::ops::norm_relu::NormRelu;
use crate::ops::norm_relu_pool::NormReluPool;
use crate::ops::relu::Relu;
use crate::ops::softmax::Softmax;
use crate::tensor::{DType, Shape, Spec, Tensor};
use proto::{
    AttributeProto, Dimension, FLOAT, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, Side, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto, attribute_type,
};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

/// The set of operators that is used.
const OPSET: i64 = 17;
/// The version of the file format that came with it.
const IR: i64 = 8;

/// The name of what a user gives.
pub const INPUT: &str = "input";
/// The name of what a user gets.
pub const OUTPUT: &str = "logits";
/// The name of the free batch dimension.
const BATCH: &str = "N";

/// The graph of a network that computes in f32 on the CPU. `about` are named strings for the metadata.
pub fn export(model: &Model, about: &[(&str, String)]) -> Result<ModelProto> {
    let [c, h, w] = model.input;
    let mut tape = Tape::inference();
    let x = tape.input(Tensor::zeros(Spec::lanes([1, c, h, w], DType::F32)));
    let y = model.eval(&mut tape, x)?;
    let mut graph = graph(&tape, x, y)?;
    graph.name = Some(model.name.clone());
    graph.doc_string = Some(format!("{} by cugrad; dropout is left out, batch norms use their running statistics", model.name));
    let entry = |(key, value): &(&str, String)| StringStringEntryProto { key: Some(key.to_string()), value: Some(value.clone()) };
    Ok(ModelProto {
        ir_version: Some(IR),
        producer_name: Some("cugrad".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        doc_string: graph.doc_string.clone(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: about.iter().map(entry).collect(),
    })
}

/// The graph of what a tape made of `x`, up to `y`. Values that no op made are weights.
pub(super) fn graph(tape: &Tape, x: Var, y: Var) -> Result<GraphProto> {
    let mut b =
        Builder { values: BTreeMap::from([(x, INPUT.into())]), names: [INPUT, OUTPUT].map(String::from).into(), ..Builder::default() };
    for line in tape.lines() {
        b.line(tape, &line)?;
    }
    let last = b.values.get(&y).cloned().unwrap_or_default();
    for node in &mut b.graph.node {
        for name in node.input.iter_mut().chain(&mut node.output).filter(|name| **name == last) {
            *name = OUTPUT.into();
        }
    }
    b.graph.value_info.retain(|info| info.name.as_ref() != Some(&last));
    b.graph.input = vec![info(INPUT, tape.spec(x).shape)];
    b.graph.output = vec![info(OUTPUT, tape.spec(y).shape)];
    Ok(b.graph)
}

/// A value's name and shape, whose first side is free.
fn info(name: &str, shape: Shape) -> ValueInfoProto {
    let side = |(i, &n): (usize, &usize)| if i == 0 { Side::DimParam(BATCH.into()) } else { Side::DimValue(n as i64) };
    let dim = shape.iter().enumerate().map(|at| Dimension { value: Some(side(at)) }).collect();
    let tensor_type = Some(TypeProtoTensor { elem_type: Some(FLOAT), shape: Some(TensorShapeProto { dim }) });
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type }), doc_string: None }
}

/// A graph that is being built.
#[derive(Default)]
struct Builder {
    graph: GraphProto,
    /// What the values of the tape are called.
    values: BTreeMap<Var, String>,
    /// Every name that is taken.
    names: BTreeSet<String>,
}

impl Builder {
    /// Adds an op with its weights.
    fn line(&mut self, tape: &Tape, line: &Line) -> Result<()> {
        let op: &dyn Any = line.op;
        let plain = |kind: &'static str| (kind, Vec::new());
        let window = |kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]| {
            vec![ints("kernel_shape", kernel), ints("strides", stride), ints("pads", [padding[0], padding[1], padding[0], padding[1]])]
        };
        let weights: &[&str] = match line.op.name() {
            "conv2d" | "linear" => &["", "weight", "bias"],
            "batchnorm_eval" | "norm_relu" | "norm_relu_pool" => &["", "weight", "bias", "running_mean", "running_var", ""],
            _ => &["", ""],
        };
        let mut inputs = Vec::new();
        for (&var, role) in line.inputs.iter().zip(weights) {
            inputs.push(match self.values.get(&var) {
                Some(name) => name.clone(),
                None => self.weight(tape, var, format!("{}.{role}", line.label))?,
            });
        }
        // What a fused op does after its first operator: a name for it, the operator, inputs beside the first; and the shape of all but the last.
        let (mut then, mut between) = (Vec::new(), line.spec.shape);
        let relu = ("relu", "Relu", Vec::new(), Vec::new());
        let (kind, attributes) = if let Some(conv) = op.downcast_ref::<Conv2d>() {
            let kernel = line.specs[1].shape;
            let mut attributes = window([kernel[2], kernel[3]], conv.stride, conv.padding);
            attributes.extend([ints("dilations", [1, 1]), int("group", 1)]);
            ("Conv", attributes)
        } else if let Some(pool) = op.downcast_ref::<MaxPool2d>() {
            then.extend(pool.rectify.then_some(relu));
            ("MaxPool", window(pool.kernel, pool.stride, pool.padding))
        } else if let Some(pool) = op.downcast_ref::<AvgPool2d>() {
            // Zeros outside the picture count, as in PyTorch.
            let mut attributes = window(pool.kernel, pool.stride, pool.padding);
            attributes.push(int("count_include_pad", 1));
            ("AveragePool", attributes)
        } else if let Some(norm) = op.downcast_ref::<BatchNormEval>() {
            ("BatchNormalization", vec![float("epsilon", norm.eps)])
        } else if let Some(norm) = op.downcast_ref::<NormRelu>().filter(|norm| norm.running) {
            let shortcut = inputs.split_off(5);
            then.extend((!shortcut.is_empty()).then_some(("add", "Add", shortcut, Vec::new())));
            then.push(relu);
            ("BatchNormalization", vec![float("epsilon", norm.eps)])
        } else if let Some(norm) = op.downcast_ref::<NormReluPool>().filter(|norm| norm.running) {
            between = line.specs[0].shape;
            then.extend([relu, ("pool", "MaxPool", Vec::new(), window([2; 2], [2; 2], [0; 2]))]);
            ("BatchNormalization", vec![float("epsilon", norm.eps)])
        } else if let Some(relu) = op.downcast_ref::<Relu>() {
            if relu.slope == 0.0 { plain("Relu") } else { ("LeakyRelu", vec![float("alpha", relu.slope)]) }
        } else if let Some(softmax) = op.downcast_ref::<Softmax>() {
            (if softmax.log { "LogSoftmax" } else { "Softmax" }, vec![int("axis", 1)])
        } else {
            match line.op.name() {
                "linear" => ("Gemm", vec![int("transB", 1)]),
                "global_avgpool" => plain("GlobalAveragePool"),
                "add" => plain("Add"),
                "flatten" => ("Flatten", vec![int("axis", 1)]),
                other => {
                    return Err(Error::run(format!("no ONNX operator is known for the op '{other}'"))
                        .hint("export to safetensors or pth, or add the op to src/export/onnx/mod.rs"));
                }
            }
        };
        let name = if line.label.is_empty() { self.numbered(line.op.name()) } else { self.unique(line.label.into()) };
        let shape = |left: usize| if left == 0 { line.spec.shape } else { between };
        let mut left = then.len();
        let mut y = self.node(name.clone(), kind, inputs, attributes, shape(left));
        for (part, kind, more, attributes) in then {
            left -= 1;
            y = self.node(format!("{name}.{part}"), kind, [vec![y], more].concat(), attributes, shape(left));
        }
        self.values.insert(line.output, y);
        Ok(())
    }

    /// Adds an operator; gives the name of its output.
    fn node(&mut self, name: String, kind: &str, input: Vec<String>, attribute: Vec<AttributeProto>, shape: Shape) -> String {
        let output = self.unique(format!("{name}.out"));
        self.graph.value_info.push(info(&output, shape));
        self.graph.node.push(NodeProto { input, output: vec![output.clone()], name: Some(name), op_type: Some(kind.into()), attribute });
        output
    }

    /// Adds a weight; gives its name.
    fn weight(&mut self, tape: &Tape, var: Var, name: String) -> Result<String> {
        let name = self.unique(name);
        let tensor = tape.value(var);
        self.graph.initializer.push(TensorProto {
            dims: tensor.shape().iter().map(|&n| n as i64).collect(),
            data_type: Some(FLOAT),
            name: Some(name.clone()),
            raw_data: Some(tensor.read()?.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()),
        });
        self.values.insert(var, name.clone());
        Ok(name)
    }

    /// The name, with a number behind it if it is taken.
    fn unique(&mut self, name: String) -> String {
        if self.names.insert(name.clone()) { name } else { self.numbered(&name) }
    }

    /// The name with the first number that is free.
    fn numbered(&mut self, name: &str) -> String {
        let mut names = (1..).map(|k| format!("{name}_{k}"));
        loop {
            if let Some(name) = names.next()
                && self.names.insert(name.clone())
            {
                return name;
            }
        }
    }
}

fn ints<const N: usize>(name: &str, values: [usize; N]) -> AttributeProto {
    let ints = values.map(|n| n as i64).to_vec();
    AttributeProto { name: Some(name.into()), ints, r#type: Some(attribute_type::INTS), ..Default::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), i: Some(value), r#type: Some(attribute_type::INT), ..Default::default() }
}

fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), f: Some(value as f32), r#type: Some(attribute_type::FLOAT), ..Default::default() }
}
