"""CSR matrices: from files that SciPy saved, checked before they are used, and as sets of pairs."""

from pathlib import Path

from scipy.sparse import csr_matrix, load_npz

from mufin_jax.runtime.storage.npy import check_unfolding

_NUMBERS = "?bhilqBHILQfdg"  # the dtypes that SciPy's compiled code knows
_EACH = 64  # bytes that an archive may unfold to for each row


def load_csr(path: Path, num_rows: int = 0) -> csr_matrix:
    """Load a CSR matrix of about so many rows; raise any exception if the file holds anything else.

    SciPy's compiled code trusts the indices, so they are checked before anything is done with them.
    """
    check_unfolding(path, _EACH * num_rows)
    loaded = load_npz(path)
    numbers = loaded.dtype.isnative and loaded.dtype.char in _NUMBERS
    if loaded.format != "csr" or not numbers:
        raise ValueError(f"it holds {loaded.dtype} in the format {loaded.format}")
    matrix = csr_matrix(loaded)
    matrix.check_format(full_check=True)
    return matrix


def without(pairs: csr_matrix, others: csr_matrix) -> csr_matrix:
    """Return the pairs that are not among the others, as a boolean matrix."""
    pairs, others = csr_matrix(pairs, dtype=bool), csr_matrix(others, dtype=bool)
    return csr_matrix(pairs > pairs.multiply(others))
