"""Columns of a data set: there or not, and read a few MB at a time."""


def check_column(dataset, column, what, argument):
    """Refuse a data set without a column.

    Args:
        dataset (`Dataset`): any.
        column (`str`): the column looked for.
        what (`str`): the data set's name, for the error.
        argument (`str`): the argument that names the column, for the error.

    Raises:
        ValueError: naming the columns that are there.
    """
    if column not in dataset.column_names:
        raise ValueError(
            f"{what} has no column {column!r}; its columns are {', '.join(dataset.column_names)}. Name the right one "
            f"with {argument}=."
        )


def check_columns_differ(**columns):
    """Refuse arguments that name one column for two things.

    Args:
        **columns (`str`): the column that each argument names; `None` for none.

    Raises:
        ValueError: naming both arguments.
    """
    arguments = {}
    for argument, column in columns.items():
        if column is not None and column in arguments:
            raise ValueError(
                f"{arguments[column]}={column!r} and {argument}={column!r} name the same column, which would be read "
                "twice, or written over, in silence: name two columns."
            )
        arguments[column] = argument


def column_batches(dataset, column, batch_size=10_000):
    """Read a column from Arrow, in the order in which the user sees the rows.

    Yields:
        `tuple[int, pyarrow.Array]`: number of the first row of a batch, and its values.
    """
    table = dataset.select_columns([column]).with_format("arrow")
    for start in range(0, len(table), batch_size):
        yield start, one_array(table[start : start + batch_size].column(0))


def one_array(values):
    """Return a `pyarrow.ChunkedArray` as one `pyarrow.Array`, without a copy where it is in one piece."""
    return values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
