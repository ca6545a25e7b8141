"""The page, as a Hugging Face Space runs it (`app_file` in README.md), or `python app.py` in a clone.

* Nothing is loaded or computed here: the model opens with the first forecast. `TSF_LLM_MODEL` names it, a folder or a
  name of the Hub; by default `mini`, which a CPU answers with in a second.
* A Space clones the repository flat and installs no package. Then this folder becomes the package `tsf_llm`.
* On ZeroGPU `spaces` must come before CUDA is touched, and lends the GPU to what computes.
"""

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

try:
    from spaces import GPU as gpu
except ImportError:  # no ZeroGPU

    def gpu(work: Any) -> Any:
        return work


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if find_spec("tsf_llm") is None:  # `setup.py` says the same of an installed one: the root is the package
    spec = ModuleSpec("tsf_llm", None, is_package=True)
    spec.submodule_search_locations = [str(Path(__file__).resolve().parent)]
    sys.modules["tsf_llm"] = module_from_spec(spec)

from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.page import blocks, look

demo = blocks.build(lambda: load_pipeline(os.environ.get("TSF_LLM_MODEL") or "mini"), gpu=gpu)

if __name__ == "__main__":
    demo.launch(**look.options())
