"""Two runs on the same cores are one, to the bit, whatever the compile cache and the threads."""

import minute
import pytest

FROZEN = [
    f"--{stage}.optimizer.{kind}-encoder=frozen"
    for stage in ("pretrain", "finetune")
    for kind in ("image", "text")
]
SCANN = ["--miniature.labels=400", "--miniature.points=600", "--prepare.max-images=4"]
SCANN += ["--pretrain.batch-size=100", "--finetune.batch-size=100", *FROZEN]


def loading(threads: int) -> list[str]:
    return [f"--{stage}.fit.threads={threads}" for stage in ("pretrain", "finetune")]


@pytest.mark.parametrize(
    ("threads", "warm"),
    [
        (0, True),
        pytest.param(1, True, marks=pytest.mark.slow),
        pytest.param(2, False, marks=pytest.mark.slow),
    ],
)
def test_a_second_run_is_the_first(minute_run, compiled, tmp_path, threads, warm):
    cache = compiled if warm else tmp_path / "cold"
    minute.finish(tmp_path / "run", *loading(threads), cache=cache)
    minute.assert_same(tmp_path / "run", minute_run)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_run_whose_index_is_scann_s_is_the_first(compiled, tmp_path):
    for threads in (2, 1):
        minute.finish(tmp_path / str(threads), *SCANN, *loading(threads), cache=compiled)
    assert (tmp_path / "2" / "retrieve" / "index" / "tree").is_dir()
    minute.assert_same(tmp_path / "1", tmp_path / "2")
    trees = (sorted((tmp_path / run / "retrieve/index/tree").iterdir()) for run in ("1", "2"))
    for one, two in zip(*trees, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
