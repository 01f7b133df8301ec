"""Steps of one network in PyTorch, run for as long as somebody asks: PyTorch's side of the comparison with cugrad.

`step.rs` does the same with cugrad and says how to talk to either. The networks are those of `src/models/` under the same names,
layer for layer. Read next: `compare.py`, which starts both.
"""
import argparse
import json
import resource
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

WARM_UP = 5  # steps before "ready": PyTorch chooses its kernels in them


# ---- the networks

def conv(i, o, k, padding=0):
    return nn.Conv2d(i, o, k, padding=padding)


def conv_bn(i, o, k, padding=0):
    return [conv(i, o, k, padding), nn.BatchNorm2d(o), nn.ReLU()]


def lenet(act):
    return nn.Sequential(
        conv(1, 10, 5), nn.MaxPool2d(2), act(), conv(10, 20, 5), nn.MaxPool2d(2), act(), nn.Flatten(),
        nn.Linear(320, 128), act(), nn.Linear(128, 32), act(), nn.Linear(32, 10))


def lenet_bn3():
    return nn.Sequential(
        *conv_bn(1, 16, 5, 2), nn.MaxPool2d(2), *conv_bn(16, 32, 5, 2), nn.MaxPool2d(2), *conv_bn(32, 64, 3, 1), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(576, 10))


def digit():
    return nn.Sequential(
        conv(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(), conv(10, 20, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(2000, 500), nn.ReLU(), nn.Linear(500, 10))


def rgb_cnn():
    stage = lambda i, o: [conv(i, o, 3, 1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *stage(3, 32), *stage(32, 64), *stage(64, 64), nn.Flatten(), nn.Linear(576, 128), nn.ReLU(), nn.Linear(128, 10))


def mnist_cnn():
    return nn.Sequential(
        conv(1, 10, 5), nn.ReLU(), nn.MaxPool2d(2), conv(10, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(320, 50), nn.Linear(50, 10))


def mnist_cnn_fixed():
    return nn.Sequential(
        *conv_bn(1, 10, 5), nn.MaxPool2d(2), conv(10, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(320, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 10))


def improved():
    stage = lambda i, o: [*conv_bn(i, o, 3, 1), *conv_bn(o, o, 3, 1), nn.MaxPool2d(2), nn.Dropout2d(0.25)]
    return nn.Sequential(
        *stage(1, 32), *stage(32, 64), nn.Flatten(),
        nn.Linear(3136, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))


def net1():
    return nn.Sequential(conv(1, 10, 5), nn.MaxPool2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(360, 10))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them; `project` is the convolution of a shortcut whose shape changes."""

    def __init__(self, i, o, stride, project):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        same = stride == 1 and i == o
        self.shortcut = nn.Identity() if same else nn.Sequential(project(i, o, stride), nn.BatchNorm2d(o))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet8():
    project = lambda i, o, stride: nn.Conv2d(i, o, 3, stride, 1)
    return nn.Sequential(
        *conv_bn(1, 16, 3, 1), nn.MaxPool2d(3, 1, 1),
        Block(16, 16, 1, project), Block(16, 32, 2, project), Block(32, 64, 2, project),
        nn.AvgPool2d(7), nn.Flatten(), nn.Linear(64, 10))


def resnet18():
    project = lambda i, o, stride: nn.Conv2d(i, o, 1, stride, bias=False)
    stage = lambda i, o, stride: [Block(i, o, stride, project), Block(o, o, 1, project)]
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        *stage(64, 64, 1), *stage(64, 128, 2), *stage(128, 256, 2), *stage(256, 512, 2),
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))


GREY, COLOUR = (1, 28, 28), (3, 28, 28)
NETWORKS = {  # name: (the pictures it takes, what builds it)
    "lenet": (GREY, lambda: lenet(nn.LeakyReLU)),  # slope 0.01, as in cugrad
    "lenet-relu": (GREY, lambda: lenet(nn.ReLU)),
    "lenet-bn3": (GREY, lenet_bn3),
    "digit": (GREY, digit),
    "rgb-cnn": (COLOUR, rgb_cnn),
    "mnist-cnn": (GREY, mnist_cnn),
    "mnist-cnn-fixed": (GREY, mnist_cnn_fixed),
    "improved": (GREY, improved),
    "net1": (GREY, net1),
    "resnet8": (GREY, resnet8),
    "resnet18": ((3, 32, 32), resnet18),
}


# ---- the worker

def step(args):
    """A function that runs one step, and the number of parameters that it moves."""
    torch.manual_seed(0)
    shape, build = NETWORKS[args.model]
    net = build()
    x, labels = torch.randn(args.batch, *shape), torch.randint(0, 10, (args.batch,))
    if args.channels_last:
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def train():
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()

    def infer():
        with torch.inference_mode():
            net(x)

    net.train(not args.infer)
    return infer if args.infer else train, sum(w.numel() for w in net.parameters())


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def window(run, seconds):
    """Whole steps until so many seconds have passed, and one at least."""
    faults, steps, began = page_faults(), 0, time.perf_counter()
    while True:
        run()
        steps += 1
        took = time.perf_counter() - began
        if took >= seconds:
            return {"steps": steps, "seconds": took, "page_faults": page_faults() - faults}


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main():
    parser = argparse.ArgumentParser(description='Run steps of a network in PyTorch, as lines "run SECONDS" on the input ask for.')
    parser.add_argument("--model", required=True, choices=NETWORKS)
    parser.add_argument("--batch", required=True, type=positive, help="images of a step")
    parser.add_argument("--infer", action="store_true", help="inference instead of training")
    parser.add_argument("--threads", type=positive, help="threads to compute on (default: PyTorch's)")
    parser.add_argument("--channels-last", action="store_true", help="keep the channels of a pixel side by side in memory")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    run, parameters = step(args)
    for _ in range(WARM_UP):
        run()
    print("ready", parameters, flush=True)
    for line in sys.stdin:
        try:
            word, seconds = line.split()
            seconds = float(seconds)
        except ValueError:
            word = None
        if word != "run":
            parser.error(f"cannot read the line {line!r}: write, say, run 1.0")
        print(json.dumps(window(run, seconds)), flush=True)


if __name__ == "__main__":
    main()
