"""The networks of tests/golden/record.py as `name -> (constructor, input shape)`, in float32, with every number drawn.

Their parameters have cugrad's names and stand in its order: both are PyTorch's conventions.
"""
import importlib.util
import sys
from pathlib import Path

import torch

_spec = importlib.util.spec_from_file_location("record", Path(__file__).parents[1] / "golden" / "record.py")
_record = sys.modules["record"] = importlib.util.module_from_spec(_spec)  # so that its classes can be pickled
_spec.loader.exec_module(_record)

NETWORKS = {name: (build, shape) for name, (build, shape, _) in _record.NETWORKS.items()}


def drawn(name, seed):
    """A network in evaluation mode, none of whose numbers are what they were when it was built."""
    torch.manual_seed(seed)
    net = NETWORKS[name][0]().eval()
    with torch.no_grad():
        for key, t in net.state_dict().items():
            if key.endswith("num_batches_tracked"):
                t.fill_(17)
            elif key.endswith("running_var"):
                t.uniform_(0.5, 1.5)
            elif key.endswith("weight") and t.dim() > 1:
                t.normal_(0, t[0].numel() ** -0.5)
            else:
                t.add_(0.1 * torch.randn(t.shape))
    return net
