"""Before the first step: does everything fit, what is mended in passing, and what is probably not meant so?"""

from distil_trainer.preflight.findings import Finding, check_distillation, findings_table
from distil_trainer.preflight.fit import check_models_and_data
from distil_trainer.preflight.lengths import check_lengths, check_token_lengths
from distil_trainer.preflight.run import reads_own_tokens

__all__ = [
    "Finding",
    "check_distillation",
    "check_lengths",
    "check_models_and_data",
    "check_token_lengths",
    "findings_table",
    "reads_own_tokens",
]
