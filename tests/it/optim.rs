//! Optimisers and schedules: PyTorch's figures, step by step, and what a resumed run needs.

#![allow(clippy::unwrap_used)]

use crate::golden;
use cugrad::autograd::Tape;
use cugrad::device::Device;
use cugrad::nn::{Builder, Init, Params};
use cugrad::ops::linear::Linear;
use cugrad::optim::{Optimizer, Options, Rule, Schedule, Scheduler};
use cugrad::tensor::{DType, Spec, Tensor};
use serde_json::Value;

/// A network of parameters `p0`, `p1`, ... with these values, `[1, n]` each.
fn params(values: &[Vec<f64>], dtype: DType) -> Params {
    let mut builder = Builder::new(dtype, Device::Cpu);
    for (i, values) in values.iter().enumerate() {
        builder.param(&format!("p{i}"), [1, values.len()], Init::Zeros);
    }
    let mut params = builder.build(0);
    for ((_, tensor), values) in params.state_mut().zip(values) {
        tensor.copy_from(&Tensor::from_values(tensor.spec(), values));
    }
    params
}

/// Makes `dw` the gradient of parameter `i`, by way of y = dw·w.
fn backward(params: &mut Params, i: usize, dw: &[f64]) {
    let w = params.values()[i].clone();
    let dtype = w.dtype();
    let mut tape = Tape::new();
    let x = tape.input(Tensor::from_values(Spec::lanes([1, dw.len()], dtype), dw));
    let w = tape.param(i, w);
    let y = tape.apply(Linear, &[x, w]).unwrap();
    tape.backward(y, &mut params.gradients).unwrap();
}

/// One step of an optimiser of one parameter.
fn step(optimizer: &mut Optimizer, params: &mut Params, dw: &[f64], lr: f64) {
    params.gradients.clear();
    backward(params, 0, dw);
    optimizer.step(params, lr);
}

fn bits(tensor: &Tensor) -> Vec<u64> {
    tensor.values().into_iter().map(f64::to_bits).collect()
}

/// A rule of optimizers.json and its learning rate.
fn rule(entry: &Value) -> (Rule, f64) {
    let mut args = entry["args"].clone();
    let lr = args.as_object_mut().unwrap().remove("lr").unwrap().as_f64().unwrap();
    let options: Options = serde_json::from_value(args).unwrap();
    (Rule::by_name(&entry["kind"].as_str().unwrap().to_lowercase(), &options).unwrap(), lr)
}

/// Every optimiser of optimizers.json: name, entry, rule, learning rate.
fn each(mut test: impl FnMut(&str, &Value, Rule, f64)) {
    let all = golden::load("optimizers.json", "optimizers");
    assert_eq!(all.as_object().unwrap().len(), 16);
    for (name, entry) in all.as_object().unwrap() {
        let (rule, lr) = rule(entry);
        test(name, entry, rule, lr);
    }
}

#[test]
fn ten_steps_equal_pytorch() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        each(|name, entry, rule, lr| {
            let mut params = params(&[golden::values(3000, 7, 1.0)], dtype);
            let mut optimizer = Optimizer::new(rule, &params);
            for t in 0..10 {
                step(&mut optimizer, &mut params, &golden::values(3001 + t as u64, 7, 1.0), lr);
                let what = format!("{name} {dtype} after step {t}");
                golden::close(&params.values()[0].values(), &golden::floats(&entry["after"][t]), tolerance, &what);
            }
        });
    }
}

#[test]
fn a_large_parameter_moves_like_a_small_one() {
    const N: usize = 50_001;
    let tile = |small: Vec<f64>| -> Vec<f64> { small.into_iter().cycle().take(N).collect() };
    each(|name, _, rule, lr| {
        let mut small = params(&[golden::values(3000, 7, 1.0)], DType::F32);
        let mut large = params(&[tile(golden::values(3000, 7, 1.0))], DType::F32);
        let (mut a, mut b) = (Optimizer::new(rule.clone(), &small), Optimizer::new(rule, &large));
        for t in 0..3 {
            let dw = golden::values(3001 + t, 7, 1.0);
            step(&mut a, &mut small, &dw, lr);
            step(&mut b, &mut large, &tile(dw), lr);
        }
        assert_eq!(tile(small.values()[0].values()), large.values()[0].values(), "{name}");
    });
}

#[test]
fn a_resumed_optimizer_goes_on_bit_by_bit() {
    for dtype in [DType::F64, DType::F32, DType::Bf16] {
        each(|name, _, rule, lr| {
            let dw = |t: u64| golden::values(3001 + t, 7, 1.0);
            let mut straight = params(&[golden::values(3000, 7, 1.0)], dtype);
            let mut optimizer = Optimizer::new(rule.clone(), &straight);
            (0..5).for_each(|t| step(&mut optimizer, &mut straight, &dw(t), lr));

            let saved_rule = serde_json::to_string(optimizer.rule()).unwrap();
            let saved_state: Vec<(String, Vec<f64>)> = optimizer.state().into_iter().map(|(name, m)| (name, m.values())).collect();
            let saved_steps: Vec<u64> = optimizer.steps().collect();
            assert_eq!(saved_steps, [5]);
            let mut resumed = params(&[straight.values()[0].values()], dtype);
            let mut again = Optimizer::new(serde_json::from_str(&saved_rule).unwrap(), &resumed);
            let state = again.state_mut();
            assert_eq!(state.len(), saved_state.len());
            for ((name, tensor), (saved_name, values)) in state.into_iter().zip(saved_state) {
                assert_eq!(name, saved_name);
                assert_eq!(tensor.dtype(), dtype.acc());
                tensor.copy_from(&Tensor::from_values(tensor.spec(), &values));
            }
            again.steps_mut().zip(saved_steps).for_each(|(steps, saved)| *steps = saved);

            for t in 5..10 {
                step(&mut optimizer, &mut straight, &dw(t), lr);
                step(&mut again, &mut resumed, &dw(t), lr);
                assert_eq!(bits(&straight.values()[0]), bits(&resumed.values()[0]), "{name} {dtype}");
            }
        });
    }
}

#[test]
fn a_checkpoint_finds_moments_by_pytorchs_names() {
    let params = params(&[vec![0.0], vec![0.0; 2]], DType::F32);
    let names = |name: &str, options: Options| -> Vec<String> {
        let mut optimizer = Optimizer::new(Rule::by_name(name, &options).unwrap(), &params);
        let names: Vec<String> = optimizer.state().into_iter().map(|(name, _)| name).collect();
        let mut to_write: Vec<String> = optimizer.state_mut().into_iter().map(|(name, _)| name).collect();
        to_write.sort_by_key(|name| names.iter().position(|n| n == name));
        assert_eq!(names, to_write);
        names.iter().map(|name| name.strip_prefix("optimizer.").unwrap().to_string()).collect()
    };
    let momentum = Options { momentum: Some(0.9), ..Options::default() };
    assert!(names("sgd", Options::default()).is_empty());
    assert_eq!(names("sgd", momentum.clone()), ["momentum_buffer.p0", "momentum_buffer.p1"]);
    assert_eq!(names("adamw", Options::default()), ["exp_avg.p0", "exp_avg.p1", "exp_avg_sq.p0", "exp_avg_sq.p1"]);
    let all = Options { centered: Some(true), ..momentum };
    let expected = ["square_avg.p0", "square_avg.p1", "momentum_buffer.p0", "momentum_buffer.p1", "grad_avg.p0", "grad_avg.p1"];
    assert_eq!(names("rmsprop", all), expected);
}

/// PyTorch leaves a parameter without a gradient alone, and counts its steps from its own first gradient.
#[test]
fn a_parameter_that_begins_later_begins_like_the_first() {
    each(|name, _, rule, lr| {
        let start = golden::values(3000, 7, 1.0);
        let mut params = params(&[start.clone(), start.clone()], DType::F64);
        let mut optimizer = Optimizer::new(rule, &params);
        let mut first = Vec::new();
        for t in 0..6 {
            params.gradients.clear();
            backward(&mut params, 0, &golden::values(3001 + t, 7, 1.0));
            if t < 3 {
                optimizer.step(&mut params, lr);
                first.push(bits(&params.values()[0]));
                assert_eq!(params.values()[1].values(), start, "{name}");
            } else {
                backward(&mut params, 1, &golden::values(3001 + t - 3, 7, 1.0));
                optimizer.step(&mut params, lr);
                assert_eq!(bits(&params.values()[1]), first[t as usize - 3], "{name}");
            }
        }
        assert_eq!(optimizer.steps().collect::<Vec<_>>(), [6, 3]);
    });
}

/// The root of v - a² must not become NaN where rounding leaves less than nothing of the difference.
#[test]
fn centered_rmsprop_survives_a_steady_gradient() {
    let options = Options { centered: Some(true), alpha: Some(0.5), ..Options::default() };
    let mut params = params(&[vec![0.0; 7]], DType::F32);
    let mut optimizer = Optimizer::new(Rule::by_name("rmsprop", &options).unwrap(), &params);
    for _ in 0..100 {
        step(&mut optimizer, &mut params, &golden::values(3001, 7, 1.0), 1e-9);
    }
    assert!(params.values()[0].values().iter().all(|w| w.is_finite()));
}

#[test]
fn options_are_refused_by_name() {
    let fail = |name: &str, options: Value| {
        let error = Rule::by_name(name, &serde_json::from_value(options).unwrap()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        format!("{error}; {}", error.hint.clone().unwrap_or_default())
    };
    assert_eq!(fail("adma", Value::Object(Default::default())), "unknown optimizer 'adma'; choose one of sgd, adam, adamw, rmsprop");
    assert_eq!(fail("adam", serde_json::json!({"momentum": 0.9})), "adam has no option momentum; adam takes betas, eps, weight_decay");
    for (name, options, message) in [
        ("sgd", serde_json::json!({"momentum": -0.1}), "sgd: momentum must be at least 0, not -0.1; "),
        ("sgd", serde_json::json!({"nesterov": true}), "sgd: nesterov needs a momentum above 0 and no dampening; "),
        ("adamw", serde_json::json!({"betas": [0.9, 1.0]}), "adamw: the second of betas must be at least 0 and below 1, not 1; "),
        ("rmsprop", serde_json::json!({"weight_decay": -1}), "rmsprop: weight_decay must be at least 0, not -1; "),
    ] {
        assert_eq!(fail(name, options), message);
    }
    for name in Rule::NAMES {
        assert_eq!(Rule::by_name(name, &Options::default()).unwrap().name(), name);
    }
}

/// A schedule of schedules.json.
fn schedule(entry: &Value) -> Schedule {
    let args = &entry["args"];
    let text = match entry["kind"].as_str().unwrap() {
        "constant" => "constant".to_string(),
        "StepLR" => format!("step:{}:{}", args["step_size"], args["gamma"]),
        "MultiStepLR" => {
            let milestones: Vec<String> = golden::floats(&args["milestones"]).iter().map(f64::to_string).collect();
            format!("multistep:{}:{}", milestones.join(","), args["gamma"])
        }
        "CosineAnnealingLR" => match args.get("eta_min") {
            Some(floor) => format!("cosine:{floor}"),
            None => "cosine".to_string(),
        },
        "OneCycleLR" => "onecycle".to_string(),
        "ReduceLROnPlateau" => format!("reduce-on-plateau:{}:{}:{}", args["mode"].as_str().unwrap(), args["patience"], args["factor"]),
        other => panic!("{other} is new"),
    };
    text.parse().unwrap()
}

#[test]
fn forty_epochs_equal_pytorch() {
    let all = golden::load("schedules.json", "schedules");
    assert_eq!(all.as_object().unwrap().len(), 9);
    for (name, entry) in all.as_object().unwrap() {
        let schedule = schedule(entry);
        // One-cycle was recorded step by step: 40 epochs of one step.
        let steps = if matches!(schedule, Schedule::OneCycle { .. }) { 1 } else { 3 };
        let mut scheduler = Scheduler::new(schedule, entry["base_lr"].as_f64().unwrap(), 40, steps);
        let (mut lr, mut momentum) = (Vec::new(), Vec::new());
        for epoch in 0..40 {
            lr.push(scheduler.lr(epoch * steps));
            assert_eq!(lr.last(), Some(&scheduler.lr(epoch * steps + steps - 1)), "{name}: the rate of an epoch");
            momentum.extend(scheduler.momentum(epoch));
            if let Some(metric) = entry["metric"].get(epoch as usize) {
                scheduler.epoch_end(metric.as_f64().unwrap());
                // Through a checkpoint after every epoch.
                scheduler = serde_json::from_str(&serde_json::to_string(&scheduler).unwrap()).unwrap();
            }
        }
        golden::close(&lr, &golden::floats(&entry["lr"]), 1e-12, name);
        match entry.get("momentum") {
            Some(theirs) => golden::close(&momentum, &golden::floats(theirs), 1e-12, name),
            None => assert!(momentum.is_empty(), "{name}"),
        }
    }
}

#[test]
fn no_schedule_leaves_its_range() {
    for text in ["constant", "step", "multistep:1,2", "cosine:0.01", "onecycle", "onecycle:0", "onecycle:1", "reduce-on-plateau"] {
        for (epochs, steps) in [(0, 0), (1, 1), (1, 7), (2, 1), (3, 5), (10, 1)] {
            let mut scheduler = Scheduler::new(text.parse().unwrap(), 0.1, epochs, steps);
            scheduler.epoch_end(f64::NAN);
            for step in 0..60 {
                let lr = scheduler.lr(step);
                assert!((0.0..=0.1 + 1e-15).contains(&lr), "{text}, {epochs} epochs of {steps} steps: {lr} at step {step}");
                assert!(scheduler.momentum(step).is_none_or(|m| (0.85..=0.95).contains(&m)), "{text}");
            }
        }
    }
}

#[test]
fn a_plateau_is_cut_until_it_makes_no_difference() {
    let mut scheduler = Scheduler::new("reduce-on-plateau:max:0:0.5".parse().unwrap(), 1e-7, 10, 1);
    for _ in 0..10 {
        scheduler.epoch_end(f64::NAN);
    }
    // 1e-7, 5e-8, 2.5e-8, 1.25e-8: the next cut would be one by 6e-9.
    assert_eq!(scheduler.lr(0), 1.25e-8);
    assert_eq!(scheduler.watch.cuts, 3);
}

#[test]
fn schedules_are_read_and_printed() {
    for (text, full) in [
        ("constant", "constant"),
        ("step", "step:30:0.1"),
        ("step:10", "step:10:0.1"),
        ("step:10:0.5", "step:10:0.5"),
        ("multistep:20,30", "multistep:20,30:0.1"),
        ("multistep:20, 30:1e-3", "multistep:20,30:0.001"),
        ("cosine", "cosine:0"),
        ("cosine:0.001", "cosine:0.001"),
        ("onecycle", "onecycle:0.3:25:10000"),
        ("onecycle:0.25:10", "onecycle:0.25:10:10000"),
        ("reduce-on-plateau", "reduce-on-plateau:min:10:0.1:0.0001"),
        ("reduce-on-plateau:max:3:0.3", "reduce-on-plateau:max:3:0.3:0.0001"),
    ] {
        let schedule: Schedule = text.parse().unwrap();
        assert_eq!(schedule.to_string(), full);
        assert_eq!(full.parse::<Schedule>().unwrap(), schedule);
        assert_eq!(serde_json::to_string(&schedule).unwrap(), format!("\"{full}\""));
        assert_eq!(serde_json::from_str::<Schedule>(&format!("\"{text}\"")).unwrap(), schedule);
    }
}

#[test]
fn a_wrong_schedule_is_refused_by_its_wrong_part() {
    for (text, message, hint) in [
        ("cosin", "unknown schedule 'cosin'", "choose one of constant, step,"),
        ("", "unknown schedule ''", "choose one of constant, step,"),
        ("constant:1", "schedule 'constant:1': '1' is too much", "write constant"),
        ("step:0", "schedule 'step:0': '0' is not a number of epochs, at least 1", "write step:SIZE:GAMMA"),
        ("step:10:x", "schedule 'step:10:x': 'x' is not a factor from 0 to 1", "write step:SIZE:GAMMA"),
        ("step:10:0.1:3", "schedule 'step:10:0.1:3': '3' is too much", "write step:SIZE:GAMMA"),
        ("multistep", "schedule 'multistep': the milestones are missing", "write multistep:EPOCH"),
        ("multistep:3,,4", "schedule 'multistep:3,,4': '' is not the number of an epoch", "write multistep:EPOCH"),
        ("cosine:nan", "schedule 'cosine:nan': 'nan' is not a learning rate", "write cosine:FLOOR"),
        ("onecycle:2", "schedule 'onecycle:2': '2' is not a part of the run, from 0 to 1", "write onecycle:UP"),
        ("reduce-on-plateau:low", "schedule 'reduce-on-plateau:low': 'low' is not min or max", "write reduce-on-plateau:MODE"),
        ("reduce-on-plateau:min:5:1", "schedule 'reduce-on-plateau:min:5:1': '1' is not a factor below 1", "write reduce-on-plateau:MODE"),
    ] {
        let error = text.parse::<Schedule>().unwrap_err();
        assert_eq!((error.message.as_str(), error.exit_code()), (message, 2));
        assert!(error.hint.as_ref().unwrap().starts_with(hint), "{error:?}");
    }
}
