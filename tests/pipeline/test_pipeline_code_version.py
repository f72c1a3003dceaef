import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorflow_model_analysis.proto import config_pb2
from tfx.utils import proto_utils

from data.fields import COMMON
from data.schema import SAMPLE_SCHEMA
from pipeline import code_version as module
from pipeline.code_version import code_version, source_files
from pipeline.config import load_config
from pipeline.kubeflow.pushed import PushedBaselines
from pipeline.pipeline import Inputs, create_pipeline
from tests.pipeline import loaded_modules

_ROOT = Path(module.__file__).resolve().parents[1]
# Options that enable every component.
_SETTINGS = ("data.on_leak=drop_train", "tuner.enabled=true", "trainer.warm_start=latest")
_JOB = (
    "training_job.workers=2",
    "training_job.image=registry/ssd:1",
    "training_job.volumes=claim:/volume",
)
# Never cached, and on Kubeflow in a module that imports more.
_LOOKED_UP = ("base_model", "latest_blessed_model", "latest_blessed_data")
# Modules that a component starts in another process or container.
_STARTED = {
    "ServingCheck": [
        "serving.server",
        *(f"serving.model_server.{name}" for name in ("rest", "http_server", "grpc_service")),
    ],
    "distributed Trainer": ["trainer.worker", "trainer.run"],
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes files of a project with two rooms, whose code versions are then computed."""
    monkeypatch.setattr(module, "_ROOT", tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("INIT", "__init__")
            path = path.with_name(path.name.replace("_html", ".html"))
            path = path if path.suffix else path.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write(setup="", room__INIT="", room__inner__INIT="", attic__INIT="", room__b="", attic__c="")
    write(room__inner__deep="from attic import c\n", room__entry="", room__apart="", attic__d="")
    return write


def _files(*modules):
    return {str(path.relative_to(module._ROOT)) for path in source_files(*modules)}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import room.b", {"room/b.py"}),
        ("import room.b as x, attic.c", {"room/b.py", "attic/__init__.py", "attic/c.py"}),
        ("from room import b", {"room/b.py"}),
        ("from room.b import a_name", {"room/b.py"}),
        ("from . import b", {"room/b.py"}),
        ("from .b import a_name", {"room/b.py"}),
        ("from attic import *", {"attic/__init__.py"}),
        # Through another module, with all packages on the way.
        (
            "from room.inner.deep import a_name",
            {"room/inner/__init__.py", "room/inner/deep.py", "attic/__init__.py", "attic/c.py"},
        ),
        ("def f():\n    from room import b", {"room/b.py"}),
        ("class A:\n    def f(self):\n        if self:\n            import room.b", {"room/b.py"}),
        ("try:\n    pass\nexcept OSError:\n    import room.b", {"room/b.py"}),
        ("try:\n    pass\nfinally:\n    import room.b", {"room/b.py"}),
        ("if x:\n    pass\nelse:\n    import room.b", {"room/b.py"}),
        ("with x:\n    import room.b", {"room/b.py"}),
        ("match x:\n    case 1:\n        import room.b", {"room/b.py"}),
        ("run([python, '-m', 'room.b', '--x'])", {"room/b.py"}),
        ('run(\n    "-m",\n    "room.b",\n)', {"room/b.py"}),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import room.b", {"room/b.py"}),
        ("if not TYPE_CHECKING:\n    import room.b", {"room/b.py"}),
        # Not loaded:
        ("import json, tensorflow", set()),
        ("x = 'import room.b'", set()),
        ("if TYPE_CHECKING:\n    import room.b", set()),
        ("if typing.TYPE_CHECKING:\n    from room import b", set()),
    ],
)
def test_imports_are_followed_to_files(project, source, found):
    project(room__entry=source)
    assert _files("room.entry") == {"room/__init__.py", "room/entry.py"} | found


@pytest.mark.parametrize("source", ["from room import b", "from .. import b", "from ..b import x"])
def test_imports_of_a_package_are_followed(project, source):
    project(room__inner__INIT=source, room__entry="import room.inner")
    assert "room/b.py" in _files("room.entry")


def test_relative_imports_start_from_the_package(project):
    project(room__inner__INIT="from . import apart", room__inner__apart="from .. import b")
    assert {"room/inner/apart.py", "room/b.py"} <= _files("room.inner")
    assert "room/apart.py" not in _files("room.inner")


def test_modules_may_import_each_other(project):
    project(room__entry="import room.b", room__b="import room.entry")
    assert _files("room.b") == _files("room.entry")


def test_templates_in_a_modules_folder_count(project):
    project(room__inner__page_html="<p>", room__other__page_html="<p>")
    assert "room/inner/page.html" in _files("room.inner.deep")
    assert not [name for name in _files("room.entry") if name.endswith(".html")]
    (module._ROOT / "room" / "inner" / "deep.pyc").touch()
    project(room__entry="import room.inner.deep")
    found = _files("room.entry")
    assert "room/inner/page.html" in found
    assert "room/inner/deep.pyc" not in found
    project(room__entry="import room.inner")
    assert "room/inner/page.html" in _files("room.entry")


def test_an_unknown_module_is_an_error(project):
    with pytest.raises(ModuleNotFoundError, match=r"room\.nothing: no such module"):
        code_version("room.nothing")


def test_only_content_and_names_change_the_version(project):
    project(room__entry="import room.b", room__b="x = 1\n")
    versions = [code_version("room.entry")]
    project(room__apart="y = 1\n", room__notes="z = 1\n")
    assert code_version("room.entry") == versions[0]
    project(room__b="x = 2\n")
    versions.append(code_version("room.entry"))
    project(room__entry="import room.apart")
    versions.append(code_version("room.entry"))
    (module._ROOT / "room" / "apart.py").rename(module._ROOT / "room" / "other.py")
    project(room__entry="import room.other")
    versions.append(code_version("room.entry"))
    assert len(set(versions)) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", version) for version in versions)


def test_renaming_a_template_changes_the_version(project):
    project(room__page_html="<p>")
    version = code_version("room.entry")
    (module._ROOT / "room" / "page.html").rename(module._ROOT / "room" / "other.html")
    assert code_version("room.entry") != version


def test_moving_a_file_boundary_changes_the_version(project):
    project(room__page_html="", room__rest_html="room/rest.html\0<p>")
    version = code_version("room.entry")
    project(room__page_html="room/rest.html\0", room__rest_html="<p>")
    assert code_version("room.entry") != version


def test_a_package_shadows_a_module_of_the_same_name(project):
    project(room__inner="", room__entry="import room.inner")
    assert _files("room.entry") == {"room/__init__.py", "room/entry.py", "room/inner/__init__.py"}


def test_an_edited_module_is_read_again(project):
    project(room__entry="import room.b")
    assert "room/b.py" in _files("room.entry")
    project(room__entry="import attic.c")
    # Even where a clock is too coarse to tell the two apart.
    os.utime(module._ROOT / "room" / "entry.py", (1, 1))
    assert "attic/c.py" in _files("room.entry")


def test_the_version_is_the_same_in_every_folder_and_process(project, tmp_path, monkeypatch):
    project(room__entry="import room.b, room.apart, room.inner.deep")
    files, version = source_files("room.entry"), code_version("room.entry")
    # The order of a set would differ between processes.
    assert files == sorted(files)
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    monkeypatch.setattr(module, "_ROOT", copy)
    assert code_version("room.entry") == version


def test_other_installed_packages_are_not_read(project):
    (module._ROOT / "setup.py").unlink()
    information = module._ROOT / "ssd_tfx-0.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ssd-tfx\nVersion: 0.1\n")
    (information / "top_level.txt").write_text("room\n")
    module._rooms.cache_clear()
    project(room__entry="import room.b, attic.c")
    assert _files("room.entry") == {"room/__init__.py", "room/entry.py", "room/b.py"}


def _components(folder, settings, **options):
    inputs = Inputs(
        records=folder,
        patterns={"train": "train/*", "eval": "eval/*", "test": "test/*"},
        fields=COMMON,
        schema_path=Path(SAMPLE_SCHEMA),
        classes=("star",),
    )
    pipeline = create_pipeline(
        load_config("sample", list(settings)),
        inputs,
        name="ssd",
        root=str(folder),
        serving_dir=str(folder / "serving"),
        work_dir="/volume/unfinished",
        **options,
    )
    return {component.id: component for component in pipeline.components}


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    """Every component that a pipeline can have, with the list of files as its code version."""
    folder = tmp_path_factory.mktemp("components")
    with pytest.MonkeyPatch.context() as patch:
        names = lambda files: json.dumps([str(f.relative_to(_ROOT)) for f in files])  # noqa: E731
        patch.setattr(module, "_digest", names)
        found = _components(folder, (*_SETTINGS, *_JOB))
        found["distributed Trainer"] = found["Trainer"]
        found |= _components(folder, _SETTINGS, baselines=PushedBaselines("/models"))
    return found


def _named_modules(component):
    """The modules that TFX imports for a component, found as TFX finds them."""
    executor = getattr(component.executor_spec, "executor_class", None)
    if executor is None:
        return []
    names = [executor.__module__]
    properties = component.exec_properties
    for key in ("run_fn", "preprocessing_fn", "tuner_fn"):
        if path := properties.get(key):
            names.append(path.rpartition(".")[0])
    if "eval_config" in properties:
        names.append(properties["module_path"])
        config = config_pb2.EvalConfig()
        proto_utils.json_to_proto(properties["eval_config"], config)
        names += [m.module for spec in config.metrics_specs for m in spec.metrics if m.module]
    return names


@pytest.fixture(scope="module")
def loaded(components):
    """The project's files that each component loads when imported in its own process."""
    wanted = {
        name: [*_named_modules(component), *_STARTED.get(name, [])]
        for name, component in components.items()
    }
    process = subprocess.run(
        [sys.executable, "-W", "ignore", loaded_modules.__file__],
        cwd=_ROOT,
        env={"PYTHONPATH": str(_ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        input=json.dumps(wanted),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


@pytest.mark.slow
def test_a_components_key_covers_exactly_the_files_it_loads(components, loaded):
    keyed = {name: component.exec_properties.get("code_version") for name, component in
             components.items()}  # fmt: skip
    assert {name for name, files in keyed.items() if files} == {
        *("ImportExampleGen", "DataGate", "DataVerdict", "DropLeaks", "Transform", "Tuner"),
        *("Trainer", "distributed Trainer", "Evaluator", "ModelCard", "ServingCheck", "Pusher"),
        *("DetectionReport", *_LOOKED_UP),
    }
    for name, files in loaded.items():
        python = {file for file in json.loads(keyed[name] or "[]") if file.endswith(".py")}
        assert set(files) <= python, name
        if name not in _LOOKED_UP:
            assert python <= set(files), name


def test_templates_are_in_the_keys_of_the_components_that_use_them(components):
    for name, templates in (
        ("ModelCard", {"model_card/model_card.html", "model_card/model_card.md"}),
        ("DetectionReport", {f"detection_report/{n}" for n in (
            "report.html", "macros.html", "report.css", "report.js")}),
    ):  # fmt: skip
        keyed = set(json.loads(components[name].exec_properties["code_version"]))
        assert {f"components/{template}" for template in templates} <= keyed


def test_the_training_is_recorded_with_its_own_code(components):
    for name in ("Trainer", "distributed Trainer", "Tuner"):
        custom = json.loads(components[name].exec_properties["custom_config"])
        assert "trainer/run.py" in json.loads(custom["code_version"])
        assert "trainer/worker.py" not in json.loads(custom["code_version"])


def test_reporting_settings_are_not_in_the_key(tmp_path):
    first, other = (
        _components(tmp_path, [*_SETTINGS, *settings])
        for settings in (
            (),
            ("trainer.log_every=7", "trainer.checkpoint_every=7", "trainer.keep_checkpoints=7"),
        )
    )
    for name, component in first.items():
        assert component.exec_properties == other[name].exec_properties, name
    evaluating = _components(tmp_path, [*_SETTINGS, "trainer.eval_every=7"])
    properties = first["Trainer"].exec_properties
    assert evaluating["Trainer"].exec_properties != properties
