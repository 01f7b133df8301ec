"""Weights as PyTorch users save them, for cugrad to read.

usage: write_weights.py DIR; writes into it
    INDEX.json      a list of [file, network, expected], the good ones, each with the file that has pictures x and logits y
    BAD.json        a list of [file, part of the message], the others
"""
import collections
import json
import pickle
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from networks import NETWORKS, drawn  # noqa: E402

FOLDER = Path(sys.argv[1])
index, bad = [], []


def expected(name, net, file):
    x = torch.randn(NETWORKS[name][1])
    with torch.no_grad():
        save_file({"x": x, "y": net(x)}, FOLDER / file)
    return file


def good(file, name, answer, value, save=torch.save, **options):
    save(value, FOLDER / file, **options)
    index.append([file, name, answer])


# Every network, in the three common forms.
for seed, name in enumerate(NETWORKS):
    net = drawn(name, seed)
    answer = expected(name, net, f"{name}.expected")
    good(f"{name}.pth", name, answer, net.state_dict())
    good(f"{name}.safetensors", name, answer, net.state_dict(), save_file)
    optimizer = torch.optim.Adam(net.parameters())
    good(f"{name}.checkpoint.pth", name, answer,
         {"epoch": 3, "model_state_dict": net.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "loss": 0.25})

# Unusual ways of saving the same.
name = "mnist-cnn-fixed"
net = drawn(name, 100)
answer = expected(name, net, "odd.expected")
state = net.state_dict()
good("nested.pth", name, answer, {"state_dict": state, "args": {"lr": 0.1, "betas": (0.9, 0.999)}, "history": [1, 2.5, None, "x"]})
good("model_key.pth", name, answer, {"model": state, "best": torch.tensor(0.5)})
good("parallel.pth", name, answer, torch.nn.DataParallel(net).state_dict())
good("plain_dict.pth", name, answer, dict(state))
good("parameters.pth", name, answer, collections.OrderedDict(net.state_dict(keep_vars=True)))
good("double.pth", name, answer, {k: v.double() if v.is_floating_point() else v for k, v in state.items()})
good("no_memo_order.pth", name, answer, collections.OrderedDict(reversed(state.items())))
good("protocol4.pth", name, answer, state, pickle_protocol=4)
good("ending.pt", name, answer, state)

# Views: transposed storage, slices of one large storage, a shared storage with offsets.
views = {}
flat = torch.cat([v.float().flatten() for v in state.values() if v.is_floating_point()])
at = 0
for key, v in state.items():
    if not v.is_floating_point():
        views[key] = v
        continue
    views[key] = flat[at:at + v.numel()].view(v.shape)
    at += v.numel()
    if v.dim() == 2:
        views[key] = v.t().contiguous().t()
    elif v.dim() == 4:
        views[key] = v.to(memory_format=torch.channels_last)
good("views.pth", name, answer, views)

# Half precision: what it is rounded to is what is expected.
for kind in (torch.float16, torch.bfloat16):
    half = drawn(name, 101)
    rounded = {k: v.to(kind) if v.is_floating_point() else v for k, v in half.state_dict().items()}
    half.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in rounded.items()})
    answer = expected(name, half, f"{str(kind)[6:]}.expected")
    good(f"{str(kind)[6:]}.pth", name, answer, rounded)
    good(f"{str(kind)[6:]}.safetensors", name, answer, rounded, save_file)


class Trap:
    """Python's own reader would run this."""

    def __reduce__(self):
        return print, ("a pickle was executed",)


def wrong(file, part, value, **options):
    torch.save(value, FOLDER / file, **options)
    bad.append([file, part])


wrong("module.pth", "no state dict but an object of", net)
wrong("trap.pth", "no state dict but an object of __builtin__.print", Trap())
wrong("legacy.pth", "format from before 1.6", state, _use_new_zipfile_serialization=False)
wrong("list.pth", "no state dict but a list", [1, 2])
wrong("numbers.pth", "a dict of epoch (an int)", {"epoch": 3})
wrong("bool.pth", "mask: a BoolStorage cannot be read", {"mask": torch.tensor([True]), "w": torch.zeros(1)})
wrong("expanded.pth", "does not fit its 1 numbers", {"w": torch.zeros(1).expand(1000)})
wrong("sparse.pth", "under 's', not a tensor", {"s": torch.eye(3).to_sparse(), "w": torch.zeros(1)})
torch.jit.save(torch.jit.trace(net, torch.randn(1, 1, 28, 28)), FOLDER / "script.pth")
bad.append(["script.pth", "TorchScript"])
(FOLDER / "bare.pkl").write_bytes(pickle.dumps({"w": 1}, protocol=2))
bad.append(["bare.pkl", "a bare pickle"])
lenet = drawn("lenet", 5).state_dict()
lenet["extra.weight"] = lenet.pop("fc3.weight")
lenet["conv1.weight"] = torch.zeros(10, 3, 5, 5)
wrong("misfit.pth", "missing fc3.weight [10, 32]\n  unexpected extra.weight [10, 32]\n  shape conv1.weight: the checkpoint has [10, 3, 5, 5]", lenet)

(FOLDER / "INDEX.json").write_text(json.dumps(index))
(FOLDER / "BAD.json").write_text(json.dumps(bad))
