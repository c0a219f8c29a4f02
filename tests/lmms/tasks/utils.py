"""The functions that lmms-eval's own tasks use: prompts, parsing and metrics are theirs, only the data are local."""

# ruff: noqa: F401  (named by the YAML files beside this one)
from lmms_eval.tasks.gqa.utils import gqa_doc_to_text, gqa_doc_to_visual
from lmms_eval.tasks.mmbench.en_utils import (
    mmbench_aggregate_dev_results_static,
    mmbench_doc_to_text,
    mmbench_doc_to_visual,
    mmbench_process_results,
)
from lmms_eval.tasks.mme.utils import mme_aggregate_results, mme_doc_to_text, mme_doc_to_visual, mme_process_results
from lmms_eval.tasks.pope.utils import (
    pope_aggregate_accuracy,
    pope_aggregate_f1_score,
    pope_aggregate_precision,
    pope_aggregate_recall,
    pope_aggregate_yes_ratio,
    pope_doc_to_text,
    pope_doc_to_visual,
    pope_process_results,
)
from lmms_eval.tasks.scienceqa.utils import sqa_doc_to_text, sqa_doc_to_visual, sqa_process_results
from lmms_eval.tasks.seedbench.utils import (
    seed_aggregation_result,
    seed_doc_to_text,
    seed_doc_to_visual,
    seed_process_result,
)
from lmms_eval.tasks.textvqa.utils import textvqa_doc_to_text, textvqa_doc_to_visual, textvqa_process_results
from lmms_eval.tasks.vizwiz_vqa.utils import (
    vizwiz_vqa_doc_to_text,
    vizwiz_vqa_doc_to_visual,
    vizwiz_vqa_process_results,
)
from lmms_eval.tasks.vqav2.utils import vqav2_doc_to_text, vqav2_doc_to_visual, vqav2_process_results_val


def short_seed_doc_to_text(doc):
    """SEED-Bench's question, with the words after it that the demo model knows."""
    return seed_doc_to_text(doc).rpartition("\n")[0] + "\nAnswer with the letter."
