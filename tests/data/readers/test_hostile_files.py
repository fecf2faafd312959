"""Hostile data sets, prepared folders and checkpoints are read, or rejected with a one-line error.

Nothing crashes, hangs, or takes unbounded memory. A child process reads them: a crash in compiled
code would end the process.
"""

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import hostile_files
import numpy as np
import pytest
import rotation
import scipy.sparse
from raw_folders import tiny_repository, write_json_lines
from small import prepared_folder

from mufin_jax.data import readers
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import BadImage
from mufin_jax.data.preparation.items import save_categories
from mufin_jax.data.readers import files, tally
from mufin_jax.data.readers.objects import read_lists
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.encoders.pretrained import image_processing, load_image_encoder
from mufin_jax.runtime.errors import InputError, TooManyBadRows
from mufin_jax.runtime.storage.files import load_json, load_sealed, save_sealed
from mufin_jax.runtime.storage.npy import mapped


def read(folder: Path) -> readers.Catalogue:
    return readers.load_catalogue(folder, Tally(0.05), 15, 10_000_000)


TODAY = rotation.day_of(os.environ.get("ROTATION", "")) or 2
"""A seed that changes every day; ROTATION repeats it."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "seed"), [(100, 1), pytest.param(2000, TODAY, marks=pytest.mark.slow)]
)
def test_mutated_files_are_read_or_rejected_with_one_line(count, seed):
    command = [sys.executable, hostile_files.__file__, str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    found = json.loads(done.stdout)
    assert found.keys() == hostile_files.KINDS.keys()
    for kind, case in found.items():
        assert not case["wrong"], (kind, case["wrong"][:3])
        assert case.get("rejected"), f"no damage to {kind} was noticed"
        assert case["slowest"][0] < 30 and case["largest"][0] < 500e6, (kind, case)
    assert sum(case.get("read", 0) + case["rejected"] for case in found.values()) >= count


DEEP = "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, '{"P@1": 1%s}' % ("0" * 400), '{"P@1": []}', "\0"])
def test_an_invalid_ceiling_is_one_clear_error(text, tmp_path):
    (tmp_path / "ceiling.json").write_text(text)
    with pytest.raises(InputError, match=r"ceiling\.json is invalid") as error:
        readers.load_ceiling(tmp_path)
    assert "\n" not in str(error.value)


def test_json_nested_too_deeply_is_rejected(tmp_path):
    (tmp_path / "a.json").write_text(DEEP)
    for reader in (load_json, load_sealed):
        with pytest.raises(InputError):
            reader(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n" * 3_000_000 + b"x", "products.jsonl.gz:100001: 100,000 blank lines: remove them"),
        (b"{}\n" * 2_000_000, "10,001 of 10,001 lines are bad"),
        (b'{"uid": "a", "title": "%s"}' % (b"x" * 30_000_000), "unpacks to more than"),
    ],
)
def test_reading_an_archive_of_endless_rows_stops_early(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BLANK", 100_000)
    monkeypatch.setattr(tally, "HOPELESS", 10_000)
    (tmp_path / "products.jsonl.gz").write_bytes(gzip.compress(content, 6))
    with pytest.raises((InputError, TooManyBadRows), match=message):
        read(tmp_path)


def test_a_damaged_byte_inside_an_archive_is_one_clear_error(tmp_path):
    items = "".join(json.dumps({"ASIN": f"A{i}", "title": f"{i * i}"}) + "\n" for i in range(999))
    packed = bytearray(gzip.compress(items.encode()))
    for place in range(20, len(packed) - 8, 499):
        packed[place] ^= 255
        (tmp_path / "products.jsonl.gz").write_bytes(packed)
        packed[place] ^= 255
        # The bit is in the compressed bytes, so the checksum at the end of the archive is wrong.
        with pytest.raises((InputError, TooManyBadRows)) as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("cell", ["nan:1", "1:nan", "1e300:1", "inf:1", "1:1e999", "0.5:1"])
def test_numbers_that_are_not_labels_are_bad_lines(cell, tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    lines = (folder / "trn_X_Y.txt").read_text().splitlines()
    (folder / "trn_X_Y.txt").write_text("\n".join([lines[0], cell, *lines[2:]]))
    noted = Tally(0.05)
    readers.load_catalogue(folder, noted, 15, 10_000_000)
    assert noted.counts == {"bad line": 1}


def test_image_offsets_must_be_a_valid_csr_matrix(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    path = folder / "images" / "train.img.bin.npz"
    good = scipy.sparse.load_npz(path)
    broken = good.tocsc()
    broken.indices[:] = 10**9  # a conversion to CSR would write at these indices
    words = scipy.sparse.coo_matrix(([1.0], ([0], [0])), (10**9, 1))  # 8 GB as CSR
    foreign, half = good.copy(), good.copy()
    foreign.data, half.data = good.data.astype(">f8"), good.data.astype(np.float16)
    for bad in (broken, words, foreign, half, good.astype(complex)):
        scipy.sparse.save_npz(path, bad)
        with pytest.raises(InputError, match=r"train.img.bin.npz is not a CSR matrix") as error:
            read(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("offset", [1e300, 2.5, -3.0, 2.0**60])
def test_image_offsets_must_be_whole_numbers(offset, tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    path = folder / "images" / "train.img.bin.npz"
    offsets = scipy.sparse.load_npz(path).astype(np.float64)
    offsets.data[1] = offset
    scipy.sparse.save_npz(path, offsets)
    with pytest.raises(InputError, match=r"train.img.bin.npz: an offset is .*: expected whole"):
        read(folder)


def test_an_archive_member_with_an_unknown_compression_is_one_clear_error(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    path = folder / "images" / "train.img.bin.npz"
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\1\2", 10), (b"PK\3\4", 8)):
        place = data.index(signature) + at
        data[place : place + 2] = b"\x63\0"  # an encryption that Python does not know
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"train.img.bin.npz is not a CSR matrix"):
        read(folder)


def test_vectors_in_an_archive_are_rejected(tmp_path):
    hostile_files._vectors(tmp_path / "raw")
    with open(tmp_path / "raw" / "trn_embs_imgs_3_4.npy", "wb") as file:
        np.savez(file, a=np.ones((9, 4)))
    with pytest.raises(InputError, match=r"trn_embs_imgs_3_4.npy is not an npy file of vectors"):
        read(tmp_path / "raw")


def write_objects(path: Path, entries: int, pickled: bytes) -> None:
    header = {"descr": "|O", "fortran_order": False, "shape": (entries,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(pickled)


def test_small_files_of_huge_lists_are_rejected_quickly(tmp_path):
    path = tmp_path / "map.npy"
    start = time.process_time()
    inner = [7] * 3000
    entries = np.empty(3000, object)
    entries[:] = [inner] * 3000  # one list, referred to 3,000 times: 9 million integers in 15 kB
    write_objects(path, 3000, pickle.dumps(entries))
    with pytest.raises(InputError, match="more integers than its"):
        read_lists(path)
    # A search through the whole stack for each of many marks would take quadratic time.
    write_objects(path, 1, pickle.PROTO + b"\4" + b"K\1" * 200_000 + b"(t" * 200_000 + b".")
    with pytest.raises(InputError):
        read_lists(path)
    write_objects(path, 1, pickle.dumps(np.array([[1 << 4000], None], object)[:1]))
    with pytest.raises(InputError, match="more than 64 bits"):
        read_lists(path)
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**9, 0)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match="bytes"):
        read_lists(path)
    assert time.process_time() - start < 20


def test_a_long_category_does_not_pad_all_others_to_its_length(tmp_path):
    items = [
        {"ASIN": f"A{i}", "title": "t", "also_buy": ["A1"], "category": "c"} for i in range(40)
    ]
    items[3]["category"] = "x" * 10**6
    write_json_lines(tmp_path, trn=items, tst=items, lbl=items)
    catalogue = read(tmp_path)
    tracemalloc.start()
    save_categories(catalogue, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 20e6  # a NumPy array of strings would take 160 MB
    tracemalloc.stop()


def test_the_time_to_tokenize_grows_linearly_with_the_title():
    start = time.process_time()
    tokenizer = Tokenizer.train(["x" * 10**6, "a chair", "a chair"], 64)
    ids, lengths = tokenizer.encode(["x" * 10**7, "a chair " * 10**6], 8)
    assert ids.shape == (2, 8) and lengths.tolist() == [3, 8]
    assert time.process_time() - start < 5  # quadratic in the length, it would be half an hour


def test_a_tokenizer_without_its_unknown_token_is_rejected(tmp_path):
    hostile_files._tokenizer(tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"unk_token": "[UNK]"', '"unk_token": "[X]"'))
    with pytest.raises(InputError, match="lacks its unk_token"):
        Tokenizer.load(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return prepared_folder(tmp_path_factory.mktemp("prepared"))


def changed(folder: Path, name: str, **arrays: np.ndarray) -> None:
    """Replace arrays in a prepared file, and update the list of files.

    A single number means an array of this number, as long as the array that it replaces.
    """
    with np.load(folder / name, allow_pickle=False) as found:
        kept = dict(found)
    for key, array in arrays.items():
        arrays[key] = np.full(len(kept[key]), array) if array.ndim == 0 else array
    np.savez(folder / name, allow_pickle=False, **(kept | arrays))
    manifest = load_sealed(folder / "manifest.json")
    manifest["files"][name]["bytes"] = (folder / name).stat().st_size
    save_sealed(folder / "manifest.json", manifest)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("train_relevance.npz", {"indices": np.int32(10**6)}, "indices must be < 13"),
        ("train_relevance.npz", {"shape": np.array([26, 14])}, r"shape \(26, 14\)"),
        ("train_items.npz", {"text": np.full(26, 10**6, np.int32)}, "texts of train go from"),
        ("test_items.npz", {"image_rows": np.full(3, -1)}, "offsets do not rise"),
        ("label_items.npz", {"image_offsets": np.arange(14)[::-1]}, "offsets do not rise"),
        ("label_ids.npz", {"offsets": np.arange(3)}, "offsets do not rise"),
        ("test_titles.npz", {"blob": np.zeros(10**9 // 10, np.uint8)}, "offsets do not rise"),
    ],
)
def test_a_prepared_file_with_indices_out_of_range_is_rejected(
    name, arrays, message, small, tmp_path
):
    folder = shutil.copytree(small, tmp_path / "copy")
    Dataset.load(folder)
    changed(folder, name, **arrays)
    with pytest.raises(InputError, match=message) as error:
        Dataset.load(folder)
    assert "\n" not in str(error.value)


def test_a_damaged_record_is_one_clear_error(tmp_path):
    kind = hostile_files.KINDS["prepared records"]
    kind.make(tmp_path / "data")
    dataset = Dataset.load(tmp_path / "data")
    assert dataset.images[np.arange(3)].shape == (3, 8, 8, 3)
    (path,) = (tmp_path / "data" / "records").rglob("*train.array_record*")
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)
    with pytest.raises(InputError, match="prepare it again") as error:
        _ = Dataset.load(tmp_path / "data").images[np.arange(3)]
    assert "\n" not in str(error.value) and not isinstance(error.value, BadImage)


def test_an_invalid_mapped_file_is_one_clear_error(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    cut = (tmp_path / "a.npy").read_bytes()[:-1]
    for content in (b"", b"\x93NUMPY", cut, b"PK\3\4"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy cannot be read"):
            mapped(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**6}, "config.json has more blocks than the"),
        ({"hidden_size": 0}, "width=0; expected at least 1"),
        ({"hidden_size": 24.0}, "config.json: "),
        ({"hidden_size": 10**30}, "at most 16,777,216"),
        ({"intermediate_size": "40"}, "config.json: "),
        ({"image_size": 10**9}, "image_size=1000000000; expected at least 1, at most 2,048"),
    ],
)
def test_impossible_network_sizes_are_rejected(change, message, tmp_path):
    hostile_files.KINDS["vit"].make(tmp_path / "vit")
    config = tmp_path / "vit" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(InputError, match=message) as error:
        load_image_encoder(tmp_path / "vit")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", [DEEP, '{"image_mean": [1%s, 0, 0]}' % ("0" * 400), '{"size": 1000000000}']
)
def test_invalid_preprocessing_is_one_clear_error(text, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(InputError, match=r"preprocessor_config\.json: ") as error:
        image_processing(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_weight_of_the_wrong_shape_is_one_clear_error(tmp_path):
    from safetensors.numpy import load_file, save_file

    hostile_files.KINDS["vit"].make(tmp_path / "vit")
    path = tmp_path / "vit" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("projection.weight"))
    save_file(tensors | {name: tensors[name].reshape(-1)}, path)
    with pytest.raises(InputError, match=r"projection.weight can't be used") as error:
        load_image_encoder(tmp_path / "vit")
    assert "\n" not in str(error.value)
