"""Commands in the documentation, as a reader would type them."""

import argparse
import json
import re
import shlex
from pathlib import Path

import kubernetes_validate
import pytest

import kubeflow_runner
import local_runner
import ssd
from data import convert
from pipeline import evaluate
from pipeline.arguments import add_config_arguments
from serving import server_status, versions
from serving.rollout import promote, rollback

_ROOT = Path(__file__).parents[2]
_FOLDERS = "serving|pipeline|components|metrics|trainer|data|docs|tests|benchmarks|docker"
_PAGES = (*sorted(_ROOT.glob("*.md")), *sorted((_ROOT / "docs").glob("*.md")))


def _commands(start: str) -> list:
    """The lines in code blocks that begin with `start`, each as the words after it."""
    found = []
    for page in _PAGES:
        for block in re.findall(r"^ *```\n(.*?)^ *```", page.read_text("utf-8"), re.M | re.S):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                if line.strip().startswith(f"{start} "):
                    words = shlex.split(line, comments=True)[len(start.split()) :]
                    found.append(pytest.param(words, id=f"{page.stem}-{len(found)}"))
    assert found
    return found


_COMPILED = _commands("ssd compile")
_LOCAL = _commands("ssd run")


def _run_parser() -> argparse.ArgumentParser:
    parser = local_runner._parser()
    add_config_arguments(parser, "")  # as local_runner.main does
    return parser


@pytest.mark.parametrize("words", _COMPILED)
def test_documented_pipelines_compile(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kubeflow_runner.main(["compile", *words]) == 0
    (written,) = tmp_path.iterdir()
    assert written.name in words


@pytest.mark.parametrize(
    ("parser", "words"),
    [
        *((kubeflow_runner._parser, ["compile", *p.values[0]]) for p in _COMPILED),
        *((kubeflow_runner._parser, ["submit", *p.values[0]]) for p in _commands("ssd submit")),
        *((_run_parser, p.values[0]) for p in _LOCAL),
        *((convert._parser, p.values[0]) for p in _commands("ssd convert")),
        *((evaluate._parser, p.values[0]) for p in _commands("ssd evaluate")),
    ],
)
def test_documented_options_exist(parser, words):
    parser().parse_args(words)


def test_docs_use_the_ssd_command():
    """Only docs/commands.md mentions their modules."""
    named = {name for name, *_ in ssd.COMMANDS}
    modules = {target.partition(":")[0].removesuffix(".__main__") for _, target, *_ in ssd.COMMANDS}
    # Pods run it as a module.
    modules -= {"trainer.worker"}
    for page in _PAGES:
        text = page.read_text("utf-8")
        used = set(re.findall(r"^ *ssd ([a-z][a-z-]*)", text, re.M))
        used |= set(re.findall(r"`ssd ([a-z][a-z-]*)", text))
        assert used <= named, page.name
        if page.name != "commands.md":
            lines = set(re.findall(r"^ *python (?:-m )?([\w.]+?)(?:\.py)?(?: |$)", text, re.M))
            assert not modules & lines, page.name


@pytest.mark.parametrize("words", [*_LOCAL, *_COMPILED])
def test_documented_warm_starts_have_weights_for_the_first_run(words):
    if "trainer.warm_start=latest" in words:
        assert "trainer.backbone_weights=imagenet" in words


@pytest.mark.parametrize("words", _commands("ssd versions"))
def test_documented_version_commands_work_on_the_shipped_configuration(
    words, tmp_path, monkeypatch, capsys
):
    """A canary needs a stable version, as the text says. The server has loaded all versions."""
    monkeypatch.setattr(
        server_status,
        "_states",
        lambda url, model: dict.fromkeys((1795000000, 1795417578, 1795500000), ("AVAILABLE", "")),
    )
    monkeypatch.setattr(server_status, "_ASK_EVERY_S", 0.0)
    for number in (1795000000, 1795417578, 1795500000):
        folder = tmp_path / words[0] / str(number)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").touch()
    config = tmp_path / "models.config"
    shipped = _ROOT / "serving" / "tensorflow_serving" / "models.config"
    config.write_text(shipped.read_text())
    base = str(tmp_path / words[0])
    if "canary" in words:
        rollback(Path(base), config, "ssd", "stable", lambda *_: True)
    if words[1:4] == ["rollback", "--label", "canary"]:
        promote(Path(base), config, "ssd", 1795500000, "canary", lambda *_: True)
    words = [str(config) if word.endswith("models.config") else word for word in words]
    monkeypatch.setattr("sys.argv", ["versions", base, *words[1:]])
    assert versions.main() == 0, capsys.readouterr().err


def test_the_documented_pod_is_valid():
    text = (_ROOT / "docs" / "delivery.md").read_text("utf-8")
    (overrides,) = re.findall(r"--overrides '(.*?)'", text, re.S)
    spec = json.loads(overrides)["spec"]

    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "models"}, "spec": spec}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    (volume,) = spec["volumes"]
    deployment = (_ROOT / "serving" / "kubernetes" / "deployment.yaml").read_text()
    assert f"claimName: {volume['persistentVolumeClaim']['claimName']}," in deployment


def test_files_and_links_in_the_docs_exist():
    for page in _PAGES:
        text = page.read_text("utf-8")
        for name in re.findall(rf"(?<![\w/])((?:{_FOLDERS})/[\w/.-]*[\w/])", text):
            # ROOM and NAME are placeholders.
            if not re.search("ROOM|NAME", name):
                assert (_ROOT / name).exists(), f"{page.name}: {name}"
        for target in re.findall(r"\]\(((?!http)[^)]*)\)", text):
            path, _, section = target.partition("#")
            other = page.parent / path if path else page
            assert other.exists(), f"{page.name}: {target}"
            if section:
                headings = re.findall(r"^#+ (.*)", other.read_text("utf-8"), re.M)
                slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                assert section in slugs, f"{page.name}: {target}"
