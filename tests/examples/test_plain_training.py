"""The plain training is of the recipe that it is compared with."""

import ast
from pathlib import Path

from alexnet_dali.tools import ROOT
from alexnet_dali.train.config import load

SOURCE = ROOT / "examples/plain_training.py"
RECIPE = [str(ROOT / "configs/photographs.yaml"), "--data.root", "."]
COMPARED = "--train.epochs 8 --optim.milestones [6] --model.init_std.conv1 0.01"


def constants(path: Path) -> dict[str, object]:
    """What a module sets at its top, read without importing it: torchvision may be missing."""
    found: dict[str, object] = {}
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign):
            values = ast.literal_eval(statement.value)
            match statement.targets[0]:
                case ast.Tuple(elts=names):
                    found |= {ast.unparse(name): value for name, value in zip(names, values)}
                case name:
                    found[ast.unparse(name)] = values
    return found


def test_the_plain_recipe_is_that_of_photographs_yaml():
    plain, config = constants(SOURCE), load([*RECIPE, *COMPARED.split()])
    assert (plain["RESIZE"], plain["CROP"]) == (config.data.resize, config.data.crop)
    assert (plain["BATCH_SIZE"], plain["EPOCHS"]) == (config.train.batch_size, config.train.epochs)
    assert plain["LR"] == config.optim.lr and config.optim.milestones == (plain["DROP_AFTER"],)
    assert plain["MOMENTUM"] == config.optim.momentum
    assert plain["WEIGHT_DECAY"] == config.optim.weight_decay
    assert plain["LIGHTING_STD"] == config.data.lighting_std
    assert plain["FC_WIDTH"] == config.model.fc_width
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    stds, biases = config.model.init_std, config.model.init_bias
    for name in layers:
        assert plain["INIT_STD"].get(name, 0.03) == stds.of(name)
        assert (name in plain["ZERO_BIAS"]) == (biases.of(name) == 0)
