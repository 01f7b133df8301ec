"""Compare the speed of cugrad and of PyTorch on the CPU: training steps, or inference, of the same networks.

    python3 -m pip install torch numpy
    python3 benches/compare/compare.py

prints a table, a row for each network and batch size; `--infer` compares inference, `--help` says what else can be chosen. Only the
standard library is used here: `step.rs` and `torch_step.py` are what is measured. Read next: `README.md`, for why like this.
"""
import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

NETWORKS = ["lenet", "digit", "mnist-cnn", "net1", "lenet-bn3", "rgb-cnn", "resnet8", "improved"]
BATCHES = [32, 128, 512]
SIDES = ["cugrad", "torch NCHW", "torch channels_last"]

# Without these, glibc gives every large tensor of PyTorch back to the system and fetches it anew, page by page, in each step.
# cugrad keeps its memory by itself.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}

# Between windows, in seconds: OpenMP's threads turn in circles for some milliseconds before they sleep, at the cost of who comes next.
PAUSE = 0.05

# More cores than this for other programs make a row doubtful.
BUSY = 0.1


class Failure(Exception):
    """Something that ends the comparison, to be told without a traceback."""


class Worker:
    """A process that runs steps when asked; it ends when its input does, so that none outlives this one."""

    def __init__(self, name, command, env):
        self.name = name
        # A file, as a pipe that nobody reads would stop a worker that says much.
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        # In a session of its own: Ctrl-C is for this process, which then ends the workers.
        self.process = subprocess.Popen(
            command, env=os.environ | env, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)

    def parameters(self):
        """Waits until it is ready; gives the number of its network's parameters."""
        word, _, parameters = self.read().partition(" ")
        if word != "ready":
            raise Failure(f"{self.name} said {word!r} instead of ready")
        return int(parameters)

    def run(self, seconds):
        """Lets it run for so long; gives what it counted, and how many cores were busy with anything else."""
        before = self.others()
        try:
            self.process.stdin.write(f"run {seconds}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # read() says more
        window = json.loads(self.read())
        window["other_load"] = None if before is None else max(0.0, self.others() - before) / window["seconds"]
        return window

    def others(self):
        """Seconds of cores that went to other processes, or to other machines of the same host, so far; None without /proc."""
        try:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
            mine = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
        except OSError:
            return None
        ticks = user + nice + system + irq + softirq + steal - sum(map(int, mine))
        return ticks / os.sysconf("SC_CLK_TCK")

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            raise Failure(f"{self.name} ended with code {code}:\n{self.errors.read().rstrip()}")
        return line

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def output(*command, cwd=None):
    """What a command prints."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    except OSError as e:
        raise Failure(f"{command[0]} cannot be started: {e.strerror}") from None
    if done.returncode:
        raise Failure(f"{' '.join(command)} failed:\n{done.stderr.rstrip()}")
    return done.stdout.strip()


def build():
    """Builds cugrad's worker; gives the path of the program."""
    cargo = os.environ.get("CARGO", "cargo")
    # Diagnostics are for people and go to stderr; artifacts are told in JSON.
    command = [cargo, "bench", "--bench", "step", "--no-run", "--message-format=json-render-diagnostics"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    except OSError as e:
        raise Failure(f"{cargo} cannot be started: {e.strerror}") from None
    if done.returncode:
        raise Failure("cargo could not build the worker")
    for message in map(json.loads, done.stdout.splitlines()):
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "step" and message["executable"]:
            return message["executable"]
    raise Failure("cargo did not say where the worker is")


def torch_version(python):
    try:
        return output(python, "-c", "import torch; print(torch.__version__)")
    except Failure as e:
        raise Failure(f"{e}\n{python} needs PyTorch (python3 -m pip install torch numpy), or choose another with --python") from None


def cpu():
    """The processor's name, and the widest of its vector and matrix instructions that cugrad may pick."""
    with contextlib.suppress(OSError):
        fields = dict(line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines())
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        flags = fields.get("flags", "").split()
        picks = [name for flag, name in (("amx_bf16", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags]
        if "model name" in fields:
            return ", ".join([fields["model name"], *picks[:1]])
    return platform.processor() or platform.machine()


def about(args):
    """Where and with what it is measured."""
    commit = "unknown"
    with contextlib.suppress(Failure):  # a copy without git
        commit = output("git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12", cwd=ROOT)
    return {
        "what": "inference" if args.infer else "training step",
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "torch": torch_version(args.python),
        "rustc": output("rustc", "--version", cwd=ROOT),
        "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "windows": args.windows,
        "seconds": args.seconds,
    }


def measure(program, network, batch, args):
    """The windows of all sides for one network and batch, and what they come to."""
    options = ["--model", network, "--batch", str(batch), "--threads", str(args.threads), *(["--infer"] if args.infer else [])]
    torch = [args.python, str(HERE / "torch_step.py"), *options]
    torch_env = KEEP_MEMORY | {"OMP_NUM_THREADS": str(args.threads)}
    commands = [
        ([program, *options], {"RAYON_NUM_THREADS": str(args.threads)}),
        (torch, torch_env),
        ([*torch, "--channels-last"], torch_env),
    ]
    with contextlib.ExitStack() as stack:
        workers = []
        for side, (command, env) in zip(SIDES, commands):
            workers.append(Worker(f"{side} ({network}, batch {batch})", command, env))
            stack.callback(workers[-1].close)
        parameters = [worker.parameters() for worker in workers]
        if len(set(parameters)) > 1:
            raise Failure(f"{network} is not the same network everywhere: it has {parameters} parameters in {SIDES}")
        windows = {side: [] for side in SIDES}
        for _ in range(args.windows):
            for side, worker in zip(SIDES, workers):
                time.sleep(PAUSE)
                windows[side].append(worker.run(args.seconds))

    speeds = {side: [w["steps"] * batch / w["seconds"] for w in windows[side]] for side in SIDES}
    medians = {side: statistics.median(s) for side, s in speeds.items()}
    better = max(SIDES[1:], key=medians.get)
    mine = windows["cugrad"]
    steps = sum(w["steps"] for w in mine)
    per_step = lambda key: None if mine[0][key] is None else sum(w[key] for w in mine) / steps
    loads = [w["other_load"] for side in SIDES for w in windows[side]]
    return {
        "network": network,
        "batch": batch,
        "parameters": parameters[0],
        "images_per_second": {side: {"median": medians[side], "min": min(s), "max": max(s)} for side, s in speeds.items()},
        "better": better,
        "ratio": medians["cugrad"] / medians[better],
        "ratios_of_pairs": [a / b for a, b in zip(speeds["cugrad"], speeds[better])],
        "page_faults_per_step": per_step("page_faults"),
        "allocations_per_step": per_step("allocations"),
        "other_load": None if None in loads else statistics.mean(loads),
        "windows": windows,
    }


# ---- the table

HEAD = [
    "network", "batch", *(f"{side} img/s" for side in SIDES),
    "ratio", "ratio of pairs", "page faults/step", "allocations/step", "other load",
]
WIDTHS = [15, 5, 24, 24, 25, 5, 14, 16, 16, 10]


def table_line(cells):
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS)) + " |"


def cells(row):
    speed = lambda s: f"{s['median']:.0f} ({s['min']:.0f}..{s['max']:.0f})"
    rate = lambda x: "unknown" if x is None else f"{x:.2f}"
    pairs = row["ratios_of_pairs"]
    return [
        row["network"], str(row["batch"]), *(speed(row["images_per_second"][side]) for side in SIDES),
        f"{row['ratio']:.2f}", f"{min(pairs):.2f}..{max(pairs):.2f}",
        rate(row["page_faults_per_step"]), rate(row["allocations_per_step"]), rate(row["other_load"]),
    ]


def heading(report):
    """What stands above the rows."""
    a = report["about"]
    return [
        f"cugrad {a['commit']} and PyTorch {a['torch']}, {a['what']}, f32, {a['threads']} threads of {a['cpu']} ({a['cores']} cores);",
        f"{a['rustc']}; {a['date']}. Median (min..max) of {a['windows']} windows of {a['seconds']} s; ratio: cugrad / the better PyTorch.",
        "", table_line(HEAD), table_line(["-" * width for width in WIDTHS]),
    ]


def save(report, args):
    """Writes what there is, after each row: a long comparison that is cut off leaves its rows."""
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text("\n".join(heading(report) + [table_line(cells(row)) for row in report["rows"]]) + "\n")


def compare(args):
    report = {"about": about(args), "rows": []}
    program = build()
    save(report, args)  # a file that cannot be written is told now
    print("\n".join(heading(report)), flush=True)
    for network in args.networks:
        for batch in args.batches:
            row = measure(program, network, batch, args)
            report["rows"].append(row)
            print(table_line(cells(row)), flush=True)
            if (row["other_load"] or 0) > BUSY:
                print("warning: other programs were at work, which costs PyTorch more than cugrad: see README.md", file=sys.stderr)
            save(report, args)


def positive(kind):
    def number(text):
        x = kind(text)
        if not 0 < x < float("inf"):
            raise ValueError
        return x
    number.__name__ = "positive number"  # argparse's "invalid positive number value: ..."
    return number


def arguments():
    parser = argparse.ArgumentParser(
        description="Compare the speed of cugrad and of PyTorch on the CPU.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    count, seconds = positive(int), positive(float)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="as cugrad train --model calls them")
    parser.add_argument("--batches", nargs="+", type=count, default=BATCHES, metavar="N", help="images of a step")
    parser.add_argument("--threads", type=count, default=2, metavar="N", help="threads of each side")
    parser.add_argument("--infer", action="store_true", help="inference instead of training steps")
    parser.add_argument("--windows", type=count, default=7, metavar="N", help="measurements of each side, in turns")
    parser.add_argument("--seconds", type=seconds, default=1.0, metavar="S", help="how long each takes")
    parser.add_argument("--python", default=sys.executable, metavar="PROGRAM", help="the Python that has PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    return parser.parse_args()


def main():
    args = arguments()
    # So that the workers are ended as they are after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        compare(args)
    except (Failure, OSError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
