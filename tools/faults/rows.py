"""All faults that are tried, in order, and how often."""

import signal

from alexnet_dali.tools.faults import checkpoints, disks, images, kills, preparations, ranks
from alexnet_dali.tools.faults.outcomes import Fault

FAULTS = (
    Fault("SIGKILL to a rank", kills.killed_rank, 10),
    Fault("SIGKILL to torchrun", kills.killed_torchrun, 10),
    Fault("SIGKILL to all", kills.killed_all, 10),
    Fault("SIGTERM", kills.signalled(signal.SIGTERM), 2),
    Fault("SIGTERM twice", kills.signalled(signal.SIGTERM, signal.SIGTERM), 2),
    Fault("SIGINT", kills.signalled(signal.SIGINT), 2),
    Fault("SIGINT twice", kills.signalled(signal.SIGINT, signal.SIGINT), 2),
    Fault("killed ranks, torchrun --max-restarts", kills.restarted, 3),
    Fault("a rank hangs (SIGSTOP)", kills.hang, 2),
    Fault("checkpoint cut short", checkpoints.damaged_checkpoint(checkpoints.truncate), 3),
    Fault("checkpoint emptied", checkpoints.damaged_checkpoint(checkpoints.empty), 1),
    Fault("checkpoint is a folder", checkpoints.damaged_checkpoint(checkpoints.make_folder), 1),
    Fault("a bit of a checkpoint flips", checkpoints.flipped_bits, 40),
    Fault("disk full at a checkpoint", disks.full_disk, 2),
    Fault("disk full while preparing", disks.full_disk_while_preparing, 1),
    Fault("disk becomes read-only", disks.read_only, 1),
    Fault("folder of the run removed", disks.removed_folder, 1),
    Fault("images go bad", images.bad_images, 4),
    Fault("a shard is cut short", images.cut_shard, 2),
    Fault("two runs in a folder", ranks.two_runs, 2),
    Fault("two preparations of a folder", preparations.two_at_once, 2),
    Fault("preparation killed", preparations.killed, 4),
    Fault("2, 1, 4, 2 ranks", ranks.other_numbers_of_ranks, 1),
    Fault("two machines, one dies", ranks.two_nodes, 2),
)
