import unicodedata

import pytest

from data.picture_files import find_file, find_voc_picture, same_stem


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("a.jpg", "A.JPG"),
        # As in archives made on macOS.
        (unicodedata.normalize("NFC", "für.jpg"), unicodedata.normalize("NFD", "für.jpg")),
        (unicodedata.normalize("NFD", "für.jpg"), unicodedata.normalize("NFC", "für.jpg")),
        # As Label Studio writes spaces.
        ("my%20dog.jpg", "my dog.jpg"),
        ("50%.jpg", "50%.JPG"),
    ],
)
def test_file_names_in_another_spelling(tmp_path, written, there):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / there).write_bytes(b"")
    assert find_file(tmp_path, f"sub/{written}") == tmp_path / "sub" / there


def test_folders_in_another_spelling(tmp_path):
    folder = tmp_path / unicodedata.normalize("NFD", "Tür") / "Sub"
    folder.mkdir(parents=True)
    (folder / "a.JPG").write_bytes(b"")
    assert find_file(tmp_path, unicodedata.normalize("NFC", "tür/sub/a.jpg")) == folder / "a.JPG"


def test_unsupported_formats_are_found(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(b"")
    assert find_voc_picture(tmp_path, "a", "") == tmp_path / "a.HEIC"


def test_the_exact_name_comes_first(tmp_path):
    for name in ("a b.jpg", "a%20b.jpg", "A%20B.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert find_file(tmp_path, "a%20b.jpg") == tmp_path / "a%20b.jpg"
    assert find_file(tmp_path, "b.jpg") is None


def test_another_extension(tmp_path):
    (tmp_path / "a.PNG").write_bytes(b"")
    assert same_stem(tmp_path, "a.jpg") == "a.PNG"
    assert find_voc_picture(tmp_path, "b", "C:\\photos\\a.jpg") == tmp_path / "a.PNG"
