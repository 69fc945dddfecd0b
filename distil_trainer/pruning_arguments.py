"""The arguments of a recipe that make its trained student smaller once more."""

from dataclasses import dataclass, field

_SIZES = ("prune_heads", "prune_intermediate_size", "prune_layers")


@dataclass
class PruningArguments:
    """What is cut out of the trained student, and how it learns its answers again; by default nothing is cut."""

    prune_heads: int | None = field(
        default=None, metadata={"help": "Attention heads that each layer of the trained student keeps."}
    )
    prune_intermediate_size: int | None = field(default=None, metadata={"help": "FFN neurons that each layer keeps."})
    prune_layers: int | None = field(default=None, metadata={"help": "Layers that it keeps, evenly spaced."})
    prune_keep: float | None = field(
        default=None,
        metadata={
            "help": "In place of sizes: the share of the encoder's FLOPs that is kept, in (0, 1], where it helps most."
        },
    )
    prune_vocabulary: bool = field(
        default=False, metadata={"help": "Keep only the tokens that the transfer set is made of."}
    )
    recovery_max_steps: int | None = field(
        default=None,
        metadata={
            "help": "Steps in which the pruned student learns from the unpruned one; by default half of the student's."
        },
    )
    recovery_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of that; by default the student's."}
    )

    def __post_init__(self):
        sizes = {name: getattr(self, name) for name in _SIZES if getattr(self, name) is not None}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1.")
        if self.prune_keep is not None and not 0 < self.prune_keep <= 1:
            raise ValueError(f"prune_keep={self.prune_keep} must be a share in (0, 1]: 0.5 keeps half of the FLOPs.")
        if self.prune_keep is not None and sizes:
            given = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(
                f"prune_keep={self.prune_keep} with {given}: a share chooses the sizes itself, another one for each "
                "layer. Give one of the two."
            )
        recovery = {name: getattr(self, name) for name in ("recovery_max_steps", "recovery_learning_rate")}
        given = ", ".join(f"{name}={value}" for name, value in recovery.items() if value is not None)
        if given and not self.prunes:
            raise ValueError(
                f"{given}, and nothing is pruned, so there is nothing to recover from. Give --prune_heads, "
                "--prune_intermediate_size, --prune_layers, --prune_keep or --prune_vocabulary too, or leave it out."
            )
        for name, value in recovery.items():
            if value is not None and value <= 0:
                raise ValueError(
                    f"{name}={value} must be above 0: a pruned student that learns nothing has lost much."
                )

    @property
    def cuts_layers(self):
        """Whether heads, neurons or layers are cut (`bool`)."""
        return self.prune_keep is not None or any(getattr(self, name) is not None for name in _SIZES)

    @property
    def prunes(self):
        """Whether anything is cut (`bool`)."""
        return self.cuts_layers or self.prune_vocabulary
