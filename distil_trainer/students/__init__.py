"""Students: small classifiers to train from a teacher."""

from distil_trainer.students.layer_selection import student_from_teacher

__all__ = ["student_from_teacher"]
