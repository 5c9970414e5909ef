"""The paper's training as one would write it in plain PyTorch: what ours is compared with.

    python examples/plain_training.py imagenette2-160/train imagenette2-160/val --seed 0

It trains the network of configs/photographs.yaml by its recipe, for eight epochs and with larger
kernels in conv1 at first (docs/benchmarks.md), and shares no code with the rest: torchvision
decodes, resizes, crops and flips; grouped convolutions stand for the columns; torch's response norm
and the update rule are written from the paper. The seed gives other random numbers than in our
training.
"""

import argparse
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

RESIZE, CROP, BATCH_SIZE, EPOCHS = 112, 96, 32, 8
LR, DROP_AFTER, MOMENTUM, WEIGHT_DECAY = 0.01, 6, 0.9, 0.0005
FC_WIDTH, LIGHTING_STD, WORKERS = 1024, 0.1, 2
INIT_STD = {"conv1": 0.01, "conv2": 0.02}  # of the other layers, 0.03
ZERO_BIAS = ("conv1", "conv3", "fc8")  # of the other layers, 1


class Dropout(nn.Module):
    """Half of the outputs, unscaled; all of them, times 0.5, at test time (section 4.2)."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape."""
        return x * (torch.rand_like(x) < 0.5) if self.training else 0.5 * x


def norm() -> nn.Module:
    """Section 3.3; torch divides alpha by the five neighbours, the paper does not."""
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2)


def network(num_classes: int) -> nn.Sequential:
    """Figure 2, both columns in one: [N, 3, 96, 96] to logits [N, num_classes]."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(3, 96, 11, stride=4, padding=2)),
        ("relu1", nn.ReLU()),
        ("norm1", norm()),
        ("pool1", nn.MaxPool2d(3, 2)),
        ("conv2", nn.Conv2d(96, 256, 5, padding=2, groups=2)),
        ("relu2", nn.ReLU()),
        ("norm2", norm()),
        ("pool2", nn.MaxPool2d(3, 2)),
        ("conv3", nn.Conv2d(256, 384, 3, padding=1)),
        ("relu3", nn.ReLU()),
        ("conv4", nn.Conv2d(384, 384, 3, padding=1, groups=2)),
        ("relu4", nn.ReLU()),
        ("conv5", nn.Conv2d(384, 256, 3, padding=1, groups=2)),
        ("relu5", nn.ReLU()),
        ("pool5", nn.MaxPool2d(3, 2)),
        ("flat", nn.Flatten()),
        ("fc6", nn.Linear(256 * 2 * 2, FC_WIDTH)),
        ("relu6", nn.ReLU()),
        ("drop6", Dropout()),
        ("fc7", nn.Linear(FC_WIDTH, FC_WIDTH)),
        ("relu7", nn.ReLU()),
        ("drop7", Dropout()),
        ("fc8", nn.Linear(FC_WIDTH, num_classes)),
    ]
    model = nn.Sequential()
    for name, layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=INIT_STD.get(name, 0.03))
            nn.init.constant_(layer.bias, 0 if name in ZERO_BIAS else 1)  # type: ignore[arg-type]
        model.add_module(name, layer)
    return model


def loader(folder: str, crop: v2.Transform | None, shuffle: bool) -> DataLoader:
    """Batches of float32 [n, 3, side, side] in 0 to 255, and labels [n]."""
    steps = [v2.Resize(RESIZE), v2.CenterCrop(RESIZE), *([crop] if crop else [])]
    transform = v2.Compose([*steps, v2.PILToTensor(), v2.ToDtype(torch.float32)])
    return DataLoader(
        ImageFolder(folder, transform),
        BATCH_SIZE,
        shuffle,
        num_workers=WORKERS,
        drop_last=shuffle,
        persistent_workers=True,
    )


def statistics(batches: DataLoader) -> tuple[Tensor, Tensor]:
    """The mean image [3, CROP, CROP], and the components of colour [3, 3] (section 4.1).

    Components are columns, each times the standard deviation along it.
    """
    total, products, count = torch.zeros(3, RESIZE, RESIZE), torch.zeros(3, 3).double(), 0
    for images, _ in batches:
        total += images.sum(0)
        pixels = images.permute(1, 0, 2, 3).flatten(1).double()
        products += pixels @ pixels.T
        count += len(images)
    mean = total / count
    colour = mean.double().mean((1, 2))
    variances, axes = torch.linalg.eigh(products / (count * RESIZE * RESIZE) - colour.outer(colour))
    return v2.CenterCrop(CROP)(mean), (axes * variances.sqrt()).float()


def lit(images: Tensor, components: Tensor) -> Tensor:
    """Images [n, 3, h, w] with noise along the components, one draw an image (section 4.1)."""
    amounts = LIGHTING_STD * torch.randn(len(images), 3)
    return images + (amounts @ components.T)[:, :, None, None]


@torch.no_grad()
def update(model: nn.Module, velocities: list[Tensor], lr: float) -> None:
    """v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v (section 5)."""
    for weight, velocity in zip(model.parameters(), velocities, strict=True):
        assert weight.grad is not None
        velocity.mul_(MOMENTUM).sub_(WEIGHT_DECAY * lr * weight + lr * weight.grad)
        weight.add_(velocity)
        weight.grad = None


@torch.no_grad()
def wrong(model: nn.Module, batches: DataLoader, mean: Tensor) -> Iterator[Tensor]:
    """For each batch, which images' likeliest class is not their label: bool [n]."""
    model.eval()
    for images, labels in batches:
        yield model(images - mean).argmax(1) != labels


def main() -> None:
    """Train for all epochs, printing one line for each, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", help="class folders")
    parser.add_argument("val", help="class folders")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of torch (0)")
    train(parser.parse_args())


def train(args: argparse.Namespace) -> None:
    """The training loop."""
    torch.manual_seed(args.seed)
    augment = v2.Compose([v2.RandomCrop(CROP), v2.RandomHorizontalFlip()])
    training = loader(args.train, augment, shuffle=True)
    validation = loader(args.val, v2.CenterCrop(CROP), shuffle=False)
    mean, components = statistics(loader(args.train, None, shuffle=False))
    model = network(len(training.dataset.classes))  # type: ignore[attr-defined]
    velocities = [torch.zeros_like(weight) for weight in model.parameters()]
    for epoch in range(EPOCHS):
        lr, begun, losses = LR * (0.1 if epoch >= DROP_AFTER else 1), time.monotonic(), []
        for images, labels in training:
            loss = F.cross_entropy(model(lit(images, components) - mean), labels)
            loss.backward()
            update(model, velocities, lr)
            losses.append(loss.item())
        speed = len(losses) * BATCH_SIZE / (time.monotonic() - begun)
        loss_of_epoch = sum(losses) / len(losses)
        print(
            f"epoch {epoch + 1}/{EPOCHS}  loss {loss_of_epoch:.4f}  {speed:.0f} images/s",
            flush=True,
        )
    errors = torch.cat(list(wrong(model, validation, mean)))
    print(f"validation top-1 error {errors.double().mean():.2%}, {len(errors)} images")


if __name__ == "__main__":
    main()
