"""Train a network of torchvision (pip install torchvision) on a prepared folder; rerun to resume.

torchrun --nproc_per_node=2 examples/resnet.py --data prepared/imagenet --checkpoint resnet50.pt"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from alexnet_dali.pipeline import CentreCrop, DataLoader, RandomResizedCrop
from alexnet_dali.pipeline.system.files import atomic_write

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", required=True, help="made by alexnet prep")
parser.add_argument("--checkpoint", required=True, type=Path, help="is written and resumed")
parser.add_argument("--model", default="resnet50", help="any of torchvision.models")
for name, default in {"size": 224, "batch": 256, "epochs": 90, "save-every": 1000}.items():
    parser.add_argument(f"--{name}", default=default, type=int, help=f"({default})")
args = parser.parse_args()

on_gpu = torch.cuda.is_available()
device = torch.device("cuda", dist.get_node_local_rank()) if on_gpu else torch.device("cpu")
dist.init_process_group("nccl" if on_gpu else "gloo")
common = {"global_batch_size": args.batch, "device": device}
train = DataLoader(args.data, crops=RandomResizedCrop(args.size), **common)
val = DataLoader(args.data, "val", crops=CentreCrop(args.size, args.size * 8 // 7), **common)
torch.manual_seed(0)
network = torchvision.models.get_model(args.model, num_classes=len(train.classes)).to(device)
model = DistributedDataParallel(network)
optimizer = torch.optim.SGD(model.parameters(), args.batch / 2560, 0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(train))
parts: list[Any] = [network, optimizer, schedule, train]
args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
if args.checkpoint.exists():
    for part, state in zip(parts, torch.load(args.checkpoint, map_location=device)):
        part.load_state_dict(state)
while train.epoch < args.epochs:
    for images, labels in train:
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if dist.get_rank() == 0:
            print(f"step {train.step} loss {loss.item():.6f}", flush=True)
            if train.step % args.save_every == 0 or train.step % len(train) == 0:
                with atomic_write(args.checkpoint) as file:
                    torch.save([part.state_dict() for part in parts], file)
    network.eval()
    with torch.no_grad():
        right = torch.stack([(network(x).argmax(1) == y).sum() for x, y in val]).sum()
    dist.all_reduce(right)
    network.train()
    if dist.get_rank() == 0:
        print(f"epoch {train.epoch}: {1 - right.item() / len(val.dataset):.2%} top-1 error")
