"""What differs from robot body to robot body and is learned."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["BodyTable"]


class BodyTable(nn.Embedding):
    """One learned vector for each embodiment, in the order of `Policy.embodiments`.

    A policy that goes on from a checkpoint with other bodies keeps the rows of those that both know.
    """

    def rows_of(
        self, there: Sequence[str], here: Sequence[str], table: Float[Tensor, "row width"]
    ) -> tuple[Float[Tensor, "body width"], list[str]]:
        """This table with the rows of `table` where a body is known, and the names of the new bodies.

        Args:
            there: Embodiments of the rows of `table`.
            here: Embodiments of the rows of this one.
            table: Of a checkpoint.
        """
        rows = self.weight.detach().clone()
        for row, body in enumerate(here):
            if body in there:
                rows[row] = table[list(there).index(body)]
        return rows, [body for body in here if body not in there]
