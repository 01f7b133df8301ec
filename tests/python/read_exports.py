"""What other programs make of cugrad's exports: onnx's checker, onnxruntime, torch and safetensors.

usage: read_exports.py DIR, where DIR holds for each network NAME
    NAME.onnx NAME.pth NAME.safetensors    the exports
    NAME.expected                          safetensors with the pictures x and the logits y that cugrad computes
and for each optimiser RULE
    RULE.pth                               {epoch, model_state_dict, optimizer_state_dict} of network `improved`
    RULE.json                              its settings: {"class": "SGD", "arguments": {...}, "epoch": 2, "steps": 8, "moments": [...]}
"""
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from networks import NETWORKS  # noqa: E402

FOLDER = Path(sys.argv[1])


def close(got, expected, what):
    error = np.abs(np.asarray(got) - np.asarray(expected)).max()
    bound = 2e-5 * max(1.0, np.abs(expected).max())
    assert error <= bound, f"{what}: the logits differ by {error:.1e}"
    return error


def graph(name, x, y):
    path = FOLDER / f"{name}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert [i.name for i in model.graph.input] == ["input"] and [o.name for o in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    props = {p.key: p.value for p in model.metadata_props}
    assert json.loads(props["mean"]) == [0.1307] and json.loads(props["std"]) == [0.3081] and len(json.loads(props["classes"])) == 10
    # Shapes that onnx infers by itself are those written beside the values.
    written = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for v in inferred.graph.value_info:
        shape = [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        assert shape == written[v.name], f"{name}: {v.name} is {shape}, said to be {written[v.name]}"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, len(x)):  # the batch is free
        error = close(session.run(["logits"], {"input": x[:n]})[0], y[:n], f"{name}.onnx")
    return error


def state_dict(name, state, x, y, what):
    net = NETWORKS[name][0]().eval()
    assert list(state) == list(net.state_dict()) or what == "safetensors", f"{name}: the order is {list(state)}"
    for key, t in net.state_dict().items():
        assert state[key].dtype == t.dtype and state[key].shape == t.shape, f"{name}: {key}"
    net.load_state_dict(state, strict=True)
    with torch.no_grad():
        return close(net(torch.tensor(x)), y, f"{name}: {what}")


def training(path):
    about = json.loads(path.with_suffix(".json").read_text())
    saved = torch.load(path, weights_only=True)
    assert list(saved) == ["epoch", "model_state_dict", "optimizer_state_dict"] and saved["epoch"] == about["epoch"]
    net = NETWORKS["improved"][0]()
    net.load_state_dict(saved["model_state_dict"], strict=True)
    optimizer = getattr(torch.optim, about["class"])(net.parameters(), lr=9)
    optimizer.load_state_dict(saved["optimizer_state_dict"])
    for key, value in about["arguments"].items():
        assert optimizer.param_groups[0][key] == (tuple(value) if isinstance(value, list) else value), key
    assert len(optimizer.state) == (len(list(net.parameters())) if about["moments"] else 0)
    for p in net.parameters():
        state = optimizer.state.get(p, {})
        assert sorted(state) == sorted(about["moments"]), f"{sorted(state)}"
        for key, moment in state.items():
            if key == "step":
                assert moment == about["steps"], f"{moment}"
            else:
                assert moment.shape == p.shape and moment.dtype == p.dtype and moment.isfinite().all(), key
                assert p.dim() < 2 or moment.abs().max() > 0, key
    # It goes on from there.
    net.train()
    torch.nn.functional.cross_entropy(net(torch.randn(8, 1, 28, 28)), torch.zeros(8, dtype=torch.long)).backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in net.parameters())


for expected in sorted(FOLDER.glob("*.expected")):
    name, given = expected.stem, load_file(expected)
    x, y = given["x"].numpy(), given["y"].numpy()
    errors = [
        graph(name, x, y),
        state_dict(name, torch.load(FOLDER / f"{name}.pth", weights_only=True), x, y, "pth"),
        state_dict(name, load_file(FOLDER / f"{name}.safetensors"), x, y, "safetensors"),
    ]
    print(f"{name}: onnxruntime differs by {errors[0]:.1e}, torch by {errors[1]:.1e} and {errors[2]:.1e}")
for path in sorted(FOLDER.glob("*.json")):
    training(path.with_suffix(".pth"))
    print(f"{path.stem}: its state goes on in torch.optim")
