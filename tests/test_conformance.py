"""transformers' own model and config tests, run on our classes.

The tests are not part of the installed package, so its sdist is fetched with pip (once: it is kept in pytest's cache).
Three of their helper modules are not even in the sdist; `STUBS` stands in for them.
"""

import copy
import functools
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tarfile
import types
import unittest

import pytest
import torch
from transformers.models.auto import modeling_auto

from tsf_llm.configuration_tsf_llm import TsfLlmConfig
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction, TsfLlmModel

pytestmark = pytest.mark.slow

VERSION = importlib.metadata.version("transformers")
CASES = {
    "model": (TsfLlmModel, {}),
    "regression": (TsfLlmForPrediction, {"prediction_type": "regression"}),
    "quantile": (TsfLlmForPrediction, {"prediction_type": "quantile"}),
    "classification": (TsfLlmForPrediction, {"prediction_type": "classification"}),
    "causal_lm": (TsfLlmForCausalLM, {}),
    "front end": (TsfLlmForPrediction, {"use_mscnn": True, "use_t2t": True, "mscnn_channels": 8}),
}
STUBS = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
""",
}

ABSENT = {  # test -> what it needs that a machine without a GPU, or this model, does not have
    "test_flash_attn.*|test_kernels.*": "flash attention or the kernels library, on a GPU",
    "test_(cpu|disk)_offload.*|test_model_parallelism|test_can_load_with_.*device.*": "an accelerator",
    "test_flex_attention_with_grads|test_sdpa_can_(compile_dynamic|dispatch_on_flash)": "an accelerator",
    "test_resize_.*_with_deepspeed.*": "deepspeed",
    "test_torch_compile_for_training": "RUN_SLOW=1; takes minutes",
    "test_torch_save_load": "a class that transformers itself lists; we save no pickles",
    "test_.*composite.*|test_internal_model_config_and_subconfig_are_same": "configs within the config",
    "test_encoder_decoder_loss_no_double_shift": "an encoder",
    "test_get_(text|image|audio|video)_features.*|test_vision_axial_rope": "a second modality",
    "test_(tp_plan_matches_params|tied_head_has_a_tp_plan_entry)": "a tensor-parallel plan",
    "test_keep_in_fp32_modules.*": "modules that stay in float32",
    "test_resize_position_vector_embeddings": "learned position embeddings",
    "test_sliding_window_mask": "a sliding window",
    "test_model_rope_with_partial_rotation": "a partial rotary factor (ours rotates a part of its own)",
    "test_bc_cache_name_forward": "a warning about `past_key_values`; ours takes both names, see test_modeling",
    "test_reverse_loading_mapping": "names other than ours in what is saved; the original's are read",
    "test_eager_matches_sdpa_inference_24.*": "output_attentions in the signature; tested beside the model",
    "test_causal_lm_loss_honors_shift_labels": "a language model head (it runs for TsfLlmForCausalLM)",
    "test_model_rope_scaling.*": "a base class (it runs for TsfLlmModel)",
    "test_enable_input_require_grads_with_gradient_checkpointing": "a loss (it runs for the heads)",
    "test_resize_(embeddings_untied.*|tokens_embeddings)": "an embedding table (it runs for TsfLlmForCausalLM)",
}
NOT_FOR_BARS = {  # tests that take for granted that the first input is token ids
    "test_inputs_embeds": "replaces input_ids by their embeddings",
    "test_inputs_embeds_matches_input_ids": "replaces input_ids by their embeddings",
    "test_model_get_set_embeddings": "wants an nn.Embedding; bars enter through a Linear",
    "test_model_rope_scaling_from_config_0_linear": "passes token ids as the first argument",
    "test_model_rope_scaling_from_config_1_dynamic": "passes token ids as the first argument",
    "test_model_rope_scaling_from_config_2_yarn": "passes token ids as the first argument",
}
LEAST_PASSED = 90  # of about 155; a suite that skips everything has proved nothing


def parameterized_stub():
    """`parameterized.expand` in nine lines: one method per case, put into the class body that is being executed."""

    def expand(cases):
        def decorate(test):
            body = sys._getframe(1).f_locals
            for number, case in enumerate(cases):
                case = case if isinstance(case, tuple) else (case,)
                body[f"{test.__name__}_{number}_{case[0]}"] = functools.partialmethod(test, *case)

        return decorate

    module = types.ModuleType("parameterized")
    module.parameterized = types.SimpleNamespace(expand=expand)
    return module


@pytest.fixture(scope="module")
def suite(pytestconfig, tmp_path_factory):
    """The package `tests` of transformers, importable under another name."""
    archive = pytestconfig.cache.mkdir("transformers_sdist") / f"transformers-{VERSION}.tar.gz"
    if not archive.is_file():
        folder = tmp_path_factory.mktemp("sdist", numbered=True)
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
        command = [sys.executable, "-m", "pip", "download", *options, f"transformers=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot fetch the sdist of transformers {VERSION}: {done.stderr.strip()[-300:]}")
        archive.write_bytes((folder / archive.name).read_bytes())
    root = tmp_path_factory.mktemp("transformers")
    prefix = f"transformers-{VERSION}/tests/"
    with tarfile.open(archive) as tar:
        tar.extractall(root, [m for m in tar.getmembers() if m.name.startswith(prefix)], filter="data")
    for name, text in STUBS.items():
        (root / prefix / name).parent.mkdir(exist_ok=True)
        (root / prefix / name).write_text(text)
    spec = importlib.util.spec_from_file_location(
        "transformers_tests", root / prefix / "__init__.py", submodule_search_locations=[str(root / prefix)]
    )
    for marker in re.findall(r"\bmark\.(\w+)", (root / prefix / "test_modeling_common.py").read_text()):
        pytestconfig.addinivalue_line("markers", f"{marker}: of transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transformers_tests", importlib.util.module_from_spec(spec))
        patch.setitem(sys.modules, "parameterized", parameterized_stub())
        patch.setitem(modeling_auto.MODEL_MAPPING_NAMES, "tsf_llm", "TsfLlmModel")
        patch.setitem(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "tsf_llm", "TsfLlmForCausalLM")
        yield types.SimpleNamespace(
            **{
                name: importlib.import_module(f"transformers_tests.test_{name}_common")
                for name in ("modeling", "configuration")
            }
        )


class ModelTester:
    """What the mixin asks for a config and its inputs."""

    batch_size, seq_length, is_training = 3, 7, True

    def __init__(self, config, model_class):
        self.config, self.model_class = config, model_class
        self.hidden_size, self.num_hidden_layers = config.hidden_size, config.num_hidden_layers
        self.num_attention_heads = config.num_attention_heads

    def get_config(self):
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self):
        mask = torch.ones(self.batch_size, self.seq_length, dtype=torch.long)
        if self.model_class is TsfLlmForCausalLM:
            return self.get_config(), {"input_ids": torch.randint(0, 256, mask.shape), "attention_mask": mask}
        return self.get_config(), {"past_values": torch.rand(*mask.shape, 5), "attention_mask": mask}


def conformance_tests(suite, config, model_class):
    """The mixin's tests of one of our classes."""
    has_tokens = model_class is TsfLlmForCausalLM

    class Conformance(suite.modeling.ModelTesterMixin, unittest.TestCase):
        all_model_classes = (model_class,)
        all_generative_model_classes = ()  # the mixin for generation is not in the sdist
        test_torch_exportable = False  # nor is the one for export
        test_resize_embeddings = has_tokens
        test_can_init_all_missing_weights_before_2023 = True  # without it that test skips code that has no year
        test_all_params_have_gradient = False  # an expert that no token chose has none
        test_bc_cache_name_forward = unittest.skip("both names are ours, and neither warns")(lambda self: None)
        test_reverse_loading_mapping = unittest.skip("we save our own names")(lambda self: None)

        def setUp(self):
            torch.manual_seed(0)
            self.model_tester = ModelTester(config, model_class)

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs, rows = copy.deepcopy(inputs_dict), self.model_tester.batch_size
            if return_labels and model_class is not TsfLlmModel:
                columns = self.model_tester.seq_length if has_tokens else config.prediction_length
                inputs["labels"] = torch.zeros(rows, columns, dtype=torch.long)
            return inputs

    for name, reason in {} if has_tokens else NOT_FOR_BARS.items():
        setattr(Conformance, name, unittest.skip(reason)(lambda self: None))
    return unittest.defaultTestLoader.loadTestsFromTestCase(Conformance)


@pytest.mark.parametrize("name", CASES)
def test_models(suite, tiny_config, name):
    model_class, overrides = CASES[name]
    tokens = {"vocab_size": 258, "pad_token_id": 256, "bar_token_id": 257}  # one test drops the ids, so: the defaults
    config = tiny_config(initializer_range=0.02, **tokens, **overrides)  # their bf16 tolerances are made for 0.02
    result = unittest.TestResult()
    conformance_tests(suite, config, model_class).run(result)
    problems = [f"{test.id()}\n{trace}" for test, trace in result.failures + result.errors]
    assert not problems, "\n".join(problems)
    skipped = {getattr(test, "test_case", test)._testMethodName: reason for test, reason in result.skipped}
    known = [*ABSENT, *NOT_FOR_BARS]
    if not hasattr(suite.modeling.ModelTesterMixin, "test_can_init_all_missing_weights_before_2023"):
        known.append("test_can_init_all_missing_weights")  # 5.20 knows no such switch, and skips
    explained = re.compile("|".join(known))
    assert {test: reason for test, reason in skipped.items() if not explained.fullmatch(test)} == {}
    assert result.testsRun - len(skipped) >= LEAST_PASSED


def test_config(suite, tiny_config):
    tester = suite.configuration.ConfigTester(unittest.TestCase(), config_class=TsfLlmConfig, num_features=5)
    tester.parent.model_tester = ModelTester(tiny_config(), TsfLlmModel)
    tester.run_common_tests()
