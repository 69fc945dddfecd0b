"""Students: small classifiers to train from a teacher.

Importing this makes the networks of this package known to `AutoConfig`, `AutoModel` and
`AutoModelForSequenceClassification`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from distil_trainer.students.bilstm import BilstmConfig, BilstmForSequenceClassification, BilstmModel
from distil_trainer.students.densenet_cnn import (
    DensenetCnnConfig,
    DensenetCnnForSequenceClassification,
    DensenetCnnModel,
)
from distil_trainer.students.densenet_dsa import (
    DensenetDsaConfig,
    DensenetDsaForSequenceClassification,
    DensenetDsaModel,
)
from distil_trainer.students.embedding_bag import (
    EmbeddingBagConfig,
    EmbeddingBagForSequenceClassification,
    EmbeddingBagModel,
)
from distil_trainer.students.glove_cnn import GloveCnnConfig, GloveCnnForSequenceClassification, GloveCnnModel
from distil_trainer.students.layer_selection import student_from_teacher
from distil_trainer.students.pruned_encoders import PRUNED_CLASSES
from distil_trainer.students.student_configuration import StudentConfig
from distil_trainer.students.student_models import StudentClassifier, StudentModel
from distil_trainer.students.transformer_cnn import (
    TransformerCnnConfig,
    TransformerCnnForSequenceClassification,
    TransformerCnnModel,
)

__all__ = [
    "BilstmConfig",
    "BilstmForSequenceClassification",
    "BilstmModel",
    "DensenetCnnConfig",
    "DensenetCnnForSequenceClassification",
    "DensenetCnnModel",
    "DensenetDsaConfig",
    "DensenetDsaForSequenceClassification",
    "DensenetDsaModel",
    "EmbeddingBagConfig",
    "EmbeddingBagForSequenceClassification",
    "EmbeddingBagModel",
    "GloveCnnConfig",
    "GloveCnnForSequenceClassification",
    "GloveCnnModel",
    "StudentClassifier",
    "StudentConfig",
    "StudentModel",
    "TransformerCnnConfig",
    "TransformerCnnForSequenceClassification",
    "TransformerCnnModel",
    "student_from_teacher",
]

for _classifier, _model in (
    (BilstmForSequenceClassification, BilstmModel),
    (DensenetCnnForSequenceClassification, DensenetCnnModel),
    (DensenetDsaForSequenceClassification, DensenetDsaModel),
    (EmbeddingBagForSequenceClassification, EmbeddingBagModel),
    (GloveCnnForSequenceClassification, GloveCnnModel),
    (TransformerCnnForSequenceClassification, TransformerCnnModel),
):
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)
    AutoModelForSequenceClassification.register(_model.config_class, _classifier, exist_ok=True)
for _classifier in PRUNED_CLASSES.values():
    AutoConfig.register(_classifier.config_class.model_type, _classifier.config_class, exist_ok=True)
    AutoModelForSequenceClassification.register(_classifier.config_class, _classifier, exist_ok=True)
