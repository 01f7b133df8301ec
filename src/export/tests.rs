//! Every network to every format and back; what a bad file is answered with; no bytes that panic a reader.

use super::objects::{Node, Pickle};
use super::onnx::proto::ModelProto;
use super::onnx::run::{self, Array as Values};
use super::*;
use crate::autograd::Tape;
use crate::data::Normalization;
use crate::models::ALL;
use crate::ops;
use crate::tensor::Layout;
use crate::train::{Array, Config};
use proptest::prelude::*;
use std::sync::Arc;
use tempfile::tempdir;

/// A network none of whose numbers, running statistics among them, are what they were when it was built.
fn trained(name: &str) -> Trained {
    let mut model = Model::build(name, &Options::default()).unwrap();
    let rng = Philox::new(7);
    for (i, (name, t)) in model.params.state_mut().enumerate() {
        let spec = t.spec();
        let of = |k: usize| rng.normal(i as u64, k as u64);
        let values: Vec<f64> = (0..spec.shape.count())
            .map(|k| match name.rsplit('.').next().unwrap() {
                "running_var" => 0.5 + of(k).abs(),
                "num_batches_tracked" => 3.0,
                "weight" if spec.shape.len() > 1 => of(k) / (spec.shape.per_image() as f64).sqrt(),
                "weight" => 1.0 + 0.1 * of(k),
                _ => 0.1 * of(k),
            })
            .collect();
        t.copy_from(&Tensor::from_values(spec, &values));
    }
    let classes = (0..10).map(|k| format!("class \"{k}\"")).collect();
    let config = Config { model: name.into(), data: "mnist".into(), ..Config::default() };
    Trained { model, classes, normalization: Normalization::mnist(), config }
}

/// The checkpoint of a network, as after a step of its optimiser.
fn checkpoint(trained: &Trained) -> Checkpoint {
    let mut saved = describe(&trained.model, &trained.classes, &trained.normalization, &trained.config).unwrap();
    for (name, value) in trained.model.params.names().iter().zip(trained.model.params.values()) {
        for (moment, x) in [("exp_avg", 0.5), ("exp_avg_sq", 0.25)] {
            let array = Array::F32(vec![x; value.shape().count()]);
            saved.tensors.insert(format!("optimizer.{moment}.{name}"), (value.shape().to_vec(), array));
        }
    }
    let n = trained.model.params.len();
    saved.tensors.insert("optimizer.step".into(), (vec![n], Array::I64(vec![5; n])));
    saved.meta.insert("trainer".into(), serde_json::to_string(&Progress { epoch: 2, ..Progress::default() }).unwrap());
    saved
}

/// The file of a small network, in memory.
fn bytes_of(format: Format) -> Vec<u8> {
    let mut trained = trained("mnist-cnn-fixed");
    let (dir, saved) = (tempdir().unwrap(), checkpoint(&trained));
    export(&mut trained, &saved, format, &dir.path().join("file")).unwrap();
    fs::read(dir.path().join("file")).unwrap()
}

#[test]
fn every_network_survives_every_format() {
    let dir = tempdir().unwrap();
    // The deep ones have no other layers, but files of up to 200 MB.
    for known in ALL.iter().filter(|known| Model::count(known.name, &Options::default()).unwrap() < 12_000_000) {
        let mut trained = trained(known.name);
        let saved = checkpoint(&trained);
        for format in [Format::Safetensors, Format::Pth, Format::PthCheckpoint, Format::Onnx] {
            let path = dir.path().join("file");
            let proof = export(&mut trained, &saved, format, &path).unwrap_or_else(|e| panic!("{} {format:?}: {e}", known.name));
            let bound = if format == Format::Onnx { 1e-5 * proof.largest.max(1.0) } else { 0.0 };
            assert!(proof.difference <= bound && proof.largest > 0.1, "{} {format:?}: {proof:?}", known.name);
            if format != Format::Onnx {
                // All that using it takes is there again, and nothing of the training.
                let back = import::read(&path).unwrap();
                let again = Trained::load(&path, &back, Device::Cpu).unwrap();
                assert_eq!(
                    (&again.classes, &again.normalization, &again.config),
                    (&trained.classes, &trained.normalization, &trained.config)
                );
                assert_eq!(back.tensors.len(), trained.model.params.state().count());
            }
        }
    }
}

#[test]
fn the_same_network_makes_the_same_bytes() {
    for format in [Format::Pth, Format::Onnx] {
        assert!(bytes_of(format) == bytes_of(format));
    }
}

#[test]
fn a_file_that_computes_something_else_is_found_out() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    let mut trained = trained("resnet8");
    let good = onnx::export(&trained.model, &[]).unwrap();
    fn node(model: &ModelProto, name: &str) -> usize {
        model.graph.as_ref().unwrap().node.iter().position(|n| n.name() == name).unwrap()
    }
    type Mistake<'a> = (&'a str, &'a dyn Fn(&mut ModelProto));
    let mistakes: [Mistake; 5] = [
        ("a sign", &|m| {
            let weights = &mut m.graph.as_mut().unwrap().initializer;
            weights.iter_mut().find(|w| w.name() == "fc.bias").unwrap().raw_data.as_mut().unwrap()[3] ^= 0x80;
        }),
        ("epsilon", &|m| {
            let i = node(m, "bn1");
            m.graph.as_mut().unwrap().node[i].attribute[0].f = Some(0.1);
        }),
        ("order of shortcut", &|m| {
            let i = node(m, "layer2.0.bn2.add");
            let inputs = &mut m.graph.as_mut().unwrap().node[i].input;
            inputs[1] = inputs[0].clone();
        }),
        ("no ReLU", &|m| {
            let i = node(m, "layer3.0.bn2.relu");
            m.graph.as_mut().unwrap().node[i].op_type = Some("LeakyRelu".into());
        }),
        ("another output", &|m| m.graph.as_mut().unwrap().output[0].name = Some("flatten_1.out".into())),
    ];
    fs::write(&path, good.encode_to_vec()).unwrap();
    prove(&trained.model, Format::Onnx, &path).unwrap();
    for (what, mistake) in mistakes {
        let mut bad = good.clone();
        mistake(&mut bad);
        fs::write(&path, bad.encode_to_vec()).unwrap();
        let error = prove(&trained.model, Format::Onnx, &path).expect_err(what);
        assert_eq!(error.kind, crate::error::Kind::Check, "{what}: {error}");
    }
    // The same for weights.
    let saved = checkpoint(&trained);
    export(&mut trained, &saved, Format::Pth, &path).unwrap();
    let bias = trained.model.params.state_mut().find(|(name, _)| *name == "fc.bias").unwrap().1;
    bias.data_mut::<f32>()[0] += 0.01;
    assert_eq!(prove(&trained.model, Format::Pth, &path).unwrap_err().kind, crate::error::Kind::Check);
}

/// Every case of every op that can be exported: the engine against plain loops.
#[test]
fn each_operator_is_the_op() {
    let mut tried = std::collections::BTreeSet::new();
    for case in ops::cases() {
        let inputs = case.draw(DType::F32, 3);
        // An op that draws numbers or is of training only is not in a network's graph.
        let mut tape = Tape::inference();
        let vars: Vec<_> = inputs.iter().map(|t| tape.input(t.clone())).collect();
        let Ok(y) = tape.apply_at(&Arc::from("layer"), case.op.clone(), &vars) else { continue };
        let Ok(graph) = onnx::graph(&tape, vars[0], y) else { continue };
        let model = ModelProto { graph: Some(graph), ..Default::default() };
        let model = run::decode(&model.encode_to_vec()).unwrap();
        let x: Vec<f32> = inputs[0].values().iter().map(|&v| v as f32).collect();
        let theirs = run::run(&model, Values::new(inputs[0].shape().to_vec(), x).unwrap()).unwrap();
        let ours = tape.value(y);
        assert_eq!(theirs.dims, ours.shape().to_vec(), "{} {}", case.op.name(), case.name);
        for (i, (a, b)) in ours.values().iter().zip(&theirs.data).enumerate() {
            let error = (a - f64::from(*b)).abs();
            assert!(error <= 2e-5 * a.abs().max(1.0), "{} {}: element {i} is {a} and {b}", case.op.name(), case.name);
        }
        assert_eq!(tape.spec(y).layout, Layout::Lanes);
        tried.insert(case.op.name());
    }
    let all = [
        "add",
        "avgpool2d",
        "batchnorm_eval",
        "conv2d",
        "flatten",
        "global_avgpool",
        "leaky_relu",
        "linear",
        "log_softmax",
        "maxpool2d",
        "norm_relu",
        "norm_relu_pool",
        "relu",
        "softmax",
    ];
    assert_eq!(tried.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn the_graph_says_what_it_is() {
    let trained = trained("resnet8");
    let about = about(&trained);
    let model = onnx::export(&trained.model, &about).unwrap();
    let graph = model.graph.as_ref().unwrap();
    let names: Vec<&str> = graph.node.iter().map(|n| n.name()).collect();
    assert_eq!(names[..5], ["conv1", "bn1", "bn1.relu", "maxpool2d_1", "layer1.0.conv1"]);
    assert!(graph.initializer.iter().any(|w| w.name() == "layer2.0.shortcut.1.running_mean"));
    let outputs: std::collections::BTreeSet<&String> = graph.node.iter().flat_map(|n| &n.output).collect();
    assert_eq!(outputs.len(), graph.node.len(), "every value is made once");
    assert_eq!((graph.input[0].name(), graph.output[0].name()), (onnx::INPUT, onnx::OUTPUT));
    let prop = |key: &str| model.metadata_props.iter().find(|p| p.key() == key).unwrap().value().to_string();
    assert_eq!((prop("mean"), prop("std")), ("[0.1307]".into(), "[0.3081]".into()));
    assert!(prop("classes").contains("class \\\"9\\\"") && prop("input").contains("[N, 1, 28, 28]"));
}

#[test]
fn an_optimiser_that_is_not_there_is_missed() {
    let dir = tempdir().unwrap();
    let mut trained = trained("net1");
    let (path, mut saved) = (dir.path().join("x.pth"), checkpoint(&trained));
    saved.tensors.remove("optimizer.exp_avg.fc.bias");
    let error = export(&mut trained, &saved, Format::PthCheckpoint, &path).unwrap_err();
    assert!(error.message.contains("optimizer.exp_avg.fc.bias") && !path.exists(), "{error}");
    saved.meta.remove("trainer");
    let error = export(&mut trained, &saved, Format::PthCheckpoint, &path).unwrap_err();
    assert!(error.message.contains("no state of training"), "{error}");
}

/// A `.pth` file with this pickle.
fn pth_of(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let mut files = vec![("a/data.pkl".to_string(), pickle.to_vec())];
    files.extend(storages.iter().enumerate().map(|(i, bytes)| (format!("a/data/{i}"), bytes.to_vec())));
    let mut out = Vec::new();
    zip::write(&files, &mut out).unwrap();
    out
}

/// A pickled call that makes a tensor of storage `key`.
fn tensor(class: &str, key: &str, offset: u8, shape: &[u8], stride: &[u8]) -> Vec<u8> {
    let text = |s: &str| [[0x8c, s.len() as u8].as_slice(), s.as_bytes()].concat();
    let tuple = |sides: &[u8]| [b"(".as_slice(), sides.iter().flat_map(|&n| [b'K', n]).collect::<Vec<_>>().as_slice(), b"t"].concat();
    let storage =
        [b"((".as_slice(), &text("storage"), format!("ctorch\n{class}\n").as_bytes(), &text(key), &text("cpu"), b"K\x06tQ"].concat();
    let call = b"ctorch._utils\n_rebuild_tensor_v2\n".as_slice();
    [call, &storage, &[b'K', offset], &tuple(shape), &tuple(stride), b"\x89}tR"].concat()
}

/// A pickled dict of one tensor, `w`.
fn one(tensor: &[u8]) -> Vec<u8> {
    [b"\x80\x02}\x8c\x01w".as_slice(), tensor, b"s."].concat()
}

#[test]
fn views_and_half_precision_are_read() {
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let read = |pickle: &[u8], bytes: &[u8]| pth::read(&pth_of(pickle, &[bytes])).unwrap().tensors["w"].clone();
    // [[0, 1, 2], [3, 4, 5]] transposed; its second column; its last row.
    let of = |offset, shape: &[u8], stride: &[u8]| read(&one(&tensor("FloatStorage", "0", offset, shape, stride)), &floats);
    assert_eq!(of(0, &[3, 2], &[1, 3]), (vec![3, 2], Array::F32(vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0])));
    assert_eq!(of(1, &[2], &[3]), (vec![2], Array::F32(vec![1.0, 4.0])));
    assert_eq!(of(3, &[3], &[1]), (vec![3], Array::F32(vec![3.0, 4.0, 5.0])));
    assert_eq!(of(5, &[], &[]), (vec![], Array::F32(vec![5.0])));
    assert_eq!(of(0, &[2, 0], &[1, 1]), (vec![2, 0], Array::F32(vec![])));
    for (class, bytes, value) in [
        ("HalfStorage", half::f16::from_f32(-2.5).to_le_bytes().to_vec(), Array::F32(vec![-2.5])),
        ("BFloat16Storage", half::bf16::from_f32(-2.5).to_le_bytes().to_vec(), Array::F32(vec![-2.5])),
        ("DoubleStorage", 0.1_f64.to_le_bytes().to_vec(), Array::F64(vec![0.1])),
        ("LongStorage", (-9_i64).to_le_bytes().to_vec(), Array::I64(vec![-9])),
        ("IntStorage", (-9_i32).to_le_bytes().to_vec(), Array::I64(vec![-9])),
    ] {
        assert_eq!(read(&one(&tensor(class, "0", 0, &[1], &[1])), &bytes), (vec![1], value), "{class}");
    }
}

#[test]
fn what_is_no_state_dict_is_told() {
    let floats = [0; 24];
    let said = |pickle: &[u8]| {
        let error = pth::read(&pth_of(pickle, &[&floats])).unwrap_err();
        format!("{} / {}", error.message, error.hint.unwrap_or_default())
    };
    let tensor = |class: &str, key: &str, offset, shape: &[u8], stride: &[u8]| one(&tensor(class, key, offset, shape, stride));
    let mixed = tensor("FloatStorage", "0", 0, &[1], &[1]);
    for (pickle, part) in [
        // What another reader would run.
        (b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.".to_vec(), "an object of os.system"),
        (b"\x80\x02c__main__\nNet\n)\x81}b.".to_vec(), "an object of __main__.Net"),
        (b"\x80\x02]q\0h\0a.".to_vec(), "but a list"),
        (b"\x80\x02}(\x8c\x05epochK\x03\x8c\x01xNu.".to_vec(), "a dict of epoch (an int), x (None) / in PyTorch: torch.save"),
        ([&mixed[..mixed.len() - 1], b"\x8c\x01vK\x01s."].concat(), "an int under 'v'"),
        (tensor("BoolStorage", "0", 0, &[1], &[1]), "w: a BoolStorage cannot be read"),
        (tensor("FloatStorage", "7", 0, &[1], &[1]), "w: the archive has no a/data/7"),
        (tensor("FloatStorage", "0", 0, &[7], &[1]), "does not fit its 6 numbers"),
        (tensor("FloatStorage", "0", 6, &[1], &[1]), "does not fit its 6 numbers"),
        (tensor("FloatStorage", "0", 0, &[200, 200, 200], &[0, 0, 0]), "does not fit its 6 numbers"),
        (tensor("FloatStorage", "0", 1, &[2, 3], &[3, 1]), "does not fit its 6 numbers"),
        (b"\x80\x01N.".to_vec(), "its protocol is 1"),
        (b"\x80\x02}".to_vec(), "it is cut short"),
        (b"\x80\x02(u.".to_vec(), "its stack is empty"),
        (b"\x80\x02NNNs.".to_vec(), "cannot hold"),
        (b"\x80\x02h\x05.".to_vec(), "an object that it has not made"),
        (b"\x80\x02i.".to_vec(), "the opcode 0x69"),
    ] {
        assert!(said(&pickle).contains(part), "{part} / {}", said(&pickle));
    }
    let said = |files: &[(String, Vec<u8>)]| {
        let mut bytes = Vec::new();
        zip::write(files, &mut bytes).unwrap();
        pth::read(&bytes).unwrap_err().message
    };
    assert!(said(&[("a/b".into(), vec![])]).contains("no data.pkl"));
    assert!(said(&[("a/data.pkl".into(), vec![]), ("a/constants.pkl".into(), vec![])]).contains("TorchScript"));
    assert!(said(&[("a/data.pkl".into(), vec![]), ("a/byteorder".into(), b"big".to_vec())]).contains("big-endian"));
}

#[test]
fn files_of_other_kinds_are_named() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    let mut tar = vec![b'a'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, part) in [
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "PyTorch's format from before 1.6"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}.".to_vec(), "not a safetensors file"),
        (b"\x80\x04}q\x01q\x02.".to_vec(), "a bare pickle"),
        (b"\x89HDF\r\n\x1a\n".to_vec(), "HDF5"),
        (tar, "tar archive"),
        (bytes_of(Format::Onnx), "an ONNX file"),
        (bytes_of(Format::Pth)[..5000].to_vec(), "the archive is damaged"),
        (bytes_of(Format::Safetensors)[..5000].to_vec(), "cut short"),
        (vec![], "not a safetensors file"),
    ] {
        fs::write(&path, &bytes).unwrap();
        let error = import::read(&path).unwrap_err();
        assert!(error.message.contains(part) && error.message.starts_with(&path.display().to_string()), "{part} / {error}");
        assert!(error.hint.is_some(), "{error}");
    }
    assert!(import::read(dir.path()).unwrap_err().message.ends_with("not a file"));
    assert!(import::read(&dir.path().join("no")).unwrap_err().message.ends_with("no such checkpoint"));
}

#[test]
fn prefixes_of_wrappers_are_taken_off() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("x.pth");
    let tensor = |x: f32| Value::Tensor(vec![1], Array::F32(vec![x]));
    for (names, expected) in [
        (["module.fc.bias", "module.fc.weight"], ["fc.bias", "fc.weight"]),
        (["_orig_mod.fc.bias", "_orig_mod.fc.weight"], ["fc.bias", "fc.weight"]),
        (["module.fc.bias", "fc.weight"], ["fc.weight", "module.fc.bias"]),
    ] {
        let dict = Value::dict([("state_dict", Value::Ordered(names.map(|name| (name.into(), tensor(1.0))).to_vec()))]);
        replace(&path, |out| pth::write(&dict, &Default::default(), out)).unwrap();
        assert_eq!(import::read(&path).unwrap().tensors.into_keys().collect::<Vec<_>>(), expected);
    }
}

/// Values of every kind, written and read.
#[test]
fn pickles_are_read_as_written() {
    let text = |s: &str| Value::Text(s.into());
    let items = vec![
        Value::None,
        Value::Bool(true),
        Value::Int(-1),
        Value::Int(i64::MIN),
        Value::Float(-0.1),
        text("ü"),
        Value::Tuple(vec![Value::Int(1), text("")]),
        Value::Dict(vec![(Value::Int(3), Value::Bool(false))]),
    ];
    let (bytes, storages) = pickle::Pickler::pickle(&Value::List(items));
    let read = Pickle::read(&bytes).unwrap();
    let Node::List(items) = read.node(read.root) else { panic!("{:?}", read.node(read.root)) };
    let nodes: Vec<&Node> = items.iter().map(|&id| read.node(id)).collect();
    assert_eq!(
        nodes[..6],
        [&Node::None, &Node::Bool(true), &Node::Int(-1), &Node::Int(i64::MIN), &Node::Float(-0.1), &Node::Text("ü".into())]
    );
    assert!(matches!(nodes[6], Node::Tuple(items) if items.len() == 2) && matches!(nodes[7], Node::Dict(items) if items.len() == 1));
    assert!(storages.is_empty());
}

/// Small files whose content would be large if it were believed or unfolded.
#[test]
fn little_never_becomes_much() {
    // Lists of lists, each ten times the one before: 10^50 items, if they were copied.
    let mut bomb = b"\x80\x02]q\0".to_vec();
    for i in 0..50 {
        bomb.push(b']');
        bomb.extend([b'q', i + 1, b'(']);
        (0..10).for_each(|_| bomb.extend([b'h', i]));
        bomb.push(b'e');
    }
    bomb.push(b'.');
    assert!(Pickle::read(&bomb).is_ok());
    // One long list of pairs, made a dict again and again.
    let mut pairs = b"\x80\x02](".to_vec();
    (0..100_000).for_each(|_| pairs.extend(b"NN\x86"));
    pairs.extend(b"e\x85q\0ccollections\nOrderedDict\nq\x01(");
    (0..1000).for_each(|_| pairs.extend(b"h\x01h\0R"));
    pairs.extend(b"t.");
    assert!(Pickle::read(&pairs).unwrap_err().message.contains("more than 4000000 objects"));
    // One storage, a thousand tensors.
    let mut dict = b"\x80\x02}(".to_vec();
    for i in 0..1000 {
        let name = format!("w{i}");
        dict.extend([0x8c, name.len() as u8]);
        dict.extend(name.bytes());
        dict.extend(tensor("FloatStorage", "0", 0, &[250, 250, 2], &[250, 1, 0]));
    }
    dict.extend(b"u.");
    let error = pth::read(&pth_of(&dict, &[&vec![0; 1_000_000]])).unwrap_err();
    assert!(error.message.contains("does not fit"), "{error}");
}

proptest! {
    #[test]
    fn any_pickle_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), known in proptest::collection::vec(proptest::sample::select(b"().NJKM}]tuaesqhcRbQ\x80\x85\x86\x87\x88\x89\x8a\x8c\x93\x81\x94".to_vec()), 0..200)) {
        let _ = Pickle::read(&bytes);
        let _ = Pickle::read(&[b"\x80\x02".as_slice(), &known].concat());
        let mixed: Vec<u8> = known.iter().zip(&bytes).flat_map(|(&a, &b)| [a, b % 8]).collect();
        let _ = pth::read(&pth_of(&mixed, &[&bytes]));
    }

    /// Past the checksums: a real pickle that was changed.
    #[test]
    fn mutated_state_dicts_are_read_or_refused(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6)) {
        let tensors = [("a".to_string(), Value::Tensor(vec![2, 3], Array::F32(vec![1.0; 6]))), ("b".into(), Value::Tensor(vec![], Array::I64(vec![1])))];
        let (mut pickle, storages) = pickle::Pickler::pickle(&Value::dict([("epoch", Value::Int(3)), ("state_dict", Value::Ordered(tensors.to_vec()))]));
        for (at, to) in changes {
            let at = at.index(pickle.len());
            pickle[at] = to;
        }
        let storages: Vec<&[u8]> = storages.iter().map(Vec::as_slice).collect();
        if let Ok(read) = pth::read(&pth_of(&pickle, &storages)) {
            prop_assert!(read.tensors.values().map(|(_, array)| array.len()).sum::<usize>() <= 2000);
        }
    }

    #[test]
    fn any_graph_is_run_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), dims in proptest::collection::vec(0..5_usize, 0..5)) {
        if let Ok(model) = run::decode(&bytes) {
            let data = vec![1.0; dims.iter().product()];
            let _ = run::run(&model, Values::new(dims, data).unwrap());
        }
    }

    #[test]
    fn mutated_graphs_are_run_or_refused(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6), dims in proptest::collection::vec(0..5_usize, 2..5)) {
        let mut tape = Tape::inference();
        let x = tape.input(Tensor::zeros(Spec::lanes([1, 2, 4, 4], DType::F32)));
        let w = tape.input(Tensor::zeros(Spec::rows([3, 2, 2, 2], DType::F32)));
        let layer = Arc::from("conv");
        let y = tape.apply_at(&layer, Arc::new(ops::conv2d::Conv2d { stride: [1, 1], padding: [1, 1] }), &[x, w]).unwrap();
        let y = tape.apply(ops::maxpool2d::MaxPool2d { kernel: [2, 2], stride: [2, 2], padding: [1, 1], rectify: false }, &[y]).unwrap();
        let y = tape.apply(ops::flatten::Flatten, &[y]).unwrap();
        let mut bytes = ModelProto { graph: Some(onnx::graph(&tape, x, y).unwrap()), ..Default::default() }.encode_to_vec();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Ok(model) = run::decode(&bytes) {
            for dims in [dims, vec![1, 2, 4, 4]] {
                let data = vec![1.0; dims.iter().product()];
                let _ = run::run(&model, Values::new(dims, data).unwrap());
            }
        }
    }
}
