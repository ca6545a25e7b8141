"""The library of training: arguments, data, trainers, checkpoints, adapters, distillation, compression."""
