//! An optimiser's state as `torch.optim` wants it, from the tensors of a checkpoint.
//!
//! `optimizer.load_state_dict` of PyTorch's SGD, Adam, AdamW and RMSprop takes it when the module declares its parameters in the order of
//! our networks: parameters are known by number. `lr` is the rate that the schedule starts from. Read next: `import.rs`.

use super::pickle::Value;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::optim::Rule;
use crate::train::{Array, Checkpoint, Config};

/// `{"state": {i: {name: tensor}}, "param_groups": [{setting: value, "params": [i, ...]}]}`; fails when the checkpoint has no such state.
pub fn state_dict(model: &Model, saved: &Checkpoint, config: &Config) -> Result<Value> {
    let rule = config.rule()?;
    let missing = |what: &str| {
        Error::run(format!("the checkpoint does not hold {what}, the state of its optimiser"))
            .hint("export a run's last.safetensors, or the weights alone")
    };
    let steps = saved.i64("optimizer.step").map_err(|_| missing("optimizer.step"))?;
    if steps.len() != model.params.len() {
        return Err(missing("a step count for each parameter"));
    }
    // SGD counts no steps; a parameter that has taken none has no state.
    let (moments, counts) = (rule.moments(), !matches!(rule, Rule::Sgd(_)));
    let mut state = Vec::new();
    for (i, (name, &step)) in model.params.names().iter().zip(steps).enumerate() {
        let mut own = Vec::new();
        if step > 0 && counts {
            own.push((Value::Text("step".into()), Value::Tensor(vec![], Array::F32(vec![step as f32]))));
        }
        for moment in moments.iter().filter(|_| step > 0) {
            let key = format!("optimizer.{moment}.{name}");
            let (shape, array) = saved.tensors.get(&key).ok_or_else(|| missing(&key))?;
            own.push((Value::Text(moment.to_string()), Value::Tensor(shape.clone(), array.clone())));
        }
        if !own.is_empty() {
            state.push((Value::Int(i as i64), Value::Dict(own)));
        }
    }
    let mut group = settings(&rule, config.lr);
    group.push(("params", Value::List((0..model.params.len()).map(|i| Value::Int(i as i64)).collect())));
    Ok(Value::dict([("state", Value::Dict(state)), ("param_groups", Value::List(vec![Value::dict(group)]))]))
}

/// The settings of a rule under PyTorch's names, those that are not ours at PyTorch's defaults.
fn settings(rule: &Rule, lr: f64) -> Vec<(&'static str, Value)> {
    use Value::{Bool, Float, None, Tuple};
    match rule {
        Rule::Sgd(sgd) => vec![
            ("lr", Float(lr)),
            ("momentum", Float(sgd.momentum)),
            ("dampening", Float(sgd.dampening)),
            ("weight_decay", Float(sgd.weight_decay)),
            ("nesterov", Bool(sgd.nesterov)),
            ("maximize", Bool(false)),
            ("foreach", None),
            ("differentiable", Bool(false)),
            ("fused", None),
        ],
        Rule::Adam(adam) => vec![
            ("lr", Float(lr)),
            ("betas", Tuple(adam.betas.map(Float).to_vec())),
            ("eps", Float(adam.eps)),
            ("weight_decay", Float(adam.weight_decay)),
            ("amsgrad", Bool(false)),
            ("maximize", Bool(false)),
            ("foreach", None),
            ("capturable", Bool(false)),
            ("differentiable", Bool(false)),
            ("fused", None),
            ("decoupled_weight_decay", Bool(adam.decoupled)),
        ],
        Rule::RmsProp(rmsprop) => vec![
            ("lr", Float(lr)),
            ("momentum", Float(rmsprop.momentum)),
            ("alpha", Float(rmsprop.alpha)),
            ("eps", Float(rmsprop.eps)),
            ("centered", Bool(rmsprop.centered)),
            ("weight_decay", Float(rmsprop.weight_decay)),
            ("capturable", Bool(false)),
            ("foreach", None),
            ("maximize", Bool(false)),
            ("differentiable", Bool(false)),
        ],
    }
}
