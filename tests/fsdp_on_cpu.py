"""Runs sft with FSDP on CPU processes: accelerate itself shards on accelerators alone, though torch can everywhere."""

import sys

import torch
from accelerate.state import DistributedType, PartialState

from tsf_llm.common.parser import leave_group
from tsf_llm.train_scripts import sft


def on_cpu(self):
    self.device = torch.device("cpu")


if __name__ == "__main__":
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = on_cpu
    sft.main(*sft.parse(sys.argv[1:]))
    leave_group()
