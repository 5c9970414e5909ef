"""Learn several classes of each image, or numbers; rerun the command, on any ranks, to resume.

torchrun --nproc_per_node=2 examples/targets.py prepared/tags checkpoint.pt 3"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from alexnet_dali.pipeline import DataLoader, RandomResizedCrop
from alexnet_dali.pipeline.system.files import atomic_write

data, checkpoint, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo")
loader = DataLoader(data, global_batch_size=32, crops=RandomResizedCrop(64))
torch.manual_seed(0)
layers = [nn.Conv2d(3, 16, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
network = nn.Sequential(*layers, nn.Linear(256, len(loader.classes))).double()
model = nn.parallel.DistributedDataParallel(network)
optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
parts: list[Any] = [network, optimizer, loader]
if checkpoint.exists():
    for part, state in zip(parts, torch.load(checkpoint)):
        part.load_state_dict(state)
while loader.epoch < epochs:
    for images, targets in loader:
        several = targets.dtype == torch.bool  # else numbers
        criterion = binary_cross_entropy_with_logits if several else mse_loss
        loss = criterion(model(images.double() / 64), targets.double())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            print(f"step {loader.step} loss {mean:.12f}", flush=True)
            with atomic_write(checkpoint) as file:
                torch.save([part.state_dict() for part in parts], file)
