"""Train a network of torchvision on a prepared folder; rerun the same command to resume.

torchrun --nproc_per_node=2 examples/resnet.py --data prepared/imagenet --folder runs/resnet50
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pipeline import CentreCrop, DataLoader, RandomResizedCrop
from pipeline.files import atomic_write

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", required=True, help="made by tools.prep_imagenet")
parser.add_argument("--folder", required=True, type=Path, help="of the checkpoint")
parser.add_argument("--model", default="resnet50", help="any of torchvision.models")
parser.add_argument("--size", default=224, type=int, help="of the crops, in pixels")
parser.add_argument("--batch", default=256, type=int, help="images of all ranks together")
parser.add_argument("--epochs", default=90, type=int)
parser.add_argument("--save-every", default=1000, type=int, metavar="STEPS")
args = parser.parse_args()

on_gpu = torch.cuda.is_available()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
dist.init_process_group("nccl" if on_gpu else "gloo")
common = {"global_batch_size": args.batch, "device": device}
train = DataLoader(args.data, crops=RandomResizedCrop(args.size), **common)
val = DataLoader(args.data, "val", crops=CentreCrop(args.size, args.size * 8 // 7), **common)

torch.manual_seed(0)
model = torchvision.models.get_model(args.model, num_classes=len(train.classes)).to(device)
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), args.batch / 2560, 0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(train))
state: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
state["loader"] = train
checkpoint = args.folder / "checkpoint.pt"
if checkpoint.exists():
    saved = torch.load(checkpoint, map_location=device, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])

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
                args.folder.mkdir(parents=True, exist_ok=True)
                with atomic_write(checkpoint) as file:
                    torch.save({name: part.state_dict() for name, part in state.items()}, file)
    model.eval()
    right = torch.zeros((), device=device)
    with torch.no_grad():
        for images, labels in val:
            right += (model.module(images).argmax(1) == labels).sum()
    dist.all_reduce(right)
    model.train()
    if dist.get_rank() == 0:
        print(f"epoch {train.epoch}: {1 - right.item() / len(val.dataset):.2%} top-1 error")
