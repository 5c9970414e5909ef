"""Losses that explode, networks that only guess, and folders that were lost or are in use."""

import errno
import fcntl
import os
import shutil

import pytest

from alexnet_dali.pipeline.system.faults import advice
from alexnet_dali.pipeline.system.files import writing_to
from alexnet_dali.train import evaluation, trainer
from alexnet_dali.train.checkpoints.run_folder import RunFolder, claim, read_config
from alexnet_dali.train.config import load
from alexnet_dali.train.evaluation import guesses
from alexnet_dali.train.parallel.ranks import join
from tests.train import test_train

recipe, train = test_train.recipe, test_train.train


def test_a_loss_far_above_that_of_guessing_ends_the_run(train, tmp_path, capsys, monkeypatch):
    assert train(tmp_path / "run", "--run.max_steps", "4") == 0
    monkeypatch.setattr(evaluation, "_EXPLODED", 0.01)
    message = test_train.fails(capsys, train(tmp_path / "run"))
    assert "guessing gives 1.1" in message and "smaller --optim.lr" in message
    assert "step-0000000004.pt is the last good checkpoint" in message


def test_a_network_that_is_at_chance_is_told_and_the_last_line_says_so(train, tmp_path, capsys):
    still = ("--optim.lr", "1e-12", "--train.epochs", "5", "--optim.patience", "9")
    assert train(tmp_path / "run", *still) == 0
    said = capsys.readouterr().out
    assert said.count("warning: after 5 epochs the network is at chance level") == 1
    assert "finished at step 15, but the network is at chance level" in said.splitlines()[-1]


def test_guessing_is_an_error_near_chances():
    assert guesses(0.90, 500, 10)  # chance is 0.9, with an error of 0.013
    assert guesses(0.88, 500, 10)
    assert not guesses(0.86, 500, 10)
    assert not guesses(0.5, 6, 3)  # too few images to tell, but no sign of it
    assert guesses(0.999, 50_000, 1000)
    assert not guesses(0.99, 50_000, 1000)


def test_a_lost_config_is_restored_from_the_newest_checkpoint(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--run.max_steps", "2") == 0
    (tmp_path / "run/config.yaml").unlink()
    message = test_train.fails(capsys, train(tmp_path / "run", "--optim.lr", "0.5"))
    assert "optim.lr: 0.02 -> 0.5" in message
    assert train(tmp_path / "run", "--run.max_steps", "4") == 0
    assert "resuming from step 2" in capsys.readouterr().out
    assert (tmp_path / "run/config.yaml").is_file()


def test_what_ran_is_in_the_checkpoint_whatever_config_yaml_has_become(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--run.max_steps", "2") == 0
    path = tmp_path / "run/config.yaml"
    sound = path.read_text()
    edited = sound.replace("lr: 0.02", "lr: 0.5")
    path.write_text(edited)
    assert sound != edited and read_config(tmp_path / "run").optim.lr == 0.02
    message = test_train.fails(capsys, train(tmp_path / "run", "--optim.lr", "0.5"))
    assert "optim.lr: 0.02 -> 0.5" in message
    assert train(tmp_path / "run", "--run.max_steps", "2") == 0
    assert path.read_text() == sound and not (tmp_path / "run/changes.txt").exists()


def test_who_uses_a_folder_is_named(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--run.max_steps", "1") == 0
    with open(tmp_path / "run/.lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        message = test_train.fails(capsys, train(tmp_path / "run"))
    assert f"(process {os.getpid()} on {os.uname().nodename})" in message


@pytest.mark.parametrize("owner, name", [(RunFolder, "resume"), (trainer.Trainer, "_end_epoch")])
def test_a_trainer_that_fails_frees_its_folder_at_once(
    owner, name, recipe, prepared, tmp_path, monkeypatch
):
    """While its error, with all the frames that hold the trainer, is still there."""

    def fail(*arguments):
        raise TimeoutError

    options = ["--data.root", str(prepared), "--run.dir", str(tmp_path / "run")]
    config = load([str(recipe), *options])
    monkeypatch.setattr(owner, name, fail)
    with join("cpu") as ranks:
        with pytest.raises(TimeoutError) as caught:
            trainer.Trainer(config, ranks).fit()
        claim(tmp_path / "run", config).release()
    assert caught.value.__traceback__ is not None


def test_a_folder_that_is_removed_ends_the_run(train, tmp_path, capsys, monkeypatch):
    run, end_epoch = tmp_path / "run", trainer.Trainer._end_epoch

    def remove_then(self):
        self.monitor.flush()  # nothing is being written there
        shutil.rmtree(run)
        end_epoch(self)

    monkeypatch.setattr(trainer.Trainer, "_end_epoch", remove_then)
    message = test_train.fails(capsys, train(run))
    assert f"{run}, to which the run writes, is no longer there" in message and not run.exists()
    monkeypatch.undo()
    assert train(run) == 0
    assert "resuming" not in capsys.readouterr().out


def test_a_full_disk_is_named(tmp_path):
    def fill():
        with writing_to(tmp_path / "name"), open("/dev/full", "wb") as file:
            file.write(b"x")

    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/name'"):
        fill()


def test_errors_of_disks_and_rights_say_what_to_do():
    assert "make room" in advice(OSError(errno.ENOSPC, "No space left on device", "x"))
    assert "read-only" in advice(OSError(errno.EROFS, "Read-only file system", "x"))
    assert advice(OSError(errno.ENOENT, "No such file", "x")) == advice(ValueError("x")) == ""
