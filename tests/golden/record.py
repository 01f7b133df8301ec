"""Record the golden fixtures: what PyTorch computes, for the Rust tests to agree with.

Recorded with torch 2.15.0, on the CPU, in float64, on one thread. To record again (a few seconds, no GPU, nothing downloaded):

    python3 -m pip install torch==2.15.0 torchvision numpy
    python3 tests/golden/record.py

Written beside this file, numbers with 17 significant digits (a float64 survives the round trip):

    models.json      every network but the deep ones: loss, logits, every gradient, running statistics, and the losses after SGD steps
    deep.json        ResNet-34 to -152, VGG-13 to -19: loss and logits in training and evaluation; of two of them the gradients' norms, too
    optimizers.json  the parameters after each of ten steps of every optimizer
    clip.json        the gradients of three parameters, clipped by their norm and by value
    schedules.json   the learning rate of each of 40 epochs under every schedule
    batchnorm.json   BatchNorm1d and BatchNorm2d: ten training steps, then evaluation
    ops.json         single operations on tiny shapes: the whole output and every gradient

No weight and no input is stored. They come from one formula, which Rust repeats exactly. Stream p, element i (row-major) is

    h = (i * 2654435761 + (p + 1) * 40503 + 12345) mod 2^32        in u64, then mod
    h = h xor (h >> 15);  h = (h * 2246822519) mod 2^32;  h = h xor (h >> 13)
    frac(p, i) = h / 2^32 * 2 - 1                                   exact in float64, in [-1, 1)

and the tensors are

    p                  value
    0, 1, 2, ...       parameter p of a module, in the order of named_parameters():
                       a weight of two or more dimensions is 1/sqrt(fan_in) * frac, where fan_in is the product of dims[1..];
                       the weight of a batch norm is 1 + 0.1 * frac; every bias is 0.1 * frac
    1000               the batch of images [N,C,H,W] is frac; the label of image n is (7n + 3) mod 10
    2000 + p           the vector with which parameter p's gradient is dotted is frac
    3000, 3001 + step  optimizers: the parameters, and the gradient of each step (step = 0..9), are frac
    3001 + k           clipping: the gradient of parameter k is frac, rounded to a multiple of 1/256, which is exact in f16
    4000 + step        batch norm: the input of each step (step = 0..9), and of the evaluation after them (step = 10), is frac
    5000               the cotangent (gradient of the loss with respect to the output) is frac, for a scalar its element 0
    6000, 6001, ...    ops: input 0, 1, ... of a case is scale * frac, rounded to one decimal where the case says "tenths"

The targets of losses (labels, target, teacher) are stored. The bias of a convolution or linear layer right before a batch norm has
gradient zero: what is recorded there is rounding noise (below 1e-14), to be compared with an absolute tolerance.
"""
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
IMAGES, DOT, OPTIM, NORM, COTANGENT, OPS = 1000, 2000, 3000, 4000, 5000, 6000
SGD = dict(lr=0.1, momentum=0.9, weight_decay=1e-4)


# ---- the formula

def frac(p, shape):
    """Stream p as a tensor of this shape, values in [-1, 1)."""
    i = np.arange(math.prod(shape), dtype=np.uint64)
    h = (i * np.uint64(2654435761) + np.uint64((p + 1) * 40503 + 12345)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    h ^= h >> np.uint64(13)
    return torch.tensor(h / 2.0**32 * 2 - 1, dtype=torch.get_default_dtype()).reshape(shape)


def fill(module):
    """Give every parameter of a module its value by the formula."""
    with torch.no_grad():
        for p, (name, w) in enumerate(module.named_parameters()):
            f = frac(p, w.shape)
            if w.dim() >= 2:
                w.copy_(1 / math.sqrt(math.prod(w.shape[1:])) * f)
            elif name.endswith("weight"):
                w.copy_(1 + 0.1 * f)
            else:
                w.copy_(0.1 * f)
    return module


def labels(n):
    return [(7 * k + 3) % 10 for k in range(n)]


# ---- the networks; attributes stand in the order in which they run, so named_parameters() does too

def pool(x):
    return F.max_pool2d(x, 2)


class LeNet(nn.Module):
    """conv, pool, activation, twice; three linear layers."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(320, 128)
        self.fc2 = nn.Linear(128, 32)
        self.fc3 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.act(pool(self.conv1(x)))
        x = self.act(pool(self.conv2(x))).flatten(1)
        return self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))


class LeNetBn3(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(576, 10)

    def forward(self, x):
        x = pool(F.relu(self.bn1(self.conv1(x))))
        x = pool(F.relu(self.bn2(self.conv2(x))))
        x = pool(F.relu(self.bn3(self.conv3(x))))
        return self.fc(x.flatten(1))


class Digit(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 3)
        self.fc1 = nn.Linear(2000, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x):
        x = F.relu(pool(self.conv1(x)))
        x = F.relu(self.conv2(x)).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class RgbCnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.fc1 = nn.Linear(576, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = pool(F.relu(conv(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class MnistCnn(nn.Module):
    """No activation between the two linear layers: a defect of the original, kept."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x):
        x = pool(F.relu(self.conv1(x)))
        x = pool(F.relu(self.conv2(x)))
        return self.fc2(self.fc1(x.flatten(1)))


class MnistCnnFixed(nn.Module):
    """Dropout stands before fc2 in the network; it is off here."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.bn1 = nn.BatchNorm2d(10)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x):
        x = pool(F.relu(self.bn1(self.conv1(x))))
        x = pool(F.relu(self.conv2(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Improved(nn.Module):
    """Dropout2d stands after each pool and Dropout before fc2 in the network; they are off here."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(64)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1)
        self.bn4 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(3136, 256)
        self.bn5 = nn.BatchNorm1d(256)
        self.fc2 = nn.Linear(256, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = pool(F.relu(self.bn2(self.conv2(x))))
        x = F.relu(self.bn3(self.conv3(x)))
        x = pool(F.relu(self.bn4(self.conv4(x))))
        return self.fc2(F.relu(self.bn5(self.fc1(x.flatten(1)))))


class Net1(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.fc = nn.Linear(360, 10)

    def forward(self, x):
        return self.fc(F.relu(F.max_pool2d(self.conv1(x), 4)).flatten(1))


class Simple(nn.Module):
    """Convolutions of one size without padding, each with batch norm and ReLU, then one linear layer with batch norm."""

    def __init__(self, kernel, *channels):
        super().__init__()
        cin, side = 1, 28
        for i, cout in enumerate(channels, 1):
            setattr(self, f"conv{i}", nn.Conv2d(cin, cout, kernel, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(cout))
            cin, side = cout, side + 1 - kernel
        self.count = len(channels)
        self.fc = nn.Linear(side * side * cin, 10)
        self.bn_fc = nn.BatchNorm1d(10)

    def forward(self, x):
        for i in range(1, self.count + 1):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return self.bn_fc(self.fc(x.flatten(1)))


class Block(nn.Module):
    """Basic residual block. `projection` is the convolution of the shortcut, used when the shape changes."""

    def __init__(self, cin, cout, stride, projection):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(projection(cin, cout, stride), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet8(nn.Module):
    """The shortcut is a 3x3 convolution with bias; a max pool of 3, stride 1, follows the first convolution."""

    def __init__(self):
        super().__init__()
        project = lambda cin, cout, stride: nn.Conv2d(cin, cout, 3, stride, 1)
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1, project))
        self.layer2 = nn.Sequential(Block(16, 32, 2, project))
        self.layer3 = nn.Sequential(Block(32, 64, 2, project))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 1, 1)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.avg_pool2d(x, 7).flatten(1))


class Bottleneck(nn.Module):
    """Residual block of three convolutions, the stride on the second as in torchvision; the shortcut is a 1x1 convolution without bias."""

    def __init__(self, cin, width, stride):
        super().__init__()
        cout = 4 * width
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class DeepResNet(nn.Module):
    """The CIFAR form: 3x32x32, no pool after the first convolution; the shortcut is a 1x1 convolution without bias."""

    def __init__(self, bottleneck, *blocks):
        super().__init__()
        project = lambda cin, cout, stride: nn.Conv2d(cin, cout, 1, stride, bias=False)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        cin = 64
        for stage, count in enumerate(blocks):
            layer = nn.Sequential()
            for block in range(count):
                width, stride = 64 << stage, 2 if stage and not block else 1
                layer.append(Bottleneck(cin, width, stride) if bottleneck else Block(cin, width, stride, project))
                cin = 4 * width if bottleneck else width
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = nn.Linear(cin, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Vgg(nn.Module):
    """torchvision's vgg*_bn with a mean over all places before a narrow head. Dropout is off here, and a pool that would leave nothing is left out."""

    def __init__(self, *blocks):
        super().__init__()
        features, cin = [], 3
        for count, cout in zip(blocks, (64, 128, 256, 512, 512)):
            for _ in range(count):
                features += [nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU()]
                cin = cout
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        off = nn.Identity
        self.classifier = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), off(), nn.Linear(512, 512), nn.ReLU(), off(), nn.Linear(512, 10))

    def forward(self, x):
        for layer in self.features:
            if not isinstance(layer, nn.MaxPool2d) or min(x.shape[2:]) > 1:
                x = layer(x)
        return self.classifier(x.mean((2, 3)))


NETWORKS = {  # name: (constructor, input shape, also record ten steps)
    "lenet": (lambda: LeNet(F.leaky_relu), [5, 1, 28, 28], True),
    "lenet-relu": (lambda: LeNet(F.relu), [5, 1, 28, 28], False),
    "lenet-bn3": (LeNetBn3, [5, 1, 28, 28], False),
    "digit": (Digit, [5, 1, 28, 28], False),
    "rgb-cnn": (RgbCnn, [5, 3, 28, 28], False),
    "mnist-cnn": (MnistCnn, [5, 1, 28, 28], False),
    "mnist-cnn-fixed": (MnistCnnFixed, [5, 1, 28, 28], False),
    "improved": (Improved, [5, 1, 28, 28], False),
    "net1": (Net1, [5, 1, 28, 28], False),
    # Four images: of five, some number before a ReLU lies so near 0 that f32's rounding decides whether it is passed on.
    "simple3": (lambda: Simple(3, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176), [4, 1, 28, 28], False),
    "simple5": (lambda: Simple(5, 32, 64, 96, 128, 160), [5, 1, 28, 28], False),
    "simple7": (lambda: Simple(7, 48, 96, 144, 192), [5, 1, 28, 28], False),
    "resnet8": (ResNet8, [5, 1, 28, 28], True),
    "resnet18": (lambda: DeepResNet(False, 2, 2, 2, 2), [2, 3, 32, 32], False),
    "vgg11": (lambda: Vgg(1, 1, 2, 2, 2), [2, 3, 32, 32], False),
}

DEEP = {  # name: (constructor, input shape, also record gradients); 28x28 leaves out VGG's last pool
    "resnet34": (lambda: DeepResNet(False, 3, 4, 6, 3), [8, 3, 8, 8], False),
    "resnet50": (lambda: DeepResNet(True, 3, 4, 6, 3), [8, 3, 8, 8], True),
    "resnet101": (lambda: DeepResNet(True, 3, 4, 23, 3), [8, 3, 8, 8], False),
    "resnet152": (lambda: DeepResNet(True, 3, 8, 36, 3), [8, 3, 8, 8], False),
    "vgg13": (lambda: Vgg(2, 2, 2, 2, 2), [8, 3, 28, 28], False),
    "vgg16": (lambda: Vgg(2, 2, 3, 3, 3), [3, 3, 32, 32], True),
    "vgg19": (lambda: Vgg(2, 2, 4, 4, 4), [3, 3, 32, 32], False),
}


def model(build, shape, ten):
    """One training step seen from every side, then the two losses after it; `losses`: of each of ten steps from the same start."""
    x, target = frac(IMAGES, shape), torch.tensor(labels(shape[0]))

    net = fill(build()).train()
    opt = torch.optim.SGD(net.parameters(), **SGD)
    logits = net(x)
    loss = F.cross_entropy(logits, target)
    loss.backward()
    out = {"input": shape, "labels": labels(shape[0]), "loss": loss.item(), "logits": logits.tolist(), "gradients": []}
    for p, (name, w) in enumerate(net.named_parameters()):
        g = w.grad.flatten()
        out["gradients"].append({
            "name": name, "shape": list(w.shape), "sum": g.sum().item(), "sum_of_squares": (g * g).sum().item(),
            "dot": (g * frac(DOT + p, g.shape)).sum().item(), "first": g[:4].tolist(), "last": g[-4:].tolist()})
    head = lambda v: {"sum": v.sum().item(), "first": v[:4].tolist()}
    out["running"] = [{"name": name, "mean": head(m.running_mean), "var": head(m.running_var)}
                      for name, m in net.named_modules() if hasattr(m, "running_mean")]
    opt.step()
    out["sgd"] = SGD
    with torch.no_grad():
        out["loss_after_step"] = F.cross_entropy(net(x), target).item()
        out["eval_loss_after_step"] = F.cross_entropy(net.eval()(x), target).item()

    if ten:
        net = fill(build()).train()
        opt = torch.optim.SGD(net.parameters(), **SGD)
        out["losses"] = []
        for _ in range(10):
            opt.zero_grad()
            loss = F.cross_entropy(net(x), target)
            loss.backward()
            opt.step()
            out["losses"].append(loss.item())
    return out


def models():
    return {name: model(*spec) for name, spec in NETWORKS.items()}


def torchvisions(name, net):
    """The network of this name in torchvision, mended to our stem or head, with the numbers of `net`."""
    import torchvision

    theirs = getattr(torchvision.models, f"{name}_bn" if name.startswith("vgg") else name)(num_classes=10)
    if name.startswith("resnet"):
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
    else:
        theirs.avgpool = nn.AdaptiveAvgPool2d(1)
        theirs.classifier[0] = nn.Linear(512, 512)
        theirs.classifier[3] = nn.Linear(512, 512)
        theirs.classifier[6] = nn.Linear(512, 10)
    theirs.load_state_dict({key.replace("shortcut", "downsample"): v for key, v in net.state_dict().items()})
    return theirs.eval()


def deep():
    out = {}
    for name, (build, shape, gradients) in DEEP.items():
        x, target = frac(IMAGES, shape), torch.tensor(labels(shape[0]))
        net = fill(build()).train()
        logits = net(x)
        loss = F.cross_entropy(logits, target)
        out[name] = {"input": shape, "labels": labels(shape[0]), "loss": loss.item(), "logits": logits.tolist(),
                     "parameters": sum(w.numel() for w in net.parameters())}
        names = "".join(f"{name} {list(w.shape)}\n" for name, w in net.named_parameters())
        out[name]["names"] = hashlib.sha256(names.encode()).hexdigest()
        if gradients:
            loss.backward()
            out[name]["gradients"] = [  # norm and projection of each
                [w.grad.norm().item(), (w.grad.flatten() * frac(DOT + p, [w.numel()])).sum().item()]
                for p, w in enumerate(net.parameters())]
        with torch.no_grad():
            out[name]["eval_logits"] = net.eval()(x).tolist()
            if name != "vgg13":  # torchvision's cannot leave out a pool
                difference = (torchvisions(name, net)(x) - net(x)).abs().max()
                assert difference < 1e-12, f"{name} is not torchvision's: {difference}"
    return out


# ---- optimizers

OPTIMIZERS = [  # name, class, arguments (PyTorch's defaults are written out where a test must know them)
    ("sgd", torch.optim.SGD, dict(lr=0.1)),
    ("sgd-momentum", torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
    ("sgd-momentum-decay", torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=1e-2)),
    ("sgd-nesterov-decay", torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True)),
    ("sgd-nesterov", torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
    ("sgd-dampening-0", torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.0)),
    ("sgd-dampening", torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.5)),
    ("sgd-decay", torch.optim.SGD, dict(lr=0.1, weight_decay=1e-2)),
    ("adam", torch.optim.Adam, dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8)),
    ("adam-decay", torch.optim.Adam, dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)),
    ("adam-betas", torch.optim.Adam, dict(lr=1e-3, betas=(0.8, 0.99), eps=1e-6)),
    ("adamw", torch.optim.AdamW, dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)),
    ("rmsprop", torch.optim.RMSprop, dict(lr=1e-2, alpha=0.99, eps=1e-8)),
    ("rmsprop-momentum", torch.optim.RMSprop, dict(lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.9)),
    ("rmsprop-centered", torch.optim.RMSprop, dict(lr=1e-2, alpha=0.99, eps=1e-8, centered=True)),
    ("rmsprop-decay", torch.optim.RMSprop, dict(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=1e-2)),
]


def optimizers():
    out = {}
    for name, kind, args in OPTIMIZERS:
        w = nn.Parameter(frac(OPTIM, [7]))
        opt, after = kind([w], **args), []
        for step in range(10):
            w.grad = frac(OPTIM + 1 + step, [7])
            opt.step()
            after.append(w.tolist())
        out[name] = {"kind": kind.__name__, "args": {k: list(v) if k == "betas" else v for k, v in args.items()}, "after": after}
    return out


# ---- clipping

def clip():
    """A norm that is too long, one that is not, and a bound for each number."""
    out = []
    for by, most in [("norm", 0.5), ("norm", 1.5), ("norm", 100.0), ("value", 0.25), ("value", 10.0)]:
        params = [nn.Parameter(torch.zeros(n)) for n in (7, 5000, 3)]
        for k, w in enumerate(params):
            w.grad = torch.round(frac(OPTIM + 1 + k, w.shape) * 256) / 256
        norm = torch.nn.utils.get_total_norm([w.grad for w in params]).item()
        if by == "norm":
            torch.nn.utils.clip_grad_norm_(params, most)
        else:
            torch.nn.utils.clip_grad_value_(params, most)
        head = lambda g: {"sum_of_squares": (g * g).sum().item(), "first": g[:7].tolist()}
        out.append({"by": by, "most": most, "norm": norm, "gradients": [head(w.grad) for w in params]})
    return out


# ---- schedules

# A loss that falls, stands, falls once, falls by less than the relative threshold of 1e-4 (no improvement), stands, falls.
METRIC = [1.0, 0.8, 0.7, 0.65, 0.62, 0.61, 0.615, 0.612, 0.61, 0.63, 0.62, 0.611, 0.64, 0.613, 0.55, 0.54997, 0.551, 0.56, 0.552, 0.55,
          0.57, 0.553, 0.554, 0.551, 0.55, 0.56, 0.555, 0.58, 0.551, 0.552, 0.55, 0.56, 0.57, 0.551, 0.552, 0.553, 0.5, 0.49, 0.48, 0.47]

LR = torch.optim.lr_scheduler
SCHEDULES = [  # name, class, arguments
    ("constant", None, {}),
    ("step", LR.StepLR, dict(step_size=10, gamma=0.1)),
    ("multistep", LR.MultiStepLR, dict(milestones=[20, 30], gamma=0.1)),
    ("cosine", LR.CosineAnnealingLR, dict(T_max=40)),
    ("cosine-floor", LR.CosineAnnealingLR, dict(T_max=40, eta_min=1e-3)),
    ("onecycle", LR.OneCycleLR, dict(max_lr=0.1, total_steps=40)),
    ("plateau-5-half", LR.ReduceLROnPlateau, dict(mode="min", factor=0.5, patience=5)),
    ("plateau", LR.ReduceLROnPlateau, dict(mode="min", factor=0.1, patience=10)),
    ("plateau-max", LR.ReduceLROnPlateau, dict(mode="max", factor=0.1, patience=10)),
]


def schedules():
    """lr[e] is the rate in use during epoch e; the scheduler is stepped after each epoch, on metric[e] where it takes one."""
    out = {}
    for name, kind, args in SCHEDULES:
        opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        scheduler = kind(opt, **args) if kind else None
        plateau = kind is LR.ReduceLROnPlateau
        metric = [1 - m for m in METRIC] if args.get("mode") == "max" else METRIC
        lr, momentum = [], []
        for epoch in range(40):
            lr.append(opt.param_groups[0]["lr"])
            momentum.append(opt.param_groups[0]["momentum"])
            opt.step()
            if scheduler and epoch < 39:
                scheduler.step(metric[epoch]) if plateau else scheduler.step()
        out[name] = {"kind": kind.__name__ if kind else "constant", "base_lr": 0.1, "args": args, "lr": lr}
        if plateau:
            out[name]["metric"] = metric
        if kind is LR.OneCycleLR:
            out[name]["momentum"] = momentum  # it cycles the momentum too, the other way round
    return out


# ---- batch norm

def batchnorm():
    out = {}
    for name, norm, shape in [("2d", nn.BatchNorm2d(3), [5, 3, 4, 3]), ("1d", nn.BatchNorm1d(4), [17, 4])]:
        fill(norm).train()
        dy = frac(COTANGENT, shape)

        def run(step):
            """One forward and backward, in full."""
            norm.zero_grad()
            x = frac(NORM + step, shape).requires_grad_()
            y = norm(x)
            y.backward(dy)
            return {"y": y.flatten().tolist(), "dx": x.grad.flatten().tolist(),
                    "dweight": norm.weight.grad.tolist(), "dbias": norm.bias.grad.tolist()}

        steps, first = [], None
        for step in range(10):
            whole = run(step)
            first = first or whole
            y = whole["y"]
            steps.append({"sum": torch.tensor(y).sum().item(), "first": y[:8],
                          "running_mean": norm.running_mean.tolist(), "running_var": norm.running_var.tolist()})
        norm.eval()
        out[name] = {"shape": shape, "weight": norm.weight.tolist(), "bias": norm.bias.tolist(), "eps": norm.eps, "momentum": norm.momentum,
                     "first_step": first, "steps": steps, "num_batches_tracked": norm.num_batches_tracked.item(), "eval": run(10)}
    return out


# ---- single operations

class Case:
    """Inputs by the formula in the order in which they are asked for; then the output, and the gradients for the cotangent."""

    def __init__(self, op, attrs):
        self.record = {"op": op, "attrs": attrs, "inputs": []}
        self.wanted = []

    def input(self, name, shape, scale=1.0, tenths=False):
        p = OPS + len(self.record["inputs"])
        self.record["inputs"].append({"name": name, "shape": shape, "p": p, "scale": scale, "tenths": tenths})
        x = scale * frac(p, shape)
        x = torch.round(x * 10) / 10 if tenths else x
        self.wanted.append((name, x.requires_grad_()))
        return x

    def constant(self, key, value):
        """A target: stored, not given by the formula, and without a gradient."""
        self.record[key] = value.tolist()
        return value

    def done(self, y):
        y.backward(frac(COTANGENT, y.shape))
        self.record["output"] = {"shape": list(y.shape), "values": y.detach().flatten().tolist()}
        self.record["gradients"] = {name: x.grad.flatten().tolist() for name, x in self.wanted}
        return self.record


def conv_cases():
    #       n  cin cout h  w   kernel   s  p  bias
    for n, cin, cout, h, w, kernel, stride, padding, bias in [
            (2, 2, 3, 5, 4, (1, 1), 1, 0, True),
            (3, 3, 2, 7, 5, (1, 1), 2, 0, False),
            (2, 2, 2, 5, 6, (1, 1), 3, 1, True),
            (2, 1, 3, 7, 5, (3, 3), 1, 0, True),
            (3, 2, 3, 5, 5, (3, 3), 1, 1, False),
            (2, 3, 2, 4, 3, (3, 3), 1, 2, True),
            (2, 2, 3, 7, 6, (3, 3), 2, 0, True),
            (2, 2, 3, 7, 5, (3, 3), 2, 1, False),
            (3, 2, 2, 8, 8, (3, 3), 2, 1, True),
            (2, 2, 2, 9, 7, (3, 3), 3, 2, True),
            (2, 1, 3, 7, 5, (5, 5), 1, 0, True),
            (2, 2, 2, 6, 5, (5, 5), 1, 2, False),
            (2, 2, 2, 7, 7, (5, 5), 2, 2, True),
            (3, 1, 1, 8, 7, (5, 5), 3, 1, True),
            (2, 2, 3, 5, 6, (2, 3), 1, 0, True),
            (2, 2, 2, 4, 5, (2, 3), 1, 1, False),
            (3, 2, 2, 7, 7, (2, 3), 2, 1, True),
            (2, 3, 2, 7, 5, (2, 3), 3, 2, False)]:
        c = Case("conv2d", {"kernel": list(kernel), "stride": stride, "padding": padding, "bias": bias})
        x, weight = c.input("x", [n, cin, h, w]), c.input("weight", [cout, cin, *kernel])
        yield c.done(F.conv2d(x, weight, c.input("bias", [cout]) if bias else None, stride, padding))


def pool_cases():
    """The tied inputs settle which of several equal maxima takes the gradient: the first, row by row."""
    for kernel, stride, padding, size in [(2, 2, 0, (7, 6)), (3, 1, 1, (6, 5)), (3, 2, 1, (7, 6)), (4, 4, 0, (9, 8))]:
        for tenths in (False, True):
            c = Case("max_pool2d", {"kernel": kernel, "stride": stride, "padding": padding})
            yield c.done(F.max_pool2d(c.input("x", [2, 2, *size], tenths=tenths), kernel, stride, padding))
    for kernel, stride, padding, size in [(2, 2, 0, (7, 6)), (3, 2, 1, (7, 6)), (7, 7, 0, (7, 7))]:
        c = Case("avg_pool2d", {"kernel": kernel, "stride": stride, "padding": padding, "count_include_pad": True})
        yield c.done(F.avg_pool2d(c.input("x", [2, 2, *size]), kernel, stride, padding))


def row_cases():
    """Linear, activations, softmax and the losses. Scale 100 would overflow a softmax that does not subtract the maximum in float32."""
    for bias in (True, False):
        c = Case("linear", {"bias": bias})
        x, weight = c.input("x", [3, 5]), c.input("weight", [4, 5])
        yield c.done(F.linear(x, weight, c.input("bias", [4]) if bias else None))
    c = Case("relu", {})
    yield c.done(F.relu(c.input("x", [3, 7])))
    for slope in (0.01, 0.2):
        c = Case("leaky_relu", {"slope": slope})
        yield c.done(F.leaky_relu(c.input("x", [3, 7]), slope))
    for op in (F.log_softmax, F.softmax):
        for scale in (3.0, 100.0):
            c = Case(op.__name__, {"dim": 1})
            yield c.done(op(c.input("x", [3, 5], scale), 1))

    target = torch.tensor([3, 0, 4])
    soft = F.softmax(4 * frac(OPS + 1, [3, 5]), 1)
    c = Case("nll_loss", {"reduction": "mean"})
    yield c.done(F.nll_loss(c.input("x", [3, 5]), c.constant("labels", target)))
    for reduction, smoothing, scale in [("mean", 0.0, 3.0), ("mean", 0.0, 100.0), ("sum", 0.0, 3.0), ("mean", 0.1, 3.0), ("sum", 0.1, 3.0)]:
        c = Case("cross_entropy", {"reduction": reduction, "label_smoothing": smoothing})
        x, y = c.input("x", [3, 5], scale), c.constant("labels", target)
        yield c.done(F.cross_entropy(x, y, reduction=reduction, label_smoothing=smoothing))
    for smoothing in (0.0, 0.1):
        c = Case("cross_entropy", {"reduction": "mean", "label_smoothing": smoothing})
        yield c.done(F.cross_entropy(c.input("x", [3, 5], 3.0), c.constant("target", soft), label_smoothing=smoothing))
    c = Case("kl_div", {"reduction": "batchmean"})
    yield c.done(F.kl_div(c.input("x", [3, 5]), c.constant("target", soft), reduction="batchmean"))
    for t in (1.0, 4.0):  # student logits x against teacher logits: T^2 * KL(softmax(teacher/T) || softmax(x/T))
        c = Case("distillation", {"temperature": t})
        x, teacher = c.input("x", [3, 5], 3.0), c.constant("teacher", 5 * frac(OPS + 1, [3, 5]))
        yield c.done(t * t * F.kl_div(F.log_softmax(x / t, 1), F.softmax(teacher / t, 1), reduction="batchmean"))


def ops():
    return [*conv_cases(), *pool_cases(), *row_cases()]


# ---- writing

def dump(v, indent=0):
    """JSON with floats of 17 significant digits; whatever is at most two levels deep stands on one line."""
    depth = lambda v: 1 + max(map(depth, v.values() if isinstance(v, dict) else v), default=0) if isinstance(v, (dict, list)) else 0
    if isinstance(v, float):
        assert math.isfinite(v)
        return format(v, ".17g")
    if not isinstance(v, (dict, list)):
        return json.dumps(v)
    left, right = "{}" if isinstance(v, dict) else "[]"
    flat = depth(v) <= 2
    pad = "" if flat else "\n" + " " * (indent + 1)
    items = [f"{json.dumps(k)}: {dump(x, indent + 1)}" for k, x in v.items()] if isinstance(v, dict) else [dump(x, indent + 1) for x in v]
    return left + pad + (", " if flat else "," + pad).join(items) + ("" if flat else "\n" + " " * indent) + right


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for record in (models, deep, optimizers, clip, schedules, batchnorm, ops):
        path = HERE / f"{record.__name__}.json"
        formula = {str(p): frac(p, [4]).tolist() for p in (0, 1000)}  # so that a wrong formula shows before anything else
        path.write_text(dump({"torch": torch.__version__.split("+")[0], "formula": formula, record.__name__: record()}) + "\n")
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
