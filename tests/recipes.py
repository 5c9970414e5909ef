"""A recipe that trains in a second."""

TINY = """
data: {resize: 64, crop: 56}
model: {kernels: [8, 12, 16, 16, 12], conv1_size: 5, conv1_stride: 2, fc_width: 24}
optim: {lr: 0.02, lr_drops: 5, patience: 1}
train: {batch_size: 12, epochs: 4, compile: false}
run: {log_seconds: 0, device: cpu, pictures: false}
"""
