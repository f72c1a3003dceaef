import pytest

from pipeline import code_version as module
from pipeline.code_version import code_version


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A project of one package and one file."""
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "package" / "a.py").write_text("a = 1\n")
    (tmp_path / "package" / "inner" / "b.py").write_text("b = 1\n")
    (tmp_path / "alone.py").write_text("c = 1\n")
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    return tmp_path


def test_the_same_source_has_the_same_version(source):
    version = code_version("package", "alone.py")
    assert version == code_version("package", "alone.py")
    (source / "package" / "notes.txt").write_text("not source")
    (source / "elsewhere.py").write_text("d = 1\n")
    assert version == code_version("package", "alone.py")
    assert len(version) == 16


@pytest.mark.parametrize("path", ["package/a.py", "package/inner/b.py", "alone.py"])
def test_content_matters(source, path):
    version = code_version("package", "alone.py")
    (source / path).write_text("changed = True\n")
    assert version != code_version("package", "alone.py")


def test_names_matter(source):
    version = code_version("package", "alone.py")
    (source / "package" / "a.py").rename(source / "package" / "z.py")
    assert version != code_version("package", "alone.py")


def test_added_and_removed_files_matter(source):
    versions = [code_version("package")]
    (source / "package" / "new.py").write_text("")
    versions.append(code_version("package"))
    (source / "package" / "a.py").unlink()
    versions.append(code_version("package"))
    assert len(set(versions)) == 3


def test_of_the_project_itself():
    assert code_version("trainer") != code_version("data")
